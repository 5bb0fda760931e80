"""The content of ``rl:{cid}:limits``: the limits of a plain key, or the way from a credential to its key.

``cid`` is the digest of a credential; that of a key's first one is the key's ``kid``. Read and written for many at
once, in pipelines per master. Methods raise redis-py's errors.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from redis.asyncio import Redis
from redis.exceptions import ResponseError

from limiter_node.store.admin.masters import Masters
from limiter_node.store.admin.script_calls import CHUNK, ScriptCall, call_scripts, is_wrong_type, run_commands
from limiter_node.store.keyspace import ACCOUNT_FIELD, WAY_FIELDS, deleted_key, limits_key
from limiter_node.store.scripts import load_script

_REVOKED = "revoked:"


class Way(NamedTuple):
    """The way from a credential of a key to the key, in the account with that hash tag."""

    tag: str
    kid: str


Pointer = bytes | str | Way | ResponseError | None
"""A plain key's limits, packed; of a key's first credential the hash tag of its account, of any other one its way. None
if there is nothing, an error if the value is none of these."""


class Mark(NamedTuple):
    """The mark that a credential was taken away on purpose, from the key `kid`.

    `expires`: whether it is of an earlier version, whose marks went after 30 days.
    """

    kid: str
    is_revoked: bool = False
    expires: bool = False

    def to_value(self) -> str:
        """Return the stored form."""
        return _REVOKED + self.kid if self.is_revoked else self.kid


def mark_from(value: bytes | None, cid: str) -> Mark | None:
    """Read ``rl:{cid}:deleted``; an empty value is of an earlier version, which marked whole keys only."""
    if value is None:
        return None
    text = value.decode("ascii", "replace")
    return Mark(text.removeprefix(_REVOKED) or cid, text.startswith(_REVOKED), not text)


async def limits_of(client: Redis, kids: Sequence[str]) -> list[Pointer]:
    """Return where each of these digests leads, all of one master."""
    values: list[Any] = await run_commands(client, [("GET", limits_key(kid)) for kid in kids])
    hashes = [at for at, value in enumerate(values) if is_wrong_type(value)]
    ways = await run_commands(client, [("HMGET", limits_key(kids[at]), ACCOUNT_FIELD, *WAY_FIELDS) for at in hashes])
    for at, found in zip(hashes, ways, strict=True):
        if isinstance(found, list):
            values[at] = pointer_from(*found) or values[at]
    return values


def pointer_from(account: bytes | None, tag: bytes | None, kid: bytes | None) -> Pointer:
    """Return the pointer of which these are the fields, as `ACCOUNT_FIELD` and `WAY_FIELDS` name them; None if none."""
    if account is not None:
        return account.decode("ascii", "replace")
    if tag is None or kid is None:
        return None
    return Way(tag.decode("ascii", "replace"), kid.decode("ascii", "replace"))


def way_of(cid: str, pointer: Pointer) -> Way | None:
    """Return the way from a credential to its key, without a tag if that is a plain one; None if it leads nowhere."""
    match pointer:
        case bytes():
            return Way("", cid)
        case str():
            return Way(pointer, cid)
        case Way():
            return pointer
    return None


class Pointers:
    """Read and write the values ``rl:{cid}:limits`` and ``rl:{cid}:deleted`` of one store."""

    def __init__(self, masters: Masters) -> None:
        self._masters = masters
        self._point = load_script("point")

    async def read(self, kids: Iterable[str]) -> dict[str, Pointer]:
        """Return for each key what `limits_of` says."""
        found: dict[str, Pointer] = {}

        async def read(client: Redis, kids: Sequence[str]) -> None:
            found.update(zip(kids, await limits_of(client, kids), strict=True))

        await self._per_owner(kids, read)
        return found

    async def claim(self, ways: Mapping[str, Way], *, only_new: bool = False) -> list[str]:
        """Point credentials to their keys; the marks there go. Return those that stay as they are: other keys'.

        `only_new`: leave those, too, that were revoked, or lead elsewhere now, also if that is the same key.
        """
        refused: list[str] = []

        async def point(client: Redis, cids: Sequence[str]) -> None:
            calls = [_point_call(cid, *ways[cid], is_new=only_new) for cid in cids]
            replies = await call_scripts(client, self._point, calls)
            refused.extend(cid for cid, reply in zip(cids, replies, strict=True) if reply != 1)

        await self._per_owner(ways, point)
        return refused

    async def release(self, kid: str, cids: Iterable[str]) -> None:
        """Take the ways from credentials to a deleted key away, where its mark is still there."""

        async def release(client: Redis, cids: Sequence[str]) -> None:
            await call_scripts(client, self._point, [_point_call(cid, "", kid) for cid in cids])

        await self._per_owner(cids, release)

    async def withdraw(self, kid: str, cid: str) -> None:
        """Take back the way from a credential to a key that doesn't get it after all."""
        await self.mark(kid, [cid])
        await self.release(kid, [cid])

    async def marks(self, cids: Iterable[str]) -> dict[str, Mark]:
        """Return the marks of those credentials that have one."""
        found: dict[str, Mark] = {}

        async def read(client: Redis, cids: Sequence[str]) -> None:
            values = await run_commands(client, [("GET", deleted_key(cid)) for cid in cids])
            found.update(
                (cid, mark)
                for cid, value in zip(cids, values, strict=True)
                if (mark := mark_from(value, cid)) is not None
            )

        await self._per_owner(cids, read)
        return found

    async def mark(self, kid: str, cids: Iterable[str], revoked: Collection[str] = ()) -> None:
        """Leave the mark of a key at its credentials `cids`, of which those in `revoked` had been revoked before.

        Leave it before anything is taken away: a node that finds the key missing then doesn't declare it again.
        """

        async def mark(client: Redis, cids: Sequence[str]) -> None:
            await run_commands(
                client, [("SET", deleted_key(cid), Mark(kid, cid in revoked).to_value()) for cid in cids]
            )

        await self._per_owner(cids, mark)

    async def keep_marks(self, cids: Iterable[str]) -> None:
        """Give marks of earlier versions, which expire, the form without an end; those that have gone stay so."""

        async def keep(client: Redis, cids: Sequence[str]) -> None:
            await run_commands(client, [("SET", deleted_key(cid), Mark(cid).to_value(), "XX") for cid in cids])

        await self._per_owner(cids, keep)

    async def _per_owner(self, kids: Iterable[str], action: Callable[[Redis, Sequence[str]], Awaitable[None]]) -> None:
        by_owner = self._masters.by_owner(kids, limits_key)

        async def in_chunks(client: Redis, kids: Sequence[str]) -> None:
            for start in range(0, len(kids), CHUNK):
                await action(client, kids[start : start + CHUNK])

        await asyncio.gather(*(in_chunks(client, found) for client, found in by_owner.items()))


def _point_call(cid: str, tag: str, kid: str, *, is_new: bool = False) -> ScriptCall:
    return ScriptCall((limits_key(cid), deleted_key(cid)), (tag, kid, int(is_new)))
