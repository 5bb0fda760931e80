"""Administration of the store: puts, reads, lists and deletes limits, reads usage, and checks the store itself.

Everything here is idempotent and off the hot path. A key's limits are one value, so the next decision sees either the
old ones or the new ones, and the window's history stays. Neighbours: `masters` finds a key's owner, `server_check`
checks each server; the commands and the node's start call this.
"""

from __future__ import annotations

import asyncio
import heapq
import re
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any, NamedTuple, TypeVar

from redis.asyncio import Redis
from redis.exceptions import (
    AskError,
    AuthenticationError,
    ClusterDownError,
    NoPermissionError,
    NoScriptError,
    ReadOnlyError,
    ResponseError,
)
from redis.exceptions import ConnectionError as RedisConnectionError

from limiter_node.decisions import Usage
from limiter_node.errors import ConfigError, OtherFormat, StoreUnavailable
from limiter_node.limits import WINDOW_BUCKETS, KeyLimits
from limiter_node.store import keyspace
from limiter_node.store.admin.masters import Masters
from limiter_node.store.admin.server_check import check_server
from limiter_node.store.errors import translated
from limiter_node.store.fleet import OLDEST_MS
from limiter_node.store.keyspace import META_FIELD
from limiter_node.store.scripts import Script, load_script
from limiter_node.store.url import StoreAddress
from limiter_node.store.values import pack_limits, unpack_limits, unpack_usage

_CHUNK = 500
_DELETED_S = 30 * 86_400
_LIMITS_KEY = re.compile(rb"rl:\{([0-9a-f]{32})\}:limits\Z")

_T = TypeVar("_T")


class Listing(NamedTuple):
    """The first keys by name (then by ``kid``), and how many there are in all."""

    entries: list[tuple[str, KeyLimits]]
    total: int


@asynccontextmanager
async def administering(address: StoreAddress) -> AsyncIterator[StoreAdmin]:
    """Connect to a store for administration. Raises ConfigError or StoreUnavailable, as all methods do."""
    address.ssl_context()  # reports unreadable files before redis-py stumbles over them
    masters = Masters(address)
    try:
        with translated(address):
            await masters.discover()
        yield StoreAdmin(address, masters)
    finally:
        await masters.close()


