"""The pointers from credentials to keys of accounts, which a node checks for the keys it decides, and mends.

A credential's pointer may be on another shard than its account, so either can be lost alone. A lost pointer is written
again. A key that its pointer says is deleted or elsewhere is found anew: a failover of the account's shard may have
brought back a key that was taken out, while the mark of that, or the new pointer, is still there.

Weakness: both are noticed only while a request of the key reaches a node that knows it, up to 30 s later.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Sequence
from contextlib import suppress
from typing import Any

from limiter_node.errors import StoreUnavailable
from limiter_node.store.accounts.calls import AwaitedCall
from limiter_node.store.accounts.member import Member
from limiter_node.store.decisions.redeclare import RedeclaredCounts
from limiter_node.store.keyspace import deleted_key, limits_key, slot_of
from limiter_node.store.scripts import Script, load_script
from limiter_node.store.wire.routing_and_retries import Router
from limiter_node.store.wire.script_target import ScriptTarget

DELETED, POINTED, WAS_POINTED, ELSEWHERE = range(4)
"""The replies of ``redeclare.lua`` about a key of an account."""


class KeyPointers:
    """Check and mend pointers for one node.

    `on_elsewhere` is called with a key that its pointer says is deleted, or in another account.
    """

    def __init__(self, router: Router, counts: RedeclaredCounts, on_elsewhere: Callable[[Member], None]) -> None:
        self._router, self._counts, self._on_elsewhere = router, counts, on_elsewhere
        self._script = load_script("redeclare")
        self._tasks: set[asyncio.Task[None]] = set()

    def close(self) -> None:
        """Stop checking."""
        for task in self._tasks:
            task.cancel()

    def check(self, member: Member) -> None:
        """Check the pointers of a key that the store has just decided for, and mend those that are lost."""

        async def check() -> None:
            cids = [each.digest for each in member.key.all_credentials]
            if await self._mend(member.kid, cids, member.account.kid, ""):
                self._on_elsewhere(member)

        self._begin(check())

    def mend(self, kid: str, cids: Iterable[str], tag: str, stale_tag: str) -> None:
        """Mend those pointers of a key's credentials that are lost. See `point`."""

        async def mend() -> None:
            await self._mend(kid, cids, tag, stale_tag)

        self._begin(mend())

    async def _mend(self, kid: str, cids: Iterable[str], tag: str, stale_tag: str) -> bool:
        """Return whether the first credential says that the key is deleted, or elsewhere."""
        is_elsewhere = False
        with suppress(StoreUnavailable):  # the next check comes soon
            for cid in cids:
                found, _, _ = await self.point(cid, kid, tag, stale_tag)
                is_elsewhere |= cid == kid and found in (DELETED, ELSEWHERE)
                if found == POINTED:
                    self._counts.add("store")
        return is_elsewhere

    def mark_again(self, cid: str, mark: str) -> None:
        """Leave the mark that a credential's key was deleted, unless there is one, or the credential leads to a key."""

        async def leave() -> None:
            with suppress(StoreUnavailable):
                await self._call(cid, ("", "", "", mark))

        self._begin(leave())

    async def point(self, cid: str, kid: str, tag: str, stale_tag: str) -> tuple[int, int, str]:
        """Point a credential to its key in the account with the hash tag `tag`, unless it leads elsewhere.

        Return the reply, the clock of the credential's shard in ms, and the content of the mark of a deletion.
        `stale_tag`: the hash tag of an account that doesn't have the key, so that a pointer there is lost, too.
        """
        found = await self._call(cid, ("", tag, stale_tag, "" if cid == kid else kid))
        return int(found[0]), int(found[1]), found[2].decode() if len(found) > 2 else ""

    async def _call(self, cid: str, arguments: Sequence[str]) -> Any:
        return await call_script(self._router, self._script, cid, (limits_key(cid), deleted_key(cid)), arguments)

    def _begin(self, work: Coroutine[None, None, None]) -> None:
        task = self._router.loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


async def call_script(
    router: Router, script: Script, tag: str, keys: Sequence[str], arguments: Sequence[str | bytes]
) -> Any:
    """Return a script's reply; `tag` is the hash tag of its keys. Raises StoreUnavailable."""
    target = ScriptTarget(script, slot_of(tag), tuple(each.encode() for each in keys), (), len(arguments))
    call = AwaitedCall(router, target, arguments)
    router.send([call])
    return await call.future
