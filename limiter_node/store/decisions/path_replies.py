"""The end of an account's batch: its reply goes to the node's knowledge and to the requests that wait.

As `store.decisions.replies` for plain keys, and with what only accounts have: policies that changed since the batch was
made. The reply then brings the new ones, and the requests concerned go into the account's next batch. An account that
the store has lost is declared again by `store.decisions.redeclare_accounts`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from time import monotonic

from limiter_node.decisions import EXPIRED_KEY, REFUSALS, UNKNOWN_KEY, Decision, Outcome
from limiter_node.errors import StoreUnavailable
from limiter_node.limits import BUCKET_MS
from limiter_node.plans import Plan
from limiter_node.policy import tag_fields, tag_text
from limiter_node.store.accounts.batch import PathBatch
from limiter_node.store.accounts.charges import PathCharge, PathReceipt
from limiter_node.store.accounts.codec import PathsReply, unpack_reply
from limiter_node.store.accounts.member import CHECK_POINTER_EVERY_S, FurtherCredential, Member
from limiter_node.store.accounts.queue import AccountQueue
from limiter_node.store.accounts.verdicts import decisions_of
from limiter_node.store.batch import Admit, Batch
from limiter_node.store.codec import DECIDED, LOST, REPLAYED, UnreadableReply
from limiter_node.store.codec import UNKNOWN_KEY as NO_ACCOUNT
from limiter_node.store.decisions.batch_ends import BatchEnds
from limiter_node.store.decisions.forwarding import Forwarding
from limiter_node.store.decisions.losses import Losses
from limiter_node.store.decisions.reconciliation import Reconciliation
from limiter_node.store.decisions.redeclare import Redeclared
from limiter_node.store.decisions.redeclare_accounts import AccountRedeclarer
from limiter_node.store.wire.routing_and_retries import Router
from limiter_node.telemetry import Telemetry

log = logging.getLogger(__name__)

_UNREADABLE = {"event": "policy_unreadable"}


class PathReplies(BatchEnds):
    """A `BatchOwner` of the batches of accounts, for one node.

    `due_s`: seconds from asking until a request's deadline. `on_ended`: see `BatchEnds`. `on_gone`: called with the
    requests whose key, or account, the store doesn't have where this node looked for it.
    """

    def __init__(
        self,
        router: Router,
        reconciliation: Reconciliation,
        losses: Losses,
        redeclarer: AccountRedeclarer,
        forwarding: Forwarding,
        telemetry: Telemetry,
        *,
        due_s: float,
        on_ended: Callable[[Batch], None],
        on_gone: Callable[[list[Admit]], None],
    ) -> None:
        super().__init__(reconciliation, telemetry, due_s=due_s, on_ended=on_ended)
        self._router, self._losses, self._redeclarer, self._on_gone = router, losses, redeclarer, on_gone
        self._forwarding = forwarding

    def on_batch_reply(self, batch: Batch, reply: bytes) -> None:
        """See `BatchOwner`. The whole reply is read before anything is done."""
        assert isinstance(batch, PathBatch)
        layout = batch.layout
        found = unpack_reply(reply, len(layout.windows()), len(batch.admits), len(layout.kids), batch.others)
        if found.state > REPLAYED:
            self._on_not_decided(batch, found)
            return
        decisions, number = decisions_of(batch, found), batch.number
        is_counted = any(each is not None and _is_counted(each) for each in decisions)
        # What is counted is recorded, and no batch is recorded before it is sent.
        if found.recorded != number and (found.recorded > number or is_counted):
            raise UnreadableReply(f"batch {number} was decided, and {found.recorded} recorded")
        self._end(batch, self._on_decided, found, decisions)

    def on_batch_failed(self, batch: Batch, reason: str) -> None:
        """See `BatchOwner`. Keep what has to be counted: windows of accounts are longer than calls are retried.

        The router gives up only calls that have not run.
        """
        self._end(batch, self._reconciliation.on_refused, reason)

    def on_batch_held_up(self, batch: Batch) -> None:
        """See `BatchOwner`. The node knows the account's policies, so that a policy decides if it takes too long."""

    def _on_decided(self, batch: PathBatch, reply: PathsReply, decisions: list[Decision | None]) -> None:
        account, heard_s = batch.queue, monotonic()
        assert isinstance(account, AccountQueue)
        account.missing_since_s = None
        knowledge = account.knowledge
        if reply.state == DECIDED:  # else the time is that of the decision, which was before
            knowledge.learn_time(reply.time_ms, batch.since_s, heard_s)
        places = batch.layout.all_places()
        is_complete = not account.charges and not batch.was_cut_off
        knowledge.learn(zip(places, batch.layout.windows(), reply.windows, strict=True), is_complete=is_complete)
        knowledge.learn_record(reply.recorded)
        knowledge.note(_admitted(batch, decisions), batch.number)
        account.note_decisions(decisions)
        unreadable, has_older = _learn_policies(account, batch, reply.policies) if reply.policies else ("", False)
        if batch.charges:
            self._reconciliation.on_charged(batch, reply.time_ms)
        self._send_after(account, batch, reply)
        decided: list[Admit] = []
        verdicts: list[Decision] = []
        gone: list[Admit] = []
        again: list[Admit] = []
        for admit, decision, ends_ms in zip(batch.admits, decisions, batch.path_admits.ends_ms, strict=True):
            if decision is None:
                self._on_not_counted(batch, admit, again)
            elif decision is EXPIRED_KEY:
                self._on_ended_credential(batch, admit, ends_ms, again)
            elif decision is UNKNOWN_KEY:
                self._on_not_counted(batch, admit, gone)
            else:
                decided.append(admit)
                verdicts.append(decision)
                self._on_confirmed(_member_of(admit), heard_s)
        if decided:
            account.confirmed_s = heard_s
        self._deliver(batch, decided, verdicts, heard_s)
        again = [each for each in again if not self._is_refused(each)]
        if unreadable:  # asked again, they would only be too old again
            if unreadable != account.unreadable:
                event = {**_UNREADABLE, **tag_fields(account.kid)}
                log.error("a policy of %s can't be read: %s", tag_text(account.kid), unreadable, extra=event)
            account.unreadable = unreadable
            for admit in again:
                admit.future.set_exception(StoreUnavailable(f"a policy of the account can't be read: {unreadable}"))
        elif has_older:
            gone += again  # where their keys are looked for, the node declares its own policies over those
        else:
            account.put_admits_back(again)
        if gone:
            # All of a key that is gone is asked again together: what waits was put there for the account's old key.
            for member in {_member_of(each) for each in gone}:
                gone += account.take_unsent_of(member)
            self._on_gone(gone)

    def _send_after(self, account: AccountQueue, batch: PathBatch, reply: PathsReply) -> None:
        """Send settles and charges whose key has left the account after it."""
        for place in reply.skipped:
            if place < len(batch.charges):
                charge, amounts = batch.charges[place]
                assert isinstance(charge, PathCharge)
                tick = min(charge.bucket, reply.time_ms // BUCKET_MS)
                self._forwarding.add_charge(account, charge, tick * BUCKET_MS, amounts)
            else:
                settle = batch.settles[place - len(batch.charges)]
                receipt = PathReceipt(account, settle.kid, settle.windows, settle.time_ms)
                self._forwarding.add_settle(account, receipt, settle.amounts)

    def _on_ended_credential(self, batch: Batch, admit: Admit, ends_ms: int, again: list[Admit]) -> None:
        """Refuse a request, unless the node has learnt meanwhile that its credential has another end."""
        if admit.charge is None and not admit.future.done() and _member_of(admit).end_of(admit.queue.cid) == ends_ms:
            self._refuse(admit, EXPIRED_KEY)
        else:
            self._on_not_counted(batch, admit, again)

    def _is_refused(self, admit: Admit) -> bool:
        """Refuse a request whose credential isn't good, whatever the time, by the policy just told by the store."""
        asker = admit.queue
        assert isinstance(asker, Member | FurtherCredential)
        refusal = REFUSALS.get(asker.state(0))
        if refusal is None:
            return False
        self._refuse(admit, refusal)
        return True

    def _refuse(self, admit: Admit, refusal: Decision) -> None:
        admit.future.set_result(refusal)
        self._count_decision(refusal.outcome)

    def _on_confirmed(self, member: Member, heard_s: float) -> None:
        """Note that the store has decided by the key's policy as the node knows it."""
        member.confirmed_s = heard_s
        if heard_s >= member.check_pointer_s:
            member.check_pointer_s = heard_s + CHECK_POINTER_EVERY_S
            self._redeclarer.pointers.check(member)

    def _on_not_counted(self, batch: Batch, admit: Admit, waiting: list[Admit]) -> None:
        """Take a request that the store hasn't decided: it waits on, unless it was decided meanwhile."""
        if admit.charge is not None:
            self._reconciliation.on_not_counted(batch, admit.charge)
        elif not admit.future.done():
            waiting.append(admit)

    def _on_not_decided(self, batch: PathBatch, reply: PathsReply) -> None:
        if reply.state == LOST:
            self._end(batch, self._losses.on_loss, reply.recorded)
        elif reply.state == NO_ACCOUNT:
            if batch.was_redeclared:  # lost again, which doesn't say whether the account exists
                self._end(batch, self._reconciliation.on_refused, "the store has lost the account again")
                return
            account = batch.queue
            assert isinstance(account, AccountQueue)
            batch.tries += 1  # its shard has replied: a delay is not its fault
            self._redeclarer.begin_account(account, partial(self._on_redeclared, batch))
        else:
            self._lost_track(batch)

    def _on_redeclared(self, batch: PathBatch, result: Redeclared, reason: str) -> None:
        if result is Redeclared.DECLARED:
            batch.was_redeclared = True
            self._router.send([batch])  # the reply shows whether the store has lost the account's windows, too
        elif result is Redeclared.FAILED:
            self._end(batch, self._reconciliation.on_refused, reason)
        else:
            # A flat key that is elsewhere was deleted here, and its requests are asked there.
            self._end(batch, self._on_no_account, result is not Redeclared.UNKNOWN)

    def _on_no_account(self, batch: PathBatch, is_deleted: bool) -> None:
        account = batch.queue
        assert isinstance(account, AccountQueue)
        self._reconciliation.on_no_account(batch, account, is_deleted=is_deleted)
        self._on_gone(account.take_unsent())


def _member_of(admit: Admit) -> Member:
    """Return the key of a request."""
    assert isinstance(admit.queue, Member | FurtherCredential)
    return admit.queue.member


def _is_counted(decision: Decision) -> bool:
    """Return whether the store has counted a request: if it was admitted, and there is a window to count it in."""
    return decision.outcome is Outcome.ADMITTED and decision.path is not None and bool(decision.path.plan.windows)


def _admitted(batch: PathBatch, decisions: Sequence[Decision | None]) -> Iterable[tuple[str, Plan, list[Decision]]]:
    """Return the admissions by path: key, plan, decisions."""
    by_path: dict[int, tuple[str, Plan, list[Decision]]] = {}
    taken = batch.path_admits
    for at, decision in enumerate(decisions):
        admit = taken.admits[at]
        # Requests admitted without the store are already in the node's own windows.
        if decision is not None and decision.outcome is Outcome.ADMITTED and admit.charge is None:
            by_path.setdefault(taken.paths[at], (admit.queue.kid, taken.plans[at], []))[2].append(decision)
    return by_path.values()


def _learn_policies(account: AccountQueue, batch: PathBatch, policies: Sequence[tuple[int, bytes]]) -> tuple[str, bool]:
    """Learn the policies for which a batch was too old.

    Return why one of them can't be read, "" if all can; and whether the node knows a later one than one of them.
    """
    has_older = False
    unreadable, members = "", {admit.queue.kid: _member_of(admit) for admit in batch.admits}
    for which, body in policies:
        try:
            if which == 0:
                has_older |= not account.learn(body)
            elif (member := members.get(batch.layout.kids[which - 1])) is not None:
                has_older |= not member.learn(body)
        except ValueError as error:
            unreadable = str(error)
    return unreadable, has_older