class StoreAdmin:
    """Administer one store; `administering` makes it. ``kid`` is as in `limiter_node.store.keyspace`."""

    def __init__(self, address: StoreAddress, masters: Masters) -> None:
        self._address = address
        self._masters = masters
        self._peek = load_script("peek")
        self._announce = load_script("announce")

    async def put_limits(self, kid: str, limits: KeyLimits) -> None:
        """Replace a key's limits, all at once; they count from the next decision of every node."""
        await self._on_owner(kid, lambda client: _put(client, kid, limits))

    async def load_limits(self, keys: Mapping[str, KeyLimits]) -> None:
        """Replace the limits of many keys, in pipelines per master. Keys that are not named stay as they are."""

        async def load(client: Redis, kids: list[str]) -> None:
            for start in range(0, len(kids), _CHUNK):
                async with client.pipeline(transaction=False) as pipeline:
                    for kid in kids[start : start + _CHUNK]:
                        pipeline.set(keyspace.limits_key(kid), pack_limits(keys[kid]))
                        pipeline.delete(keyspace.deleted_key(kid))
                    await pipeline.execute()

        async def load_all() -> None:
            by_owner: dict[Redis, list[str]] = defaultdict(list)
            for kid in keys:
                by_owner[self._masters.owner(keyspace.limits_key(kid))].append(kid)
            await asyncio.gather(*(load(client, kids) for client, kids in by_owner.items()))

        await self._with_fresh_owners(load_all)

    async def get(self, kid: str) -> KeyLimits | None:
        """Return a key's limits; None if there is no such key."""
        [value] = await self._on_owner(kid, lambda client: _get_all(client, [kid]))
        return self._limits(kid, value)

    async def delete(self, kid: str) -> bool:
        """Delete a key and its usage. Return whether it existed. Nodes refuse the key from the next decision on.

        Two things stay for a while: a mark of the deletion, so that nodes don't declare the key again, and the nodes'
        records, without which they would take the usage for lost and count it again if the key came back.
        """

        async def delete(client: Redis) -> bool:
            async with client.pipeline(transaction=True) as pipeline:
                pipeline.delete(keyspace.limits_key(kid))
                pipeline.delete(keyspace.past_key(kid))
                pipeline.hdel(keyspace.window_key(kid), META_FIELD)
                pipeline.set(keyspace.deleted_key(kid), b"", ex=_DELETED_S)
                existed, *_ = await pipeline.execute()
                return bool(existed)

        return await self._on_owner(kid, delete)

    async def list_keys(self, limit: int = 1_000) -> Listing:
        """Return the first `limit` keys by name; memory grows with `limit`, and a few bytes for each further key."""
        seen: set[bytes] = set()
        kept: list[tuple[str, KeyLimits]] = []
        with translated(self._address):
            for client in self._masters.all():
                async for kids in _scan(client, seen):
                    for kid, value in zip(kids, await _get_all(client, kids), strict=True):
                        if (limits := self._limits(kid, value)) is not None:
                            kept.append((kid, limits))
                    kept = heapq.nsmallest(limit, kept, key=lambda entry: (entry[1].name, entry[0]))
        return Listing(kept, len(seen))

    async def peek(self, kid: str, window_buckets: int = WINDOW_BUCKETS) -> Usage | None:
        """Return a key's limits and usage now, without counting anything; None if there is no such key."""
        keys = (keyspace.limits_key(kid), keyspace.window_key(kid), keyspace.past_key(kid))

        async def peek(client: Redis) -> Any:
            return await _run_script(client, self._peek, keys, (window_buckets, 0))

        return unpack_usage(await self._on_owner(kid, peek), window_buckets)

    async def check_format(self) -> None:
        """Raise OtherFormat if live nodes use another storage format than this version.

        A login without the right to ask passes: nodes find out when they announce themselves.
        """
        keys = (keyspace.NODES_KEY, keyspace.FORMAT_KEY)
        arguments = ("", 2, OLDEST_MS, keyspace.STORAGE_FORMAT)

        async def ask() -> Any:
            with suppress(NoPermissionError):
                return await _run_script(self._masters.owner(keys[0]), self._announce, keys, arguments)

        reply = await self._with_fresh_owners(ask)
        if isinstance(reply, bytes):
            raise OtherFormat(reply, keyspace.STORAGE_FORMAT)

    async def check_store(self) -> list[str]:
        """Check that the store can be trusted with counters; return warnings for what could not be found out.

        Raises:
            ConfigError: the store is too old, a replica, a cluster although its URL says single (or the reverse), or
                may evict keys: eviction drops counters, so that more than the limit would be admitted silently.
            StoreUnavailable: a part of the store is down, or a failover is under way.
            OtherFormat: live nodes use another storage format.
        """
        if uncovered := self._masters.uncovered_slots:
            raise StoreUnavailable(
                f"{self._address.describe()}: {uncovered} of its slots have no server: look at CLUSTER SLOTS there"
            )
        with translated(self._address):
            found = await asyncio.gather(*(check_server(self._address, client) for client in self._masters.all()))
        await self.check_format()
        return list(dict.fromkeys(warning for warnings in found for warning in warnings))

    async def _on_owner(self, kid: str, command: Callable[[Redis], Awaitable[_T]]) -> _T:
        return await self._with_fresh_owners(lambda: command(self._masters.owner(keyspace.limits_key(kid))))

    async def _with_fresh_owners(self, action: Callable[[], Awaitable[_T]]) -> _T:
        with translated(self._address):
            try:
                return await action()
            except AuthenticationError:  # to redis-py a ConnectionError
                raise
            except (AskError, ClusterDownError, ReadOnlyError, RedisConnectionError, StoreUnavailable):
                # A slot has moved (MOVED is an AskError to redis-py) or a master was replaced. Actions are idempotent.
                await self._masters.discover()
                return await action()

    def _limits(self, kid: str, value: bytes | ResponseError | None) -> KeyLimits | None:
        if value is None:
            return None
        if isinstance(value, bytes):
            with suppress(ValueError):
                return unpack_limits(value)
        raise ConfigError(
            f"{keyspace.limits_key(kid)} in {self._address.describe()} is damaged: set the key's limits again"
        )


async def _run_script(client: Redis, script: Script, keys: Sequence[str], arguments: Sequence[str | int]) -> Any:
    words = (len(keys), *keys, *arguments)
    try:
        return await client.execute_command("EVALSHA", script.sha, *words)  # type: ignore[no-untyped-call]
    except NoScriptError:
        return await client.execute_command("EVAL", script.source, *words)  # type: ignore[no-untyped-call]


async def _put(client: Redis, kid: str, limits: KeyLimits) -> None:
    async with client.pipeline(transaction=False) as pipeline:
        pipeline.set(keyspace.limits_key(kid), pack_limits(limits))
        pipeline.delete(keyspace.deleted_key(kid))
        await pipeline.execute()


async def _get_all(client: Redis, kids: Sequence[str]) -> list[bytes | ResponseError | None]:
    """Return the stored limits of keys of one master; None for a key that isn't there, an error for another type."""
    async with client.pipeline(transaction=False) as pipeline:
        for kid in kids:
            pipeline.get(keyspace.limits_key(kid))
        values: list[Any] = await pipeline.execute(raise_on_error=False)
    for value in values:
        if isinstance(value, Exception) and not str(value).startswith("WRONGTYPE"):
            raise value
    return values


async def _scan(client: Redis, seen: set[bytes]) -> AsyncIterator[list[str]]:
    # SCAN may name a key twice; and during a resharding two masters may name it.
    cursor = 0
    while True:
        cursor, keys = await client.scan(cursor, match=keyspace.limits_key("*"), count=1_000)
        kids = []
        for key in keys:
            assert isinstance(key, bytes)
            match = _LIMITS_KEY.match(key)
            if match and (raw := bytes.fromhex(match[1].decode())) not in seen:
                seen.add(raw)
                kids.append(match[1].decode())
        if kids:
            yield kids
        if cursor == 0:
            return
