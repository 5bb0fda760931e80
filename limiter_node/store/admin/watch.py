"""Reads a store at work: its shards, their servers' own figures, and what is nearest to its limits.

Meant to be called once a second, also while parts of the store are away: nothing here raises for that or waits longer
than the time given, and a server that comes back is found again. Neighbours: `hottest` (the walk through a shard's
keys), `limiter_node.top` (the caller).
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from time import monotonic
from typing import Any

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import NoPermissionError, RedisError

from limiter_node.addresses import format_host
from limiter_node.errors import StoreUnavailable
from limiter_node.reasons import system_reason
from limiter_node.store.admin.heat import hottest
from limiter_node.store.admin.hottest import NOT_WALKED, Hottest, HottestKeys, Walk
from limiter_node.store.admin.limit_heat import LimitHeat
from limiter_node.store.admin.plain_heat import KeyHeat
from limiter_node.store.errors import translate
from limiter_node.store.slots import Endpoint, slot_ranges
from limiter_node.store.url import StoreAddress


@dataclass(frozen=True, slots=True)
class ShardReading:
    """The figures of a shard's master; None where there are none (INFO isn't permitted, or the master is away)."""

    address: str
    """``host:port``, as in the metrics of the nodes."""
    at_s: float
    """The time of the reading, by this process's monotonic clock."""
    problem: str = ""
    """Why the master could not be asked; empty if it could."""
    replicas: int | None = None
    ops_per_s: int | None = None
    """Commands, those within scripts included."""
    memory_bytes: int | None = None
    keys: int | None = None
    """All keys of the server, of any kind."""
    cpu_s: float | None = None
    """CPU time of the server's main thread since its start."""


@dataclass(frozen=True, slots=True)
class StoreReading:
    """The figures of a store at one moment."""

    shards: tuple[ShardReading, ...]
    name: str = ""
    """The store's URL without its secrets."""
    is_cluster: bool = False
    problem: str = ""
    """Why the shards could not be found; empty if they were."""
    hottest: tuple[KeyHeat | LimitHeat, ...] = ()
    """The keys nearest to their limits."""
    tightest: tuple[LimitHeat, ...] = ()
    """The accounts and teams nearest to their limits."""
    walk: Walk = NOT_WALKED
    """The walk over all reachable shards: the keys seen in all of them, the share of the least advanced one."""


