"""One redis-py client per master of a store, found by slot, for administration.

Not redis-py's cluster client: that one needs its default node to be alive for any command at all, and refuses scripts
in pipelines. A single store is a cluster of one master here. Decisions take another way (`store.wire`).
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

from redis.asyncio import Redis
from redis.crc import key_slot
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError

from limiter_node.errors import StoreUnavailable
from limiter_node.store.keyspace import SLOTS
from limiter_node.store.slots import Endpoint, slot_ranges
from limiter_node.store.url import StoreAddress


class Masters:
    """The masters of one store. Methods raise redis-py's errors; see `limiter_node.store.errors`."""

    def __init__(self, address: StoreAddress) -> None:
        self._address = address
        self._clients: dict[Endpoint, Redis] = {}
        self._ranges: list[tuple[int, int, Endpoint]] = []

    async def discover(self) -> None:
        """Ask the address's endpoints in order who owns which slots; the first reply counts."""
        if not self._address.cluster:
            self._ranges = [(0, SLOTS - 1, self._address.endpoints[0])]
            return
        failure: RedisError | OSError | None = None
        for endpoint in self._address.endpoints:
            try:
                reply: Any = await self._client(endpoint).execute_command("CLUSTER SLOTS")  # type: ignore[no-untyped-call]
            except (RedisConnectionError, OSError) as error:
                failure = error
                continue
            self._ranges = [(each.first, each.last, each.master) for each in slot_ranges(reply, endpoint[0])]
            return
        assert failure is not None
        raise failure

    def owner(self, key: str) -> Redis:
        """Return the client of the master that owns the key's slot. Raises StoreUnavailable if nobody does."""
        slot = key_slot(key.encode())
        for first, last, endpoint in self._ranges:
            if first <= slot <= last:
                return self._client(endpoint)
        raise StoreUnavailable(f"{self._address.describe()}: no server owns slot {slot}: look at CLUSTER SLOTS there")

    def by_owner(self, items: Iterable[str], key_of: Callable[[str], str]) -> dict[Redis, list[str]]:
        """Return the items by the client of the master that owns the key of each."""
        found: dict[Redis, list[str]] = defaultdict(list)
        for each in items:
            found[self.owner(key_of(each))].append(each)
        return found

    def all(self) -> list[Redis]:
        """Return each master once, in the order of their slots."""
        return [self._client(endpoint) for endpoint in dict.fromkeys(endpoint for _, _, endpoint in self._ranges)]

    @property
    def uncovered_slots(self) -> int:
        """The number of slots that nobody owns."""
        return SLOTS - sum(last - first + 1 for first, last, _ in self._ranges)

    async def close(self) -> None:
        """Close all connections."""
        await asyncio.gather(*(client.aclose() for client in self._clients.values()))
        self._clients.clear()

    def _client(self, endpoint: Endpoint) -> Redis:
        if endpoint not in self._clients:
            self._clients[endpoint] = self._address.node_client(*endpoint)
        return self._clients[endpoint]
