"""Finds keys by name or by the beginning of a digest, and the keys of an account. Writes nothing.

The names of an account's keys are in an index in its slot. Flat keys have none: finding one by name, or any key by the
beginning of a digest, walks through all pointers of the store with SCAN, in pieces, and keeps the matches alone.
Methods raise redis-py's errors.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from typing import Any, Final, NamedTuple

from redis.asyncio import Redis

from limiter_node.policy import AccountPolicy, account_tag
from limiter_node.policy_body import read_account, read_forward, read_key
from limiter_node.store.admin.masters import Masters
from limiter_node.store.admin.pointers import Way, limits_of, way_of
from limiter_node.store.admin.policies import Policies
from limiter_node.store.keyspace import limits_key, policy_key
from limiter_node.store.values import unpack_limits

SCANNED: Final = 1_000
"""Keys of the store per piece of a walk."""
MOST_MATCHES: Final = 20
"""The most matches that are kept of each kind: enough to see that there are several."""

_POINTER = re.compile(rb"rl:\{([0-9a-f]{32})\}:limits\Z")
_ACCOUNT = re.compile(rb"rl:\{@([A-Za-z0-9._-]{1,64})\}:policy\Z")
_KID = re.compile(rb"[0-9a-f]{32}\Z")
_NAME_FIELD, _KEY_FIELD, _FORWARD_FIELD = "n:", "k:", "f:"


class Matches(NamedTuple):
    """Flat keys of a name, by ``kid``, and credentials whose digests begin as wanted, with the way to their keys.

    A way's `tag` is empty if it leads to a plain key.
    """

    kids: list[str]
    cids: dict[str, Way]


class KeySearch:
    """Search the keys of one store."""

    def __init__(self, masters: Masters, policies: Policies) -> None:
        self._masters, self._policies = masters, policies

    async def way(self, cid: str) -> Way | None:
        """Return the way from a credential to its key, as far as its pointer says; None if it leads nowhere."""
        [value] = await limits_of(self._masters.owner(limits_key(cid)), [cid])
        return way_of(cid, value)

    async def matches(self, name: str, prefix: str) -> Matches:
        """Return the flat keys called `name`, and the credentials whose digests begin with `prefix` (none if empty)."""
        found = Matches([], {})
        for client in self._masters.all():
            async for cids in scan_pointers(client):
                await self._add_matches(client, cids, name, prefix, found)
        return found

    async def _add_matches(self, client: Redis, cids: Sequence[str], name: str, prefix: str, found: Matches) -> None:
        own = []
        for cid, value in zip(cids, await limits_of(client, cids), strict=True):
            if isinstance(value, bytes):
                with suppress(ValueError):  # damaged
                    if unpack_limits(value).name == name:
                        _keep(found.kids, cid)
            elif value == cid:
                own.append(cid)
            is_named = bool(prefix) and cid.startswith(prefix) and len(found.cids) < MOST_MATCHES
            if is_named and (way := way_of(cid, value)) is not None:
                found.cids[cid] = way
        for kid, stored in (await self._policies.read_all(own, skips_damaged=True)).items():
            account = stored.policy if stored.policy is not None else _sealed_account(stored.forwards.get(kid))
            if account is not None and account.key is not None and account.key.name == name:
                _keep(found.kids, kid)

    async def named(self, account: str, name: str) -> str | None:
        """Return the ``kid`` of the key of an account with that name.

        The index is checked against the policy. Without an entry all keys of the account are read, because earlier
        versions write none.
        """
        tag = account_tag(account)
        kid = await self._masters.owner(policy_key(tag)).hget(policy_key(tag), _NAME_FIELD + name)
        if isinstance(kid, bytes):
            found = (await self._policies.read(tag, [kid.decode()])).keys.get(kid.decode())
            if found is not None and found.policy.name == name:
                return kid.decode()
        async for fields in _fields(self._masters.owner(policy_key(tag)), policy_key(tag), f"{_KEY_FIELD}*"):
            for field, body in fields.items():
                with suppress(ValueError):
                    if name in body.decode() and read_key(body).name == name:
                        return field.decode().removeprefix(_KEY_FIELD)
        return None

    async def sealed(self, account: str, name: str) -> str | None:
        """Return the ``kid`` of a key with that name whose move away from the account was begun and isn't over."""
        key = policy_key(account_tag(account))
        async for fields in _fields(self._masters.owner(key), key, f"{_FORWARD_FIELD}*"):
            for field, body in fields.items():
                with suppress(ValueError):
                    forward = read_forward(body)
                    if not forward.is_over and read_key(forward.back.encode()).name == name:
                        return field.decode().removeprefix(_FORWARD_FIELD)
        return None

    async def members(self, account: str) -> AsyncIterator[list[str]]:
        """Yield the ``kid`` of each key of an account, in pieces."""
        key = policy_key(account_tag(account))
        seen: set[bytes] = set()
        # Of a key two fields are stored: its kid, which is 32 characters long, and its body.
        async for fields in _fields(self._masters.owner(key), key, "?" * 32):
            kids = [field for field in fields if _KID.match(field) and field not in seen]
            seen.update(kids)
            if kids:
                yield [kid.decode() for kid in kids]

    async def accounts(self) -> list[str]:
        """Return the names of all accounts, sorted."""
        names: set[str] = set()
        for client in self._masters.all():
            async for keys in _keys(client, policy_key("@*")):
                names.update(match[1].decode() for key in keys if (match := _ACCOUNT.match(key)))
        return sorted(names)


async def scan_pointers(client: Redis) -> AsyncIterator[list[str]]:
    """Yield the digests that have a pointer on one master, in pieces. SCAN may name one twice."""
    async for keys in _keys(client, limits_key("*")):
        if cids := [match[1].decode() for key in keys if (match := _POINTER.match(key))]:
            yield cids


async def _keys(client: Redis, pattern: str) -> AsyncIterator[list[bytes]]:
    cursor = 0
    while True:
        found: Any = await client.scan(cursor, match=pattern, count=SCANNED)
        cursor, keys = found
        yield keys
        if cursor == 0:
            return


async def _fields(client: Redis, key: str, pattern: str) -> AsyncIterator[dict[bytes, bytes]]:
    cursor = 0
    while True:
        found: Any = await client.hscan(key, cursor, match=pattern, count=SCANNED)
        cursor, fields = found
        yield fields
        if cursor == 0:
            return


def _sealed_account(forward: bytes | None) -> AccountPolicy | None:
    """Return a flat key, as an account, whose move was begun and isn't over."""
    if forward is None:
        return None
    with suppress(ValueError):
        if not (found := read_forward(forward)).is_over:
            return read_account(found.back.encode())
    return None


def _keep(kids: list[str], kid: str) -> None:
    if kid not in kids and len(kids) < MOST_MATCHES:
        kids.append(kid)
