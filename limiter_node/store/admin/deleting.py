"""Deletes a key with its usage, and leaves the marks that it was deleted on purpose.

A key of an account spans several slots: that of its account, and one per credential. So first the marks are left at all
its credentials, then the policy goes, then the windows, then the ways to it. Wherever that is interrupted, the key
is either there as before, or its credentials lead to an account that doesn't have it (401); no node declares it again,
and deleting it once more finishes.
"""

from __future__ import annotations

from typing import Final

from redis.exceptions import WatchError

from limiter_node.errors import StoreUnavailable
from limiter_node.key_states import Credential
from limiter_node.policy import KeyPolicy, key_of
from limiter_node.store.admin.masters import Masters
from limiter_node.store.admin.moving import Mover
from limiter_node.store.admin.pointers import Mark, Pointers, Way
from limiter_node.store.admin.policies import NO_VERSION, Policies
from limiter_node.store.admin.script_calls import ScriptCall, call_script
from limiter_node.store.keyspace import (
    ACCOUNT_FIELD,
    META_FIELD,
    deleted_key,
    limits_key,
    member_key,
    past_key,
    policy_key,
    shared_key,
    window_key,
)
from limiter_node.store.scripts import load_script
from limiter_node.store.written import ATTEMPTS

_NO_KEY: Final[tuple[bytes, KeyPolicy | None]] = (NO_VERSION, None)


class Deleter:
    """Delete keys of one store, each so that a decision finds all of it or nothing. Methods raise redis-py's errors."""

    def __init__(self, masters: Masters, policies: Policies, pointers: Pointers, mover: Mover) -> None:
        self._masters, self._policies, self._pointers, self._mover = masters, policies, pointers, mover
        self._forget = load_script("forget")

    async def delete(self, kid: str, tag: str | None = None) -> bool:
        """Delete a key. Return whether it existed. `tag`: the hash tag of its account, if the caller knows it.

        A deletion that was interrupted is finished.
        """
        for attempt in range(ATTEMPTS):
            place = tag if attempt == 0 else None  # it may have moved meanwhile
            if place is None:
                pointer = (await self._pointers.read([kid]))[kid]
                if isinstance(pointer, Way):
                    return False  # a further credential is no key
                place = pointer if isinstance(pointer, str) else None
            existed = await (self._delete_plain(kid) if not place else self._delete_from(place, kid))
            if existed is not None:
                return existed
        raise StoreUnavailable(f"key {kid[:8]}… keeps being changed by others: try again")

    async def _delete_from(self, tag: str, kid: str) -> bool | None:
        """Delete a key of an account. Return whether it existed; None if it was changed or moved meanwhile."""
        stored = await self._policies.read(tag, [kid])
        if kid in stored.forwards:  # a move that was interrupted is finished first; later ones find the marks
            moved_to = await self._mover.finish(kid, tag)
            return None if moved_to is None else await self._delete_from(moved_to, kid)
        account = tag == kid
        version, policy = (stored.version, stored.policy) if account else stored.keys.get(kid, _NO_KEY)
        key = None if policy is None else key_of(policy)
        credentials = (Credential(kid),) if key is None else key.all_credentials
        cids = [each.digest for each in credentials]
        if policy is None or key is None:  # not there: a deletion that was interrupted is finished
            if not await self._pointers.marks([kid]):
                await self._pointers.mark(kid, [kid])
        else:
            await self._pointers.mark(kid, cids, {each.digest for each in credentials if each.is_revoked})
            if not await self._policies.delete_version(tag, "" if account else kid, version, policy):
                return None
        await self.forget_windows(tag, kid)
        await self._pointers.release(kid, cids)
        return key is not None

    async def forget_windows(self, tag: str, kid: str = "") -> None:
        """Delete the windows of a deleted key of an account; without `kid`, those of a deleted account."""
        member = "" if kid == tag else kid
        keys = (policy_key(tag), member_key(tag, member) if member else shared_key(tag))
        await call_script(self._masters.owner(keys[0]), self._forget, ScriptCall(keys, (member,)))

    async def _delete_plain(self, kid: str) -> bool | None:
        """Delete a plain key, or what is damaged. Return whether it existed; None if it is one of an account by now."""
        client = self._masters.owner(limits_key(kid))
        async with client.pipeline(transaction=True) as pipeline:
            await pipeline.watch(limits_key(kid))
            if await pipeline.type(limits_key(kid)) == b"hash" and await pipeline.hexists(
                limits_key(kid), ACCOUNT_FIELD
            ):
                return None
            pipeline.multi()  # type: ignore[no-untyped-call]
            pipeline.delete(limits_key(kid))
            pipeline.delete(past_key(kid))
            pipeline.hdel(window_key(kid), META_FIELD)
            pipeline.set(deleted_key(kid), Mark(kid).to_value())
            try:
                existed, *_ = await pipeline.execute()
            except WatchError:
                return None
        return bool(existed)
