"""Asks the store whether a key exists, before the body of a request whose key the node hasn't met is read.

A key that exists is met, with its limits. One that doesn't leaves nothing behind: an invented key costs its request one
short read, which shares its write with all reads that begin in the same turn of the event loop. Requests of one key
share one read.
"""

from __future__ import annotations

import asyncio
from time import monotonic
from typing import NamedTuple

from limiter_node.errors import StoreUnavailable
from limiter_node.limits import KeyLimits
from limiter_node.store.accounts.accounts import Accounts
from limiter_node.store.accounts.member import Member
from limiter_node.store.decisions.queues import KeyQueues
from limiter_node.store.decisions.redeclare import Redeclared, Redeclarer
from limiter_node.store.decisions.redeclare_accounts import AccountRedeclarer
from limiter_node.store.key_queue import KeyQueue
from limiter_node.store.keyspace import limits_key, slot_of
from limiter_node.store.outage.outage import Outage
from limiter_node.store.scripts import load_script
from limiter_node.store.values import unpack_limits
from limiter_node.store.wire.routing_and_retries import RoutedCall, Router
from limiter_node.store.wire.script_target import ScriptTarget

_LATE_S = 0.02
"""A wait that ends this much too late means that this node stood still; the reply may have come, unread."""


class _Found(NamedTuple):
    """A key that the store has: the hash tag of its account, or if that is empty its limits; the store's time in ms."""

    tag: str
    limits: KeyLimits
    time_ms: int


class _LimitsRead(RoutedCall):
    """A read of one key's limits, for all requests of the key that wait for it.

    `reply`: what was found, None if there is no such key; or the reason why there is no reply.
    """

    __slots__ = ("_finder", "kid", "reply", "waiting")

    def __init__(self, finder: KeyExistence, router: Router, target: ScriptTarget, kid: str) -> None:
        super().__init__(router, target, monotonic())
        self._finder, self.kid = finder, kid
        self.waiting = 0
        self.reply: asyncio.Future[_Found | str | None] = router.loop.create_future()

    def arguments(self) -> bytes:
        return b""

    def is_wanted(self) -> bool:
        return self.waiting > 0

    def on_result(self, reply: list[bytes] | None) -> None:
        found = None
        if reply is not None:
            tag = reply[2].decode() if len(reply) > 2 else ""
            found = _Found(tag, KeyLimits() if tag else unpack_limits(reply[0]), int(reply[1]))
        self._finder.on_ended(self)
        if not self.reply.done():
            self.reply.set_result(found)

    def on_failed(self, reason: str) -> None:
        self._finder.on_ended(self)
        if not self.reply.done():
            self.reply.set_result(reason)


