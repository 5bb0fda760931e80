"""Counts in the store, exactly once, the admissions made while it didn't decide (`store.outage.outage`). The rules:

1. An admission that was never sent is charged to its bucket of the store's clock, as estimated from its last replies.
   Charges wait in the key's queue, joined per bucket, and leave first in the key's next batch: before settles, before
   new requests.
2. A request whose batch was under way when the shard was cut off has a charge of its own, which waits for the batch:
   that is sent again under its number, and a key has no other batch before it has ended.
   a. The batch admitted it, and so did the policy: the charge is dropped; the request is counted where the store has
      it, and tokens given back meanwhile are settled there.
   b. The batch rejected it or never ran: the charge stands.
   c. The batch admitted it but the policy did not: it is given back, request and tokens. Until that has arrived, it
      is in the window: on the safe side.
3. What a request gives back lessens its charge until that has been sent, and is settled in the store afterwards.
4. What has left the window counts for nothing: such charges are forgotten, and a batch that old is given up unless it
   may have run. Requests that such a late batch admits, on a server that had stood still, are given back.
5. A batch that the store refused, or that met a store which has lost data (`store.decisions.losses`), has counted
   nothing: its charges, settles and requests wait for the key's next batch.

Neighbours: `store.decisions.replies` says how batches ended, `store.unsent_charges` keeps charges,
`store.decisions.receipts` settles.
"""

from __future__ import annotations

from time import monotonic

from limiter_node.decisions import Decision, Outcome
from limiter_node.limits import BUCKET_MS, Amounts
from limiter_node.store.accounts.queue import AccountQueue
from limiter_node.store.batch import Admit, Batch, SendQueue
from limiter_node.store.charges import Charge
from limiter_node.store.decisions.forwarding import Forwarding
from limiter_node.store.decisions.receipts import Receipts
from limiter_node.store.outage.outage import Outage
from limiter_node.store.unsent_charges import UnsentCharges

_REFUSED_AGAIN_S = 0.5
"""Delay before a refused batch's settles and charges are sent again: people have to mend the cause, say a login."""
_MISSING_S = 60.0
"""How long the settles and charges of an account that the store doesn't have are kept."""


class Reconciliation:
    """Bring the store's counts and a node's own admissions together, as batches end."""

    def __init__(
        self,
        outage: Outage,
        charges: UnsentCharges,
        receipts: Receipts,
        forwarding: Forwarding,
        window_buckets: int,
    ) -> None:
        self._outage, self._charges, self._receipts, self._forwarding = outage, charges, receipts, forwarding
        self._window_buckets = window_buckets

    def on_charged(self, batch: Batch, time_ms: int) -> None:
        """Note that the store has counted a batch's charges at `time_ms` of its clock: in no later bucket."""
        for charge, amounts in batch.charges:
            self._on_counted(batch, charge, min(charge.bucket, time_ms // BUCKET_MS), amounts)

    def on_late_verdict(self, batch: Batch, admit: Admit, decision: Decision) -> None:
        """Take the store's verdict on a request that was decided without it or given up by its caller."""
        charge = admit.charge
        if charge is None:
            if decision.outcome is Outcome.ADMITTED:
                # Its caller was refused, so it counts for nothing. If its caller had left by then, the request stays
                # counted and its tokens go back.
                _, input_tokens, output_tokens = decision.need
                requests = 0 if admit.future.cancelled() else 1
                self._receipts.take_back(batch.queue, decision.receipt, input_tokens, output_tokens, requests)
        elif decision.outcome is Outcome.ADMITTED:
            bucket = decision.time_ms // BUCKET_MS
            if not charge.has_left(bucket, self._window_buckets):
                self._on_counted(batch, charge, bucket, decision.need)
            else:
                charge.drop()
                requests, input_tokens, output_tokens = decision.need
                self._receipts.settle(batch.queue, decision.receipt, input_tokens, output_tokens, requests)
        elif decision.outcome is Outcome.UNKNOWN_KEY:
            charge.drop()
        else:
            self._charges.add(batch.queue, charge)

    def on_not_run(self, batch: Batch) -> None:
        """Keep the content of a batch that the store has not run and will not: it waits for the key's next batch."""
        queue = batch.queue
        if batch.charges:
            self._charges.put_back(queue, [charge for charge, _ in batch.charges])
        unsent = []
        for admit in batch.admits:
            if admit.charge is not None:
                self._charges.add(queue, admit.charge)
            elif not admit.future.done():
                unsent.append(admit)
        queue.put_back(batch, unsent)

    def on_not_counted(self, batch: Batch, charge: Charge) -> None:
        """Take the charge of a request that a policy admitted, and that the store has left undecided."""
        self._charges.add(batch.queue, charge)

    def on_refused(self, batch: Batch, reason: str) -> None:
        """Decide the requests of a batch that the store refuses to run; send the rest of it again later."""
        self.on_not_run(batch)
        self._outage.decide_unsent(batch.queue, reason)
        self._send_later(batch.queue)

    def on_no_account(self, batch: Batch, queue: AccountQueue, *, is_deleted: bool) -> None:
        """Keep the content of a batch whose account the store doesn't have, and send its settles and charges later.

        Another node may declare an account that was lost. One that `is_deleted`, or isn't back within a window's time,
        was deleted, and nothing of it counts any more, but in the windows of keys that have moved to other accounts.
        """
        now_s = monotonic()
        self.on_not_run(batch)
        if queue.missing_since_s is None:
            queue.missing_since_s = now_s
        if not is_deleted and now_s - queue.missing_since_s < _MISSING_S:
            self._send_later(queue)
        else:
            self._forwarding.add_all(queue)
            self._charges.drop_all(queue)
            queue.drop_settles()

    def _send_later(self, queue: SendQueue) -> None:
        queue.forget(self._window_buckets)
        if queue.has_settles or queue.charges:
            self._outage.hold(queue, _REFUSED_AGAIN_S)

    def on_given_up(self, batch: Batch, reason: str) -> None:
        """Decide the requests of a batch whose outcome is unknown, and no longer matters for its charges."""
        for charge, _ in batch.charges:
            charge.drop()
        for admit in batch.admits:
            if admit.charge is not None:
                self._charges.add(batch.queue, admit.charge)
            else:
                self._outage.decide_pending(admit, reason, is_sent=False)

    def _on_counted(self, batch: Batch, charge: Charge, bucket: int, amounts: Amounts) -> None:
        """Note that the store has counted a charge, or the request that it stands for, in `bucket`."""
        batch.queue.mark_counted(charge, bucket, batch.number)
        requests, input_tokens, output_tokens = charge.mark_counted(bucket, amounts)
        if requests or input_tokens or output_tokens:
            self._receipts.settle(batch.queue, charge.receipt, input_tokens, output_tokens, requests)
