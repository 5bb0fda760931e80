"""Asks the store whether a key exists, before the body of a request whose key the node hasn't met is read.

A key that exists is met, with its limits. One that doesn't leaves nothing behind: an invented key costs its request one
short read, which shares its write with all reads that begin in the same turn of the event loop. Requests of one key
share one read.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from time import monotonic
from typing import NamedTuple

from limiter_node.errors import StoreUnavailable
from limiter_node.key_states import CredentialState
from limiter_node.limits import KeyLimits
from limiter_node.store.accounts.accounts import Accounts, Missing
from limiter_node.store.accounts.member import CHECK_POINTER_EVERY_S, FurtherCredential, Member
from limiter_node.store.decisions.following import Follower
from limiter_node.store.decisions.queues import KeyQueues
from limiter_node.store.decisions.redeclare import Redeclared, Redeclarer
from limiter_node.store.decisions.redeclare_accounts import AccountRedeclarer
from limiter_node.store.key_queue import KeyQueue
from limiter_node.store.keyspace import limits_key, slot_of
from limiter_node.store.knowledge import KeyKnowledge
from limiter_node.store.outage.outage import Outage
from limiter_node.store.scripts import load_script
from limiter_node.store.values import unpack_limits
from limiter_node.store.wire.routing_and_retries import RoutedCall, Router
from limiter_node.store.wire.script_target import ScriptTarget

_LATE_S = 0.02
"""A wait that ends this much too late means that this node stood still; the reply may have come, unread."""


class _Found(NamedTuple):
    """The key that a credential leads to.

    `tag`: the hash tag of its account, or empty if it is a plain key, which has `limits`. `time_ms`: the store's time.
    """

    kid: str
    tag: str
    limits: KeyLimits
    time_ms: int


class _LimitsRead(RoutedCall):
    """A read of the limits that a credential leads to, for all its requests that wait for it.

    `reply`: what was found, None if there is no such key; or the reason why there is no reply.
    """

    __slots__ = ("_finder", "cid", "is_sent", "reply", "waiting")

    def __init__(self, finder: KeyExistence, router: Router, target: ScriptTarget, cid: str) -> None:
        super().__init__(router, target, monotonic())
        self._finder, self.cid = finder, cid
        self.waiting, self.is_sent = 0, False
        self.reply: asyncio.Future[_Found | str | None] = router.loop.create_future()

    def arguments(self) -> bytes:
        return b""

    def is_wanted(self) -> bool:
        return self.waiting > 0

    def on_result(self, reply: list[bytes] | None) -> None:
        found = None
        if reply is not None:
            time_ms = int(reply[1])
            if len(reply) > 2:
                found = _Found(reply[3].decode(), reply[2].decode(), KeyLimits(), time_ms)
            else:
                found = _Found(self.cid, "", unpack_limits(reply[0]), time_ms)
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
    `latest_number` returns that of the node's latest batch.
    """

    def __init__(
        self,
        router: Router,
        queues: KeyQueues,
        outage: Outage,
        redeclarer: Redeclarer,
        account_redeclarer: AccountRedeclarer,
        accounts: Accounts,
        follower: Follower,
        *,
        latest_number: Callable[[], int],
        timeout_s: float,
        due_s: float,
    ) -> None:
        self._router, self._queues, self._outage, self._redeclarer = router, queues, outage, redeclarer
        self._account_redeclarer, self._accounts, self._follower = account_redeclarer, accounts, follower
        self._timeout_s, self._due_s, self._latest_number = timeout_s, due_s, latest_number
        self._script = load_script("limits")
        self._under_way: dict[str, _LimitsRead] = {}
        self._to_send: list[_LimitsRead] = []

    async def find(self, cid: str, *, is_missed: bool = False) -> CredentialState:
        """See `Decider.find`. `is_missed`: what the node knows of the key is wrong, or it is not where that says."""
        since_s = monotonic()
        try:
            try:
                state, has_joined = await self._find(cid, is_missed=is_missed)
                if state is not CredentialState.VALID and has_joined:  # it may have changed before this request
                    state, _ = await self._find(cid, is_missed=True, not_before_s=since_s)
                return state
            except TimeoutError:
                raise StoreUnavailable("the store did not reply in time") from None
        except StoreUnavailable:
            known = self._queues.get(cid)
            if isinstance(known, Member | FurtherCredential) and (refusal := known.known_refusal()) is not None:
                return refusal
            self._outage.note_refused()
            raise

    async def _find(self, cid: str, *, is_missed: bool, not_before_s: float = 0.0) -> tuple[CredentialState, bool]:
        """Return a credential's state, and whether it may be older than this call: another one's reads were shared.

        Only reads are shared that were begun at `not_before_s` or later.
        """
        read, state = self._under_way.get(cid), None
        has_joined = read is not None and read.is_sent
        found = await self._look_up(cid, not_before_s)
        if found is not None:
            has_joined |= self._accounts.is_reading(found.kid, found.tag)
            state = await self._state(cid, found, is_missed=is_missed, not_before_s=not_before_s)
        if isinstance(state, CredentialState):
            return state, has_joined
        async with asyncio.timeout(self._timeout_s):
            if not await self._was_lost(cid, "" if found is None else found.tag):
                return CredentialState.UNKNOWN, has_joined
            found = await self._look_up(cid, not_before_s)
            state = None if found is None else await self._state(cid, found, is_missed=True, not_before_s=not_before_s)
            return state if isinstance(state, CredentialState) else CredentialState.UNKNOWN, has_joined

    def on_ended(self, read: _LimitsRead) -> None:
        """Forget a read that has its reply or was given up."""
        if self._under_way.get(read.cid) is read:
            del self._under_way[read.cid]

    async def _look_up(self, cid: str, not_before_s: float) -> _Found | None:
        """Return the key that a credential leads to; None if there is none. A plain key is met."""
        read = self._read_of(cid, not_before_s)
        read.waiting += 1
        try:
            await self._wait_for_reply(read)
        finally:
            read.waiting -= 1
        reply = read.reply.result()
        if isinstance(reply, str):
            raise StoreUnavailable(reply)
        if reply is not None and not reply.tag:
            queue = self._plain(cid)
            if not queue.knowledge.exists:
                queue.knowledge.learn_limits(reply.limits, reply.time_ms, read.since_s, monotonic())
            self._queues.meet(queue)
        return reply

    def _plain(self, kid: str) -> KeyQueue:
        """Return the queue of a plain key, which may have left its account."""
        queue = self._queues[kid]
        if isinstance(queue, Member | FurtherCredential):
            del self._queues[kid]
            queue = self._queues[kid]
        assert isinstance(queue, KeyQueue)
        return queue

    async def _state(
        self, cid: str, found: _Found, *, is_missed: bool, not_before_s: float
    ) -> CredentialState | Missing:
        """Return the state of a credential that leads to `found`, if the account has the key.

        A key of which the credential is one is met, whatever its state. A plain key is in no account, but exists.
        """
        if not found.tag:
            return CredentialState.VALID
        if not is_missed and self._is_known(cid, found):
            return CredentialState.VALID  # found by another request meanwhile
        opened, _ = await self._follower.follow(found.kid, found.tag, not_before_s)
        if isinstance(opened, Missing):
            return opened
        member, time_ms = opened
        state = member.key.credential_state(cid, time_ms)
        known = self._queues.get(cid)
        is_met = isinstance(known, Member | FurtherCredential) and known.member is member
        if isinstance(known, Member | FurtherCredential) and known.member.account is not member.account:
            member.take_over(known.member, self._latest_number())
        if state is not CredentialState.UNKNOWN and not is_met:
            self._queues.meet_member(member, cid)
        return state

    def _is_known(self, cid: str, found: _Found) -> bool:
        """Whether the node knows a credential as good, and the key where it was found."""
        known = self._queues.get(cid)
        if not isinstance(known, Member | FurtherCredential):
            return False
        return (known.kid, known.member.account.kid) == (found.kid, found.tag) and known.is_valid

    def _read_of(self, cid: str, not_before_s: float) -> _LimitsRead:
        read = self._under_way.get(cid)
        if read is not None and read.since_s >= not_before_s:
            return read
        slot = slot_of(cid)
        if self._outage.cuts_off_slot(slot):
            raise StoreUnavailable("the key's shard is cut off")
        target = ScriptTarget(self._script, slot, (limits_key(cid).encode(),), (), 0)
        read = self._under_way[cid] = _LimitsRead(self, self._router, target, cid)
        if not self._to_send:
            self._router.loop.call_soon(self._send)
        self._to_send.append(read)
        return read

    def _send(self) -> None:
        reads, self._to_send = self._to_send, []
        for read in reads:
            read.is_sent = True
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

    async def _was_lost(self, cid: str, stale_tag: str) -> bool:
        """Return whether the store had lost the key, and it has been declared again. Raises `StoreUnavailable`.

        `stale_tag`: the hash tag of an account that the credential leads to, and that doesn't have the key; empty if
        there is none.
        """
        known = self._queues.find(cid)
        redeclared, reason = await self._account_redeclarer.resolve(cid, known, stale_tag)
        if redeclared is Redeclared.UNKNOWN:
            knowledge = known.knowledge if isinstance(known, KeyQueue) else None
            redeclared, reason = await self._redeclarer.resolve(cid, knowledge)
            self._look_for_mark(cid, knowledge)
        if redeclared is Redeclared.FAILED:
            raise StoreUnavailable(reason)
        if redeclared in (Redeclared.DECLARED, Redeclared.ELSEWHERE):
            return True
        if redeclared is Redeclared.DELETED or (known is not None and known.is_met):
            queue = self._plain(cid)
            if not queue.is_met:
                self._queues.meet(queue)  # so that the deletion is remembered
            knowledge = queue.knowledge
            mark = (reason or cid) if redeclared is Redeclared.DELETED else knowledge.mark_of_deletion
            knowledge.forget()
            knowledge.mark = mark
            if isinstance(known, Member | FurtherCredential):
                self._accounts.forget(known.member)
        return False

    def _look_for_mark(self, cid: str, knowledge: KeyKnowledge | None) -> None:
        """Leave the mark of a deletion again where the store has lost that, too, by what this node was told."""
        if knowledge is not None and knowledge.mark_of_deletion:
            now_s = monotonic()
            if now_s >= knowledge.check_mark_s:
                knowledge.check_mark_s = now_s + CHECK_POINTER_EVERY_S
                self._account_redeclarer.pointers.mark_again(cid, knowledge.mark)