class KeyExistence:
    """Find keys for one node.

    `timeout_s` is the budget of a decision, `due_s` the part of it after which a silent shard is cut off.
    """

    def __init__(
        self,
        router: Router,
        queues: KeyQueues,
        outage: Outage,
        redeclarer: Redeclarer,
        account_redeclarer: AccountRedeclarer,
        accounts: Accounts,
        *,
        timeout_s: float,
        due_s: float,
    ) -> None:
        self._router, self._queues, self._outage, self._redeclarer = router, queues, outage, redeclarer
        self._account_redeclarer, self._accounts = account_redeclarer, accounts
        self._timeout_s, self._due_s = timeout_s, due_s
        self._script = load_script("limits")
        self._under_way: dict[str, _LimitsRead] = {}
        self._to_send: list[_LimitsRead] = []

    async def find(self, kid: str, *, is_missed: bool = False) -> bool:
        """See `Decider.find`. `is_missed`: the account that the node knows the key in doesn't have it, or is gone."""
        try:
            tag = await self._look_up(kid)
            if tag is not None and await self._is_in_account(kid, tag, is_missed=is_missed):
                return True
            async with asyncio.timeout(self._timeout_s):
                if not await self._was_lost(kid, tag or ""):
                    return False
                tag = await self._look_up(kid)
                return tag is not None and await self._is_in_account(kid, tag, is_missed=True)
        except TimeoutError:
            self._outage.note_refused()
            raise StoreUnavailable("the store did not reply in time") from None
        except StoreUnavailable:
            self._outage.note_refused()
            raise

    def on_ended(self, read: _LimitsRead) -> None:
        """Forget a read that has its reply or was given up."""
        if self._under_way.get(read.kid) is read:
            del self._under_way[read.kid]

    async def _look_up(self, kid: str) -> str | None:
        """Return the hash tag of the key's account; empty if it is a plain key, which is met; None if there is none."""
        read = self._read_of(kid)
        read.waiting += 1
        try:
            await self._wait_for_reply(read)
        finally:
            read.waiting -= 1
        reply = read.reply.result()
        if isinstance(reply, str):
            raise StoreUnavailable(reply)
        if reply is None:
            return None
        if not reply.tag:
            queue = self._plain(kid)
            if not queue.knowledge.exists:
                queue.knowledge.learn_limits(reply.limits, reply.time_ms, read.since_s, monotonic())
            self._queues.meet(queue)
        return reply.tag

    def _plain(self, kid: str) -> KeyQueue:
        """Return the queue of a plain key, which may have left its account."""
        queue = self._queues[kid]
        if isinstance(queue, Member):
            del self._queues[kid]
            queue = self._queues[kid]
        assert isinstance(queue, KeyQueue)
        return queue

    async def _is_in_account(self, kid: str, tag: str, *, is_missed: bool) -> bool:
        """Whether the account with that hash tag has the key, which is met then. A plain key is in none, but exists."""
        if not tag:
            return True
        known = self._queues.get(kid)
        if isinstance(known, Member) and known.account.kid == tag and not is_missed:
            return True  # found by another request meanwhile
        if self._outage.cuts_off_slot(slot_of(tag)):
            raise StoreUnavailable("the account's shard is cut off")
        async with asyncio.timeout(self._timeout_s):
            member = await self._accounts.open(kid, tag)
        if member is None:
            return False
        known = self._queues.get(kid)
        if isinstance(known, Member) and known.account is member.account:
            known.learn(member.body)
        else:
            self._queues.meet_member(member)
        return True

    def _read_of(self, kid: str) -> _LimitsRead:
        read = self._under_way.get(kid)
        if read is not None:
            return read
        slot = slot_of(kid)
        if self._outage.cuts_off_slot(slot):
            raise StoreUnavailable("the key's shard is cut off")
        target = ScriptTarget(self._script, slot, (limits_key(kid).encode(),), (), 0)
        read = self._under_way[kid] = _LimitsRead(self, self._router, target, kid)
        if not self._to_send:
            self._router.loop.call_soon(self._send)
        self._to_send.append(read)
        return read

    def _send(self) -> None:
        reads, self._to_send = self._to_send, []
        self._router.send(reads)

    async def _wait_for_reply(self, read: _LimitsRead) -> None:
        """Wait for the reply, within the budget. Raises `StoreUnavailable` if there is none."""
        asked_s, patience_s = monotonic(), self._due_s
        await asyncio.wait((read.reply,), timeout=patience_s)
        if not read.reply.done() and monotonic() - asked_s - patience_s > _LATE_S:
            await asyncio.wait((read.reply,), timeout=_LATE_S)
        if not read.reply.done():
            self.on_ended(read)  # the next request asks again
            self._outage.on_read_overdue(read)
            raise StoreUnavailable("the store did not reply in time")

    async def _was_lost(self, kid: str, stale_tag: str) -> bool:
        """Return whether the store had lost the key, and it has been declared again. Raises `StoreUnavailable`.

        `stale_tag`: the hash tag of an account that the key leads to, and that doesn't have it; empty if there is none.
        """
        known = self._queues.find(kid)
        redeclared, reason = await self._account_redeclarer.resolve(kid, known, stale_tag)
        if redeclared is Redeclared.UNKNOWN:
            knowledge = known.knowledge if isinstance(known, KeyQueue) else None
            redeclared, reason = await self._redeclarer.resolve(kid, knowledge)
        if redeclared is Redeclared.FAILED:
            raise StoreUnavailable(reason)
        if redeclared is Redeclared.DECLARED:
            return True
        if redeclared is Redeclared.DELETED or (known is not None and known.is_met):
            queue = self._plain(kid)
            if not queue.is_met:
                self._queues.meet(queue)  # so that the deletion is remembered
            queue.knowledge.forget()
        return False
