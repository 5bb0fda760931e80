"""Deletes a key with its usage, and leaves the mark that it was deleted on purpose."""

from __future__ import annotations

from collections.abc import Sequence

from redis.asyncio import Redis

from limiter_node.key_states import Credential
from limiter_node.store.admin.masters import Masters
from limiter_node.store.admin.moving import Mover
from limiter_node.store.admin.pointers import Pointers, Way
from limiter_node.store.admin.policies import Policies
from limiter_node.store.keyspace import (
    META_FIELD,
    limits_key,
    member_key,
    past_key,
    shared_key,
    window_key,
)

_MOST_MOVES = 10
_WINDOW_FIELD_LENGTHS = (6, 7)
"""Of the names of fields that hold a window: its id, and that with a letter for a group of its buckets."""


class Deleter:
    """Delete keys of one store, each so that a decision finds all of it or nothing. Methods raise redis-py's errors."""

    def __init__(self, masters: Masters, policies: Policies, pointers: Pointers, mover: Mover) -> None:
        self._masters, self._policies, self._pointers, self._mover = masters, policies, pointers, mover

    async def delete(self, kid: str) -> bool:
        """Delete a key with all of its credentials. Return whether it existed."""
        pointer = (await self._pointers.read([kid]))[kid]
        tag = pointer.tag if isinstance(pointer, Way) else pointer if isinstance(pointer, str) else ""
        kid = pointer.kid if isinstance(pointer, Way) else kid
        tag = await self._follow(kid, tag)
        credentials = await self._credentials(tag, kid)
        revoked = [each.digest for each in credentials if each.is_revoked]
        await self._pointers.mark(kid, [each.digest for each in credentials], revoked)
        tag = await self._follow(kid, tag)  # who moves the key from now on finds the mark
        # First in the account, which then decides nothing for the key any more; the way there leads to nothing then.
        if tag == kid:
            await self._policies.delete_account(kid)
            await self._delete_windows(self._masters.owner(shared_key(kid)), kid)
        elif tag:
            await self._policies.delete_key(tag, kid)
            await self._masters.owner(member_key(tag, kid)).delete(member_key(tag, kid))
        await self._pointers.release(kid, [each.digest for each in credentials if each.digest != kid])
        async with self._masters.owner(limits_key(kid)).pipeline(transaction=True) as pipeline:
            pipeline.delete(limits_key(kid))
            pipeline.delete(past_key(kid))
            pipeline.hdel(window_key(kid), META_FIELD)
            existed, *_ = await pipeline.execute()
        return bool(existed)

    async def _follow(self, kid: str, tag: str) -> str:
        """Return the account where a key is, which may have moved; a move that was interrupted is finished."""
        for _ in range(_MOST_MOVES if tag else 0):
            stored = await self._policies.read(tag, [kid])
            if kid in stored.keys or (tag == kid and stored.policy is not None):
                break
            if (to := await self._mover.finish(kid, tag)) is None:
                break
            tag = to
        return tag

    async def _credentials(self, tag: str, kid: str) -> Sequence[Credential]:
        if tag:
            stored = await self._policies.read(tag, [kid])
            found = stored.keys.get(kid)
            key = stored.policy.key if tag == kid and stored.policy else found.policy if found else None
            if key is not None:
                return key.all_credentials
        return [Credential(kid)]

    async def _delete_windows(self, client: Redis, tag: str) -> None:
        """Delete all windows of a key that was an account of its own; clock and records stay."""
        fields = [name for name in await client.hgetall(shared_key(tag)) if len(name) in _WINDOW_FIELD_LENGTHS]
        if fields:
            await client.hdel(shared_key(tag), *fields)
