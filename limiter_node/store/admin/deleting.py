"""Deletes a key with its usage, and leaves the mark that it was deleted on purpose."""

from __future__ import annotations

from redis.asyncio import Redis

from limiter_node.store.admin.masters import Masters
from limiter_node.store.admin.pointers import DELETED_S, Pointers
from limiter_node.store.admin.policies import Policies
from limiter_node.store.keyspace import (
    META_FIELD,
    deleted_key,
    limits_key,
    member_key,
    past_key,
    shared_key,
    window_key,
)

_WINDOW_FIELD_LENGTHS = (6, 7)
"""Of the names of fields that hold a window: its id, and that with a letter for a group of its buckets."""


class Deleter:
    """Delete keys of one store, each so that a decision finds all of it or nothing. Methods raise redis-py's errors."""

    def __init__(self, masters: Masters, policies: Policies, pointers: Pointers) -> None:
        self._masters, self._policies, self._pointers = masters, policies, pointers

    async def delete(self, kid: str) -> bool:
        """Delete a key. Return whether it existed."""
        await self._pointers.mark_deleted(kid)
        pointer = (await self._pointers.read([kid]))[kid]
        # First in the account, which then decides nothing for the key any more; the way there leads to nothing then.
        if isinstance(pointer, str) and pointer == kid:
            await self._policies.delete_account(kid)
            await self._delete_windows(self._masters.owner(shared_key(kid)), kid)
        elif isinstance(pointer, str):
            await self._policies.delete_key(pointer, kid)
            await self._masters.owner(member_key(pointer, kid)).delete(member_key(pointer, kid))
        async with self._masters.owner(limits_key(kid)).pipeline(transaction=True) as pipeline:
            pipeline.delete(limits_key(kid))
            pipeline.delete(past_key(kid))
            pipeline.hdel(window_key(kid), META_FIELD)
            pipeline.set(deleted_key(kid), b"", ex=DELETED_S)
            existed, *_ = await pipeline.execute()
        return bool(existed)

    async def _delete_windows(self, client: Redis, tag: str) -> None:
        """Delete all windows of a key that was an account of its own; clock and records stay."""
        fields = [name for name in await client.hgetall(shared_key(tag)) if len(name) in _WINDOW_FIELD_LENGTHS]
        if fields:
            await client.hdel(shared_key(tag), *fields)