class StoreWatch:
    """Read the figures of the store at `address`, and its `most_keys` hottest keys, accounts and teams. Close it."""

    def __init__(self, address: StoreAddress, *, most_keys: int, timeout_s: float) -> None:
        self._address, self._most_keys, self._timeout_s = address, most_keys, timeout_s
        self._clients: dict[Endpoint, Redis] = {}
        self._surveys: dict[Endpoint, HottestKeys] = {}
        self._masters: tuple[Endpoint, ...] = ()

    async def look(self) -> StoreReading:
        """Return the store's figures now. Takes twice `timeout_s` at most; doesn't raise for servers that are away."""
        problem = await self._discover()
        looks = await asyncio.gather(*(self._look_at(endpoint) for endpoint in self._masters))
        walks = [self._surveys[endpoint].walk for endpoint in self._masters if endpoint in self._surveys]
        return StoreReading(
            tuple(reading for reading, _ in looks),
            self._address.describe(),
            self._address.cluster,
            problem,
            tuple(hottest([heat for _, found in looks for heat in found.keys], self._most_keys)),
            tuple(hottest([heat for _, found in looks for heat in found.accounts], self._most_keys)),
            Walk(
                sum(walk.seen for walk in walks),
                min((walk.share for walk in walks), default=0.0),
                bool(walks) and all(walk.is_whole for walk in walks),
                sum(walk.accounts for walk in walks),
            ),
        )

    async def close(self) -> None:
        """Close all connections."""
        await asyncio.gather(*(client.aclose() for client in self._clients.values()))
        self._clients.clear()

    async def _discover(self) -> str:
        """Find the masters again, which may have changed. Return why that failed, "" if it didn't.

        A known master is asked first, then all known servers at once: one that is gone must not hold this up.
        """
        if not self._address.cluster:
            self._masters = self._address.endpoints
            return ""
        problem = ""
        for endpoints in (self._masters[:1], tuple(dict.fromkeys((*self._masters[1:], *self._address.endpoints)))):
            answers = [asyncio.create_task(self._masters_by(endpoint)) for endpoint in endpoints]
            try:
                for answer in asyncio.as_completed(answers):
                    found, problem = await answer
                    if found:
                        # Next time, ask first the server that replied.
                        self._masters = found
                        await self._forget_others()
                        return ""
            finally:
                for task in answers:
                    task.cancel()
                await asyncio.gather(*answers, return_exceptions=True)
        return problem

    async def _masters_by(self, endpoint: Endpoint) -> tuple[tuple[Endpoint, ...], str]:
        try:
            async with asyncio.timeout(self._timeout_s):
                reply: Any = await self._client(endpoint).execute_command("CLUSTER SLOTS")  # type: ignore[no-untyped-call]
            ranges = slot_ranges(reply, endpoint[0])
        except (RedisError, OSError, TimeoutError) as error:
            return (), self._reason(error)
        masters = tuple(dict.fromkeys(each.master for each in ranges))
        return masters, "" if masters else "its cluster has no slots yet"

    async def _forget_others(self) -> None:
        known = {*self._masters, *self._address.endpoints}
        for endpoint in [each for each in self._clients if each not in known]:
            await self._clients.pop(endpoint).aclose()
        self._surveys = {each: survey for each, survey in self._surveys.items() if each in self._masters}

    async def _look_at(self, endpoint: Endpoint) -> tuple[ShardReading, Hottest]:
        reading = ShardReading(f"{format_host(endpoint[0])}:{endpoint[1]}", monotonic())
        client = self._client(endpoint)
        found = Hottest([], [])
        try:
            async with asyncio.timeout(self._timeout_s):
                reading = await _with_info(reading, client, in_cluster=self._address.cluster)
                if self._most_keys:
                    survey = self._surveys.setdefault(endpoint, HottestKeys(self._most_keys))
                    found = await survey.look(client)
        except (RedisError, OSError, TimeoutError, StoreUnavailable) as error:
            reading = replace(reading, problem=self._reason(error))
        return reading, found

    def _client(self, endpoint: Endpoint) -> Redis:
        if endpoint not in self._clients:
            client = self._address.node_client(*endpoint)
            # Once, because a kept connection may have ended with a server's restart; then the next look is the retry.
            client.set_retry(Retry(NoBackoff(), 1))
            self._clients[endpoint] = client
        return self._clients[endpoint]

    def _reason(self, error: BaseException) -> str:
        """Return a short reason, for a table that shows the server's address beside it."""
        if isinstance(error, StoreUnavailable):
            return str(error)
        if isinstance(error, TimeoutError):
            return f"no answer within {self._timeout_s:g} s"
        return system_reason(error) or str(translate(error, self._address))


async def _with_info(reading: ShardReading, client: Redis, *, in_cluster: bool) -> ShardReading:
    try:
        info: dict[str, Any] = await client.info("replication", "stats", "memory", "cpu", "keyspace", "cluster")
    except NoPermissionError:
        await client.ping()
        return reading
    if info.get("role") == "slave":
        raise StoreUnavailable("is a replica: give its primary in --store")
    if info.get("cluster_enabled") and not in_cluster:
        raise StoreUnavailable("is part of a cluster: use redis+cluster:// in --store")
    cpu = [info[name] for name in ("used_cpu_user_main_thread", "used_cpu_sys_main_thread") if name in info]
    return replace(
        reading,
        replicas=info.get("connected_slaves"),
        ops_per_s=info.get("instantaneous_ops_per_sec"),
        memory_bytes=info.get("used_memory"),
        keys=sum(each["keys"] for name, each in info.items() if name.startswith("db") and isinstance(each, dict)),
        cpu_s=sum(cpu) if len(cpu) == 2 else None,
    )
