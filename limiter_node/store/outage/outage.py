"""Deciding without the store: a policy decides requests that the store doesn't decide in time.

While a shard is cut off (`store.outage.shards`), or while a key's own batch is overdue, a policy (`limiter.fallback`)
decides the key's requests at once, and nothing of the key is sent. Each admission becomes a charge that waits for the
shard; `store.decisions.reconciliation` has the rules by which it ends up counted exactly once.

When a shard is back, the charges of all keys follow, some keys at a time so that new decisions don't wait behind them;
a key's own come in front of its next request in any case.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from itertools import islice
from time import monotonic
from typing import Final

from limiter_node.decisions import Decision, Need, Outcome, Usage
from limiter_node.errors import StoreUnavailable
from limiter_node.limiter.fallback import Fallback
from limiter_node.limits import BUCKET_MS
from limiter_node.store.batch import Admit, Asker, Batch, SendQueue
from limiter_node.store.outage.shards import Shards
from limiter_node.store.pending import PendingAdmits
from limiter_node.store.unsent_charges import UnsentCharges
from limiter_node.store.wire.routing_and_retries import RoutedCall
from limiter_node.store.wire.topology import Topology
from limiter_node.telemetry import Telemetry

_RELEASED_AT_ONCE = 500
REFUSED = "refused"
"""In the counts: neither admitted nor rejected, because there is no policy, or the key isn't known or not good."""
_COUNTED_AS: Final = {
    Outcome.ADMITTED: "admitted",
    Outcome.REJECTED: "rejected",
    Outcome.NEVER_FITS: "rejected",
}


