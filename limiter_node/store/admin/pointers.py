"""The content of ``rl:{kid}:limits``: the limits of a plain key, or the account that has those of any other key.

Read and written for many keys at once, in pipelines per master. Methods raise redis-py's errors.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, Final

from redis.asyncio import Redis
from redis.exceptions import ResponseError

from limiter_node.limits import KeyLimits
from limiter_node.store.admin.masters import Masters
from limiter_node.store.admin.script_calls import CHUNK, ScriptCall, call_scripts
from limiter_node.store.keyspace import ACCOUNT_FIELD, deleted_key, limits_key
from limiter_node.store.scripts import load_script
from limiter_node.store.values import pack_limits

DELETED_S: Final = 30 * 86_400
"""The life of the mark that a key was deleted on purpose."""

Pointer = bytes | str | ResponseError | None
"""A plain key's limits, packed, or the hash tag of a key's account; None if there is no such key, an error if the value
is neither."""


def is_wrong_type(reply: object) -> bool:
    """Whether the reply to a command says that the value is of another type."""
    return isinstance(reply, ResponseError) and str(reply).startswith("WRONGTYPE")


async def limits_of(client: Redis, kids: Sequence[str]) -> list[Pointer]:
    """Return what there is of each of these keys of one master."""
    values: list[Any] = await _pipelined(client, [("GET", limits_key(kid)) for kid in kids])
    hashes = [at for at, value in enumerate(values) if is_wrong_type(value)]
    tags = await _pipelined(client, [("HGET", limits_key(kids[at]), ACCOUNT_FIELD) for at in hashes])
    for at, tag in zip(hashes, tags, strict=True):
        if isinstance(tag, bytes):
            values[at] = tag.decode("ascii", "replace")
    return values


class Pointers:
    """Read and write the values ``rl:{kid}:limits`` of one store."""

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

    async def point(self, tags: Mapping[str, str]) -> None:
        """Point each key to the account with that hash tag, and take the mark of its deletion away."""

        async def point(client: Redis, kids: Sequence[str]) -> None:
            calls = [ScriptCall((limits_key(kid), deleted_key(kid)), (tags[kid],)) for kid in kids]
            await call_scripts(client, self._point, calls)

        await self._per_owner(tags, point)

    async def put_plain(self, keys: Mapping[str, KeyLimits]) -> list[str]:
        """Write the limits of plain keys. Return the keys that are in an account, whose values stay as they are."""
        others: list[str] = []

        async def put(client: Redis, kids: Sequence[str]) -> None:
            # GET makes SET refuse a value of another type.
            sets = [("SET", limits_key(kid), pack_limits(keys[kid]), "GET") for kid in kids]
            deletes = [("DEL", deleted_key(kid)) for kid in kids]
            replies = await _pipelined(client, [*sets, *deletes])
            others.extend(kid for kid, reply in zip(kids, replies[: len(kids)], strict=True) if is_wrong_type(reply))

        await self._per_owner(keys, put)
        return others

    async def make_plain(self, kid: str, limits: KeyLimits) -> None:
        """Write the limits of a key that its account has let go of."""
        client = self._masters.owner(limits_key(kid))
        await _pipelined(client, [("SET", limits_key(kid), pack_limits(limits)), ("DEL", deleted_key(kid))])

    async def mark_deleted(self, kid: str) -> None:
        """Leave the mark that a key is taken out of its account on purpose; to write the key takes it away again.

        Leave it before anything is taken out: a node that finds the key missing then does not declare it again.
        """
        await self._masters.owner(deleted_key(kid)).set(deleted_key(kid), b"", ex=DELETED_S)

    async def _per_owner(self, kids: Iterable[str], action: Callable[[Redis, Sequence[str]], Awaitable[None]]) -> None:
        by_owner = self._masters.by_owner(kids, limits_key)

        async def in_chunks(client: Redis, kids: Sequence[str]) -> None:
            for start in range(0, len(kids), CHUNK):
                await action(client, kids[start : start + CHUNK])

        await asyncio.gather(*(in_chunks(client, found) for client, found in by_owner.items()))


async def _pipelined(client: Redis, commands: Sequence[tuple[str | bytes, ...]]) -> list[Any]:
    """Return the replies to commands; raise the first error but for values of another type."""
    if not commands:
        return []
    async with client.pipeline(transaction=False) as pipeline:
        for command in commands:
            pipeline.execute_command(*command)
        replies: list[Any] = await pipeline.execute(raise_on_error=False)
    for reply in replies:
        if isinstance(reply, Exception) and not is_wrong_type(reply):
            raise reply
    return replies
