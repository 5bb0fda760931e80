"""Reads keys from the store: their limits, their usage, and the list of all of them. Writes nothing."""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from typing import NamedTuple

from redis.asyncio import Redis

from limiter_node.decisions import Usage
from limiter_node.declarations import AccountKey
from limiter_node.errors import DamagedValue
from limiter_node.limits import KeyLimits
from limiter_node.plans import who
from limiter_node.store import keyspace
from limiter_node.store.admin.masters import Masters
from limiter_node.store.admin.path_usage import read_path_usage, with_buckets
from limiter_node.store.admin.pointers import Pointer, Way, limits_of
from limiter_node.store.admin.policies import Policies, StoredAccount
from limiter_node.store.admin.script_calls import CHUNK, ScriptCall, call_script
from limiter_node.store.admin.search import scan_pointers
from limiter_node.store.scripts import load_script
from limiter_node.store.url import StoreAddress
from limiter_node.store.values import unpack_limits, unpack_usage


class Listing(NamedTuple):
    """The first keys by name (then by ``kid``), and how many there are in all.

    `damaged`: the keys whose values can't be read, which are not counted.
    """

    entries: list[tuple[str, KeyLimits | AccountKey]]
    total: int
    damaged: list[str]


def name_of(limits: KeyLimits | AccountKey) -> str:
    """Return the name by which people know a key, such as ``acme/alice``; it may be empty for a plain key."""
    return limits.name if isinstance(limits, KeyLimits) else who(limits.account, limits.key)


class KeyReader:
    """Read keys of one store. Methods raise redis-py's errors, and DamagedValue."""

    def __init__(self, address: StoreAddress, masters: Masters, policies: Policies) -> None:
        self._address, self._masters, self._policies = address, masters, policies
        self._peek = load_script("peek")

    async def get(self, kid: str) -> KeyLimits | AccountKey | None:
        """Return a plain key's limits, or the policies of a key of an account; None if there is no such key."""
        found = await self._get_all(self._masters.owner(keyspace.limits_key(kid)), [kid])
        return found.get(kid)

    async def peek(self, kid: str, window_buckets: int) -> Usage | None:
        """Return a key's limits and usage; None if there is no such key."""
        client = self._masters.owner(keyspace.limits_key(kid))
        [value] = await limits_of(client, [kid])
        if isinstance(value, str):
            stored = await self._policies.read(value, [kid])
            key = _key_in(stored, kid)
            usage = None if key is None else await read_path_usage(self._masters, key, stored.time_ms)
            return None if key is None or usage is None else await with_buckets(self._masters, key, usage)
        if self._plain(kid, value) is None:
            return None
        keys = (keyspace.limits_key(kid), keyspace.window_key(kid), keyspace.past_key(kid))
        reply = await call_script(client, self._peek, ScriptCall(keys, (window_buckets, 0)))
        return unpack_usage(reply, window_buckets)

    async def list_keys(self, limit: int) -> Listing:
        """Return the first `limit` keys by name; memory grows with `limit`, and a few bytes for each further key."""
        seen: set[bytes] = set()
        kept: list[tuple[str, KeyLimits | AccountKey]] = []
        damaged: list[str] = []
        total = 0
        for client in self._masters.all():
            async for kids in _scan(client, seen):
                found = await self._get_readable(client, kids, damaged)
                total += len(found)
                kept = heapq.nsmallest(limit, [*kept, *found.items()], key=lambda entry: (name_of(entry[1]), entry[0]))
        return Listing(kept, total, damaged)

    async def _get_readable(
        self, client: Redis, kids: Sequence[str], damaged: list[str]
    ) -> dict[str, KeyLimits | AccountKey]:
        """Return what there is of keys of one master, and add those to `damaged` whose values can't be read."""
        try:
            return await self._get_all(client, kids)
        except DamagedValue:
            if len(kids) == 1:
                damaged.append(kids[0])
                return {}
        # Damage is rare: halving finds it in few reads, and whole chunks are read at once elsewhere.
        middle = len(kids) // 2
        first = await self._get_readable(client, kids[:middle], damaged)
        return first | await self._get_readable(client, kids[middle:], damaged)

    async def _get_all(self, client: Redis, kids: Sequence[str]) -> dict[str, KeyLimits | AccountKey]:
        """Return what there is of keys of one master."""
        found: dict[str, KeyLimits | AccountKey] = {}
        by_tag: dict[str, list[str]] = defaultdict(list)
        for kid, value in zip(kids, await limits_of(client, kids), strict=True):
            if isinstance(value, str):
                by_tag[value].append(kid)
            elif (limits := self._plain(kid, value)) is not None:
                found[kid] = limits
        own = [tag for tag, members in by_tag.items() if members == [tag]]
        for kid, stored in (await self._policies.read_all(own)).items():
            if (key := _key_in(stored, kid)) is not None:
                found[kid] = key
            del by_tag[kid]
        for tag, members in by_tag.items():
            for start in range(0, len(members), CHUNK):
                chunk = members[start : start + CHUNK]
                stored = await self._policies.read(tag, chunk)
                found.update((kid, key) for kid in chunk if (key := _key_in(stored, kid)) is not None)
        return found

    def _plain(self, kid: str, value: Pointer) -> KeyLimits | None:
        if value is None or isinstance(value, Way):  # a further credential is no key
            return None
        if isinstance(value, bytes):
            with suppress(ValueError):
                return unpack_limits(value)
        raise DamagedValue(
            f"{keyspace.limits_key(kid)} in {self._address.describe()} is damaged: set the key's limits again"
        )


def _key_in(stored: StoredAccount, kid: str) -> AccountKey | None:
    """Return a key of an account; None if the account has let go of it, or isn't there."""
    if stored.policy is None:
        return None
    if stored.policy.key is not None:
        return AccountKey(stored.policy, stored.policy.key)
    return AccountKey(stored.policy, stored.keys[kid].policy) if kid in stored.keys else None


async def _scan(client: Redis, seen: set[bytes]) -> AsyncIterator[list[str]]:
    # SCAN may name a key twice; and during a resharding two masters may name it.
    async for kids in scan_pointers(client):
        new = [kid for kid in dict.fromkeys(kids) if bytes.fromhex(kid) not in seen]
        seen.update(bytes.fromhex(kid) for kid in new)
        if new:
            yield new