class Outage:
    """Decide in place of shards that don't, for one node. `is_on` says whether there may be any.

    `budget_s` is how long a decision may take, `due_s` the seconds from asking until a request's deadline.
    `start_sweeping` is called when something begins to wait for a shard: from then on, `tick` has to be called as long
    as `is_on` or `holds_any`.
    """

    def __init__(
        self,
        topology: Topology,
        pending: PendingAdmits,
        charges: UnsentCharges,
        fallback: Fallback | None,
        telemetry: Telemetry,
        *,
        budget_s: float,
        due_s: float,
        start_sweeping: Callable[[], None],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._pending, self._charges, self._fallback = pending, charges, fallback
        self._latency, self._due_s, self._start_sweeping = telemetry.decision_latency, due_s, start_sweeping
        self.shards = Shards(topology, budget_s, fallback.name if fallback else "closed", self._on_shard_back)
        self._overdue: dict[Batch, None] = {}
        self._held: dict[SendQueue, float] = {}
        self.is_on = False
        self.counts: Counter[str] = Counter()
        """Requests decided without the store: "admitted", "rejected", "refused"."""
        self._counts_logged: Counter[str] = Counter()

    # ---- requests --------------------------------------------------------------------------------------------------

    def usage(self, queue: Asker, models: tuple[str, ...] | None) -> Usage | None:
        """Return the policy's usage of a key; None if there is no policy, or the key isn't known.

        `models`: see `limiter.admission.Decider.peek`.
        """
        return None if self._fallback is None else queue.usage_alone(self._fallback, models)

    def cuts_off(self, queue: SendQueue) -> bool:
        """Whether the store isn't asked about this key or account now."""
        return queue.in_flight in self._overdue or self.shards.is_open(queue.target.slot)

    def cuts_off_slot(self, slot: int) -> bool:
        """Whether the shard of `slot` is cut off."""
        return self.is_on and self.shards.is_open(slot)

    def decide(self, queue: Asker, need: Need, reason: str = "the key's shard is cut off") -> Decision:
        """Decide a request that is never sent.

        Raises:
            StoreUnavailable: there is no policy, or it can't decide.
        """
        decision, bucket = self._ask_policy(queue, need, reason)
        if decision.outcome is not Outcome.ADMITTED:
            return decision
        charge = queue.new_charge(need, decision, bucket)
        charge = self._charges.charge(queue.sender, charge, decision.time_ms // BUCKET_MS)
        if self.is_on:
            self.hold(queue.sender)
        return decision._replace(receipt=charge)

    def decide_pending(self, admit: Admit, reason: str, *, is_sent: bool) -> None:
        """Decide a request if it still waits for the store. `is_sent`: the store's verdict may yet come."""
        if admit.future.done():
            return
        try:
            if is_sent:
                decision, bucket = self._ask_policy(admit.queue, admit.need, reason)
                if decision.outcome is Outcome.ADMITTED:
                    admit.charge = admit.queue.new_charge(admit.need, decision, bucket)
                    decision = decision._replace(receipt=admit.charge)
            else:
                decision = self.decide(admit.queue, admit.need, reason)
        except StoreUnavailable as error:
            admit.future.set_exception(error)
        else:
            admit.future.set_result(decision)
            self._latency.note(monotonic() + self._due_s - admit.deadline_s)

    def decide_unsent(self, queue: SendQueue, reason: str) -> None:
        """Decide the requests that wait in `queue` to be sent."""
        for admit in queue.take_unsent():
            self.decide_pending(admit, reason, is_sent=False)

    def note_refused(self) -> None:
        """Count a request that neither the store nor a policy decided."""
        self.counts[REFUSED] += 1

    @property
    def has_policy(self) -> bool:
        """Whether a policy decides; without one, requests are refused."""
        return self._fallback is not None

    def _ask_policy(self, queue: Asker, need: Need, reason: str) -> tuple[Decision, int]:
        """Return the policy's decision, and the bucket of the admission."""
        if self._charges.is_full_for(queue.sender):
            self.note_refused()
            raise StoreUnavailable("too many admissions wait to be counted in the store")
        try:
            decided = None if self._fallback is None else queue.decide_alone(self._fallback, need)
        except StoreUnavailable:
            self.note_refused()
            raise
        if decided is None:
            self.note_refused()
            raise StoreUnavailable(reason)
        outcome = decided[0].outcome
        self.counts[_COUNTED_AS.get(outcome, REFUSED)] += 1
        return decided

    # ---- batches and reads -----------------------------------------------------------------------------------------

    def on_overdue(self, batch: Batch) -> None:
        """Cut off the key of a batch that has been outstanding for too long, and the shard if it is to blame."""
        self._overdue[batch] = None
        self.is_on = True
        self._blame_shard_of(batch)
        self.cut_off(batch.queue)

    def on_read_overdue(self, call: RoutedCall) -> None:
        """Cut off the shard of an overdue read whose reply a decision needs."""
        self._blame_shard_of(call)
        self._note_state()
        self._start_sweeping()

    def on_ended(self, batch: Batch) -> None:
        """Note that a batch has been decided, or given up."""
        if self._overdue.pop(batch, batch) is None:
            self._note_state()

    def cut_off(self, queue: SendQueue) -> None:
        """Decide all requests of a key that is cut off; its settles and charges wait for its shard."""
        reason = "the store did not reply in time"
        if queue.in_flight is not None:
            queue.in_flight.was_cut_off = True
            for admit in queue.in_flight.admits:
                self.decide_pending(admit, reason, is_sent=True)
        self.decide_unsent(queue, reason)
        if queue.has_settles or queue.charges:
            self.hold(queue)

    def _blame_shard_of(self, call: RoutedCall) -> None:
        # While a slot moves, servers refer a batch to each other for a while; the rest of the shard is healthy.
        if not call.tries or call.trouble or not self.shards.answers(call.target.slot):
            self.shards.open_breaker(call.target.slot, call.trouble or "no decision in time")
        for admit in self._pending.unanswered():
            if not admit.future.done() and self.cuts_off(admit.queue.sender):
                self.cut_off(admit.queue.sender)

    # ---- the way back ----------------------------------------------------------------------------------------------

    def hold(self, queue: SendQueue, seconds: float = 0.0) -> None:
        """Keep a key's settles and charges until its shard is back, and for at least `seconds`."""
        self._held[queue] = self._loop.time() + seconds
        self._start_sweeping()

    def holds(self, queue: SendQueue) -> bool:
        """Whether settles or charges of this key wait for its shard."""
        return queue in self._held

    @property
    def holds_any(self) -> bool:
        """Whether any key waits for a shard."""
        return bool(self._held)

    def tick(self) -> list[SendQueue]:
        """Probe the shards that are cut off; return some keys that need not wait any longer, to be sent."""
        self.shards.tick()
        self._note_state()
        now_s = self._loop.time()
        released = []
        for queue in list(islice(self._held, _RELEASED_AT_ONCE)):
            until_s = self._held.pop(queue)
            if until_s > now_s or (self.is_on and self.cuts_off(queue)):
                self._held[queue] = until_s  # moves to the end of the queue
                if queue.charges and (now_bucket := queue.now_bucket()) is not None:
                    self._charges.forget(queue, now_bucket)
            else:
                released.append(queue)
        return released

    def close(self) -> None:
        """Stop deciding: the node ends, and requests without a verdict are refused."""
        self._fallback = None

    def _note_state(self) -> None:
        self.is_on = bool(self.shards or self._overdue)

    def _on_shard_back(self) -> dict[str, int]:
        """Return the counts of decisions since a shard last came back, for the log."""
        self._note_state()
        counts, self._counts_logged = self.counts - self._counts_logged, self.counts.copy()
        return dict(counts)
