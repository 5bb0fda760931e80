"""Asks a cluster's servers who owns which slots, for as long as a node runs.

One server is asked at a time: many nodes that ask at once must not become a storm. The order is random, so that nodes
spread, but servers that failed last time come last. The endpoints of the address are always among those that can be
asked: a name must lead to the cluster after all of it has moved, too. Neighbours: `slots` (the meaning of the replies),
`topology` (which asks).
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from typing import Any

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from limiter_node.errors import StoreUnavailable
from limiter_node.store.errors import translate
from limiter_node.store.keyspace import SLOTS
from limiter_node.store.slots import Endpoint, SlotRange, slot_ranges
from limiter_node.store.url import StoreAddress

_REPLY_S = 1.0
"""The time limit of one server. The caller waits for two of them: one that hangs must not hide the others."""


class Discovery:
    """Ask the servers of one cluster who owns its slots. Close it."""

    def __init__(self, address: StoreAddress) -> None:
        self._address = address
        self._clients: dict[Endpoint, Redis] = {}
        self._known: tuple[Endpoint, ...] = ()
        self._failed: set[Endpoint] = set()

    async def ranges(self) -> Sequence[SlotRange]:
        """Return the slots and their servers, as one server reports them; others fill in the slots that it leaves out.

        Raises StoreUnavailable or ConfigError if no server reports any slot.
        """
        failure: Exception | None = None
        found: list[SlotRange] = []
        for endpoint in self._order():
            try:
                ranges = await self._ask(endpoint)
            except (RedisError, OSError, TimeoutError) as error:
                self._failed.add(endpoint)
                failure = error
                continue
            self._failed.discard(endpoint)
            found += ranges
            if _covered(found) == SLOTS:
                break
        if found:
            await self._remember(found)
            return found
        if failure is not None:
            raise translate(failure, self._address)
        raise StoreUnavailable("the cluster has no slots yet")

    async def close(self) -> None:
        """Close all connections."""
        await asyncio.gather(*(client.aclose() for client in self._clients.values()))
        self._clients.clear()

    def _order(self) -> list[Endpoint]:
        known = list(self._known)
        random.shuffle(known)
        seeds = [each for each in self._address.endpoints if each not in self._known]
        return sorted([*known, *seeds], key=lambda each: each in self._failed)

    async def _ask(self, endpoint: Endpoint) -> list[SlotRange]:
        client = self._clients.get(endpoint)
        if client is None:
            client = self._clients[endpoint] = self._address.node_client(*endpoint)
            client.set_retry(Retry(NoBackoff(), 1))  # once: a kept connection may have ended with a server's restart
        async with asyncio.timeout(_REPLY_S):
            reply: Any = await client.execute_command("CLUSTER SLOTS")  # type: ignore[no-untyped-call]
        return slot_ranges(reply, endpoint[0])

    async def _remember(self, found: Sequence[SlotRange]) -> None:
        self._known = tuple(dict.fromkeys(server for each in found for server in (each.master, *each.replicas)))
        kept = {*self._known, *self._address.endpoints}
        self._failed &= kept
        for endpoint in [each for each in self._clients if each not in kept]:
            await self._clients.pop(endpoint).aclose()


def _covered(ranges: Sequence[SlotRange]) -> int:
    """Return how many slots are in at least one of `ranges`. O(n log n) in their number."""
    covered = beyond = 0
    for each in sorted(ranges):
        covered += max(0, each.last + 1 - max(each.first, beyond))
        beyond = max(beyond, each.last + 1)
    return covered
