"""Deciding without the store, and making good for it afterwards.

While a shard is cut off (`store.outage.shards`), or while a key's own batch is overdue, a policy (`limiter.policy`)
decides the key's requests at once; nothing of the key is sent. The rules by which each admission ends up counted
exactly once:

1. An admission that was never sent is charged to its bucket of the store's clock, as estimated from its last replies.
   Charges wait here, joined per bucket, and leave first in the key's next batch: before settles, before new requests.
2. A request whose batch was under way when the shard was cut off has a charge of its own, which waits for the batch:
   that is sent again under its number, and a key has no other batch before it has ended.
   a. The batch admitted it, and so did the policy: the charge is dropped; the request is counted where the store has
      it, and what it gave back meanwhile is settled there.
   b. The batch rejected it or never ran: the charge stands.
   c. The batch admitted it but the policy did not: it is given back, request and tokens. Until that has arrived, it
      is in the window: on the safe side.
3. What a request gives back lessens its charge until that has been sent, and is settled in the store afterwards.
4. What has left the window counts for nothing: such charges are forgotten, and a batch that old is given up unless it
   may have run. What one admits so late, on a server that had stood still, counts for nobody: it is given back.
5. A batch that the store refused, or that met a store which has lost data (`store.decisions.losses`), has counted
   nothing: what it carried is owed again.

When a shard is back, the charges of all keys follow, some keys at a time so that new decisions don't wait behind them;
a key's own come in front of its next request in any case.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter, deque
from collections.abc import Iterable
from itertools import islice
from time import monotonic
from typing import Protocol

from limiter_node.decisions import Decision, Need, Outcome, Receipt, Usage
from limiter_node.errors import StoreUnavailable
from limiter_node.limiter.policy import Fallback
from limiter_node.limits import BUCKET_MS, Amounts
from limiter_node.store import codec
from limiter_node.store.batch import Admit, Batch, KeyQueue
from limiter_node.store.charges import Charge, Ledger
from limiter_node.store.outage.shards import Shards
from limiter_node.store.wire.routing import RoutedCall
from limiter_node.store.wire.store_connection import ServerConnection
from limiter_node.telemetry import Telemetry

log = logging.getLogger(__name__)

_RELEASED_AT_ONCE = 500
_REFUSED_AGAIN_S = 0.5
"""How long what was refused waits before the store is asked again: a login's rights, say, are mended by people."""
REFUSED = "refused"
"""In the counts: neither admitted nor rejected, for want of a policy or because the key isn't known."""


class Queues(Protocol):
    """The dispatcher, as far as it is needed here."""

    def waiting(self) -> Iterable[Admit]:
        """The requests that wait, answered ones among them."""
        ...

    def release(self, queue: KeyQueue) -> None:
        """Send what waits there, unless a batch of it is under way."""
        ...

    def take_back(
        self, queue: KeyQueue, receipt: Receipt, input_tokens: int, output_tokens: int, requests: int = 0
    ) -> None:
        """Give back what an admission holds; see `Dispatcher.give_back`."""
        ...

    def look_after(self) -> None:
        """Call `Outage.tick` from now on, as long as it holds anything."""
        ...

    def settle(self, queue: KeyQueue, bucket: int, input_tokens: int, output_tokens: int, requests: int = 0) -> None:
        """Settle tokens of which this node's own window knows already."""
        ...


class Outage:
    """What one node does about shards that don't decide. `is_on` says that there may be any.

    `due_s` is what a request's deadline is later than its asking.
    """

    def __init__(
        self,
        queues: Queues,
        shards: Shards,
        fallback: Fallback | None,
        telemetry: Telemetry,
        *,
        window_buckets: int,
        due_s: float,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._queues, self._shards, self._fallback = queues, shards, fallback
        self._latency = telemetry.decision_latency
        self._due_s, self._window_buckets = due_s, window_buckets
        self._ledger = Ledger(window_buckets)
        self._stuck: dict[Batch, None] = {}
        self._held: dict[KeyQueue, float] = {}
        self.is_on = False
        self.counts: Counter[str] = Counter()
        """Requests decided without the store: "admitted", "rejected", "refused"."""
        self._counts_told: Counter[str] = Counter()
        shards.on_close = self._closed

    # ---- requests --------------------------------------------------------------------------------------------------

    def usage(self, queue: KeyQueue) -> Usage | None:
        """Return what the policy tells of a key's usage; None if there is none, or the key isn't known."""
        known = queue.knowledge.known()
        return None if self._fallback is None or known is None else self._fallback.usage(known)

    def cuts_off(self, queue: KeyQueue) -> bool:
        """Whether the store isn't asked about this key now."""
        return queue.in_flight in self._stuck or self._shards.is_open(queue.target.slot)

    def decide(self, queue: KeyQueue, need: Need, reason: str = "its shard is cut off") -> Decision:
        """Decide a request that is never sent.

        Raises:
            StoreUnavailable: there is no policy, or it can't.
        """
        decision, bucket = self._ask_policy(queue, need, reason)
        if decision.outcome is not Outcome.ADMITTED:
            return decision
        charge = self._ledger.charge(_owed_by(queue), bucket, decision.need, decision.time_ms // BUCKET_MS)
        if self.is_on:
            self.hold(queue)
        return decision._replace(receipt=charge)

    def decide_waiting(self, admit: Admit, reason: str, *, is_sent: bool) -> None:
        """Decide a request that waits for the store, if it still does. `is_sent`: the store's verdict may yet come."""
        if admit.future.done():
            return
        try:
            if is_sent:
                decision, bucket = self._ask_policy(admit.queue, admit.need, reason)
                if decision.outcome is Outcome.ADMITTED:
                    admit.charge = Charge(bucket, decision.need)
                    decision = decision._replace(receipt=admit.charge)
            else:
                decision = self.decide(admit.queue, admit.need, reason)
        except StoreUnavailable as error:
            admit.future.set_exception(error)
        else:
            admit.future.set_result(decision)
            self._latency.note(monotonic() + self._due_s - admit.deadline_s)

    def _decide_all(self, queue: KeyQueue, reason: str) -> None:
        """Decide the requests of a key that wait to be sent."""
        waiting, queue.admits = queue.admits, []
        for admit in waiting:
            self.decide_waiting(admit, reason, is_sent=False)

    def _ask_policy(self, queue: KeyQueue, need: Need, reason: str) -> tuple[Decision, int]:
        """Return the policy's decision, and the bucket of what it admits."""
        known = queue.knowledge.known()  # None as well where the store's last word was that there is no such key
        if self._fallback is None or known is None:
            self.note_refused()
            raise StoreUnavailable(reason)
        decision = self._fallback.decide(known, need)
        self.counts["admitted" if decision.outcome is Outcome.ADMITTED else "rejected"] += 1
        return decision, known.latest_ms // BUCKET_MS

    def hold(self, queue: KeyQueue, seconds: float = 0.0) -> None:
        """Something of this key waits for its shard to return, and for so long at least."""
        self._held[queue] = self._loop.time() + seconds
        self._queues.look_after()

    def holds(self, queue: KeyQueue) -> bool:
        """Whether something of this key waits here."""
        return queue in self._held

    @property
    def has_policy(self) -> bool:
        """Whether anything but a refusal comes of it."""
        return self._fallback is not None

    @property
    def holds_any(self) -> bool:
        """Whether anything waits for a shard."""
        return bool(self._held)

    # ---- batches ---------------------------------------------------------------------------------------------------

    def overdue(self, batch: Batch) -> None:
        """A batch has been outstanding for longer than the budget: its key is cut off, and its shard if that is why."""
        self._stuck[batch] = None
        self.is_on = True
        self._blame_shard_of(batch)
        self.cut_off(batch.queue)

    def read_overdue(self, call: RoutedCall) -> None:
        """A read without which nothing can be decided has been outstanding for longer than the budget."""
        self._blame_shard_of(call)
        self._note_state()
        self._queues.look_after()

    def note_refused(self) -> None:
        """Count a request that neither the store nor a policy decided."""
        self.counts[REFUSED] += 1

    def is_open(self, slot: int) -> bool:
        """Whether the shard of `slot` is cut off."""
        return self.is_on and self._shards.is_open(slot)

    def _blame_shard_of(self, call: RoutedCall) -> None:
        # A slot on the move makes servers refer a batch to each other for a while; the rest of the shard is well.
        if not call.tries or call.trouble or not self._shards.answers(call.target.slot):
            self._shards.open_breaker(call.target.slot, call.trouble or "no decision in time")
        for admit in self._queues.waiting():
            if not admit.future.done() and self.cuts_off(admit.queue):
                self.cut_off(admit.queue)

    def cut_off(self, queue: KeyQueue) -> None:
        """Decide all that waits of a key which is cut off; what else there is of it waits for its shard."""
        reason = "the store did not answer in time"
        if queue.in_flight is not None:
            queue.in_flight.was_cut_off = True
            for admit in queue.in_flight.admits:
                self.decide_waiting(admit, reason, is_sent=True)
        self._decide_all(queue, reason)
        if queue.settles or queue.owed:
            self.hold(queue)

    def ended(self, batch: Batch) -> None:
        """A batch has been decided, or given up."""
        if self._stuck.pop(batch, batch) is None:
            self._note_state()

    def take_charges(self, queue: KeyQueue, most: int) -> tuple[list[bytes], list[tuple[Charge, Amounts]]]:
        """The first of what the key owes, as operations; see `Ledger.take`."""
        assert queue.owed is not None
        taken = self._ledger.take(queue.owed, most)
        if not queue.owed:
            queue.owed = None
        return taken

    def charged(self, batch: Batch, time_ms: int) -> None:
        """The store has counted a batch's charges, when its clock was `time_ms`: in their buckets, or in that one."""
        for charge, amounts in batch.charges:
            self._count(batch, charge, min(charge.bucket, time_ms // BUCKET_MS), amounts)

    def verdict(self, batch: Batch, admit: Admit, decision: Decision) -> None:
        """The store's verdict, come late, on a request that was decided without it or given up by its caller."""
        charge = admit.charge
        if charge is None:
            if decision.outcome is Outcome.ADMITTED:
                # Told not to be admitted, it counts for nothing (accounting rule 2); one whose caller has gone stays
                # counted, and its tokens go back (rule 4).
                _, input_tokens, output_tokens = decision.need
                requests = 0 if admit.future.cancelled() else 1
                self._queues.take_back(batch.queue, decision.receipt, input_tokens, output_tokens, requests)
        elif decision.outcome is Outcome.ADMITTED:
            bucket = decision.time_ms // BUCKET_MS
            if bucket - charge.bucket <= self._window_buckets:
                self._count(batch, charge, bucket, decision.need)
            else:
                charge.gone()
                requests, input_tokens, output_tokens = decision.need
                self._queues.settle(batch.queue, bucket, input_tokens, output_tokens, requests)
        elif decision.outcome is Outcome.UNKNOWN_KEY:
            charge.gone()
        else:
            self.owe(batch.queue, charge)

    def not_run(self, batch: Batch) -> None:
        """The store has not run a batch and will not: what it carried waits for the key's next one."""
        queue = batch.queue
        if batch.charges:
            self._ledger.put_back(_owed_by(queue), [charge for charge, _ in batch.charges])
        queue.settles[:0] = batch.settles
        waiting = []
        for admit in batch.admits:
            if admit.charge is not None:
                self.owe(queue, admit.charge)
            elif not admit.future.done():
                waiting.append(admit)
        queue.admits[:0] = waiting

    def refused(self, batch: Batch, reason: str) -> None:
        """The store refuses to run a batch: its requests are decided without it, the rest is tried again later."""
        queue = batch.queue
        self.not_run(batch)
        self._decide_all(queue, reason)
        if (known := queue.knowledge.known()) is not None:
            oldest = known.now_ms // BUCKET_MS - self._window_buckets
            queue.settles = [each for each in queue.settles if codec.settled_bucket(each) >= oldest]
        if queue.settles or queue.owed:
            self.hold(queue, _REFUSED_AGAIN_S)

    def failed(self, batch: Batch, reason: str) -> None:
        """Nobody can tell whether the store has counted a batch, and it no longer matters: its window has passed."""
        for charge, _ in batch.charges:
            charge.gone()
        for admit in batch.admits:
            if admit.charge is not None:
                self.owe(batch.queue, admit.charge)
            else:
                self.decide_waiting(admit, reason, is_sent=False)

    def owe(self, queue: KeyQueue, charge: Charge) -> None:
        """Let a charge leave with the key's next batch."""
        self._ledger.owe(_owed_by(queue), charge)

    def _count(self, batch: Batch, charge: Charge, bucket: int, amounts: Amounts) -> None:
        """The store has counted a charge, or the request that it stands for, in `bucket`."""
        batch.queue.knowledge.own.counted(charge.since, charge.bucket, batch.number)
        requests, input_tokens, output_tokens = charge.counted(bucket, amounts)
        if requests or input_tokens or output_tokens:
            self._queues.settle(batch.queue, bucket, input_tokens, output_tokens, requests)

    # ---- the way back ----------------------------------------------------------------------------------------------

    def _note_state(self) -> None:
        self.is_on = bool(self._shards or self._stuck)

    def _closed(self, connection: ServerConnection | None) -> dict[str, int]:
        self._note_state()
        counts, self._counts_told = self.counts - self._counts_told, self.counts.copy()
        return dict(counts)

    def close(self) -> None:
        """The node stops: what isn't decided by now isn't decided any more."""
        self._fallback = None

    def tick(self) -> None:
        """Probe, and let go what waits for shards that are back. Called often while anything is held or cut off."""
        self._shards.tick()
        self._note_state()
        now_s = self._loop.time()
        for queue in list(islice(self._held, _RELEASED_AT_ONCE)):
            since_s = self._held.pop(queue)
            if since_s > now_s or (self.is_on and self.cuts_off(queue)):
                self._held[queue] = since_s  # to the end of the line
                if queue.owed and (known := queue.knowledge.known()) is not None:
                    self._ledger.forget(queue.owed, known.now_ms // BUCKET_MS)
            else:
                self._queues.release(queue)


def _owed_by(queue: KeyQueue) -> deque[Charge]:
    """Return the charges that wait in a queue, to be added to; most queues never have any."""
    if queue.owed is None:
        queue.owed = deque()
    return queue.owed
