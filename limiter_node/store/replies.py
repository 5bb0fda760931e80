"""What the store said of a batch, brought to the requests that wait for it; and counted.

Each batch ends here exactly once. Neighbours: `store.dispatcher` makes batches and is told when one has ended,
`store.outage` takes what came too late or never, `store.redeclare` keys that the store has lost.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from time import monotonic

from limiter_node.model import UNKNOWN_KEY as UNKNOWN_KEY_DECISION
from limiter_node.model import Outcome
from limiter_node.store import codec
from limiter_node.store.batch import Batch
from limiter_node.store.outage import Outage
from limiter_node.store.redeclare import Redeclaring
from limiter_node.telemetry import Telemetry

log = logging.getLogger(__name__)

ADMITTED = Outcome.ADMITTED  # enum look-ups aren't free


class Replies:
    """A `BatchOwner` for one node. `on_ended` is called with each batch when all that waited for it has been told.

    `due_s` is what a request's deadline is later than its asking.
    """

    def __init__(
        self,
        outage: Outage,
        redeclaring: Redeclaring,
        telemetry: Telemetry,
        *,
        window_buckets: int,
        due_s: float,
        on_ended: Callable[[Batch], None],
    ) -> None:
        self._outage, self._redeclaring = outage, redeclaring
        self._decision_counts, self._waited = telemetry.decisions.counts, telemetry.decision_latency.note
        self.window_buckets = window_buckets
        self._window_s = window_buckets * codec.BUCKET_MS / 1000
        self._due_s = due_s
        self._on_ended = on_ended
        self.failed = 0
        """Batches that were given up."""

    def batch_resolved(self, batch: Batch, packed: bytes) -> None:
        """See `BatchOwner`."""
        state, admits, queue = packed[0], batch.admits, batch.queue
        if state > codec.REPLAYED:
            if not (state == codec.UNKNOWN_KEY and self._redeclaring.takes(queue, partial(self._redeclared, batch))):
                self._not_decided(batch, state)
                self._on_ended(batch)
            return
        if state == codec.DECIDED:
            queue.told, queue.told_s = packed, batch.since_s
        if batch.charges:
            self._outage.charged(batch, codec.unpack_reply(packed, 0, self.window_buckets).time_ms)
        if not admits:
            self._on_ended(batch)  # nobody waits to be told
            return
        needs = [admit.need for admit in admits]
        decisions = codec.decisions(packed, len(batch.operations), needs, self.window_buckets)
        queue.latest = latest = decisions[-1]
        if latest[0] is ADMITTED:
            queue.recorded_until_s = batch.since_s + self._window_s
        if queue.own is not None:
            if batch.was_cut_off:  # what the policy has admitted meanwhile is in the window already
                queue.own.note([each for admit, each in zip(admits, decisions, strict=True) if admit.charge is None])
            else:
                queue.own.note(decisions)
        counts, waited, asked_to_now_s = self._decision_counts, self._waited, monotonic() + self._due_s
        for admit, decision in zip(admits, decisions, strict=True):
            if not admit.future.done():
                admit.future.set_result(decision)
                counts[4 * decision[0] + decision[1] + 1] += 1
                waited(asked_to_now_s - admit.deadline_s)
            else:
                self._outage.verdict(admit, decision)
        self._on_ended(batch)

    def batch_failed(self, batch: Batch, reason: str) -> None:
        """See `BatchOwner`."""
        self._fail(batch, reason)
        self._on_ended(batch)

    def _redeclared(self, batch: Batch, is_there: bool) -> None:
        self._not_decided(batch, codec.FORGOTTEN if is_there else codec.UNKNOWN_KEY)
        self._on_ended(batch)

    def _not_decided(self, batch: Batch, state: int) -> None:
        if state == codec.FORGOTTEN:
            self._outage.forgotten(batch)
        elif state == codec.UNKNOWN_KEY:
            batch.queue.forget()
            for admit in batch.admits:
                if not admit.future.done():
                    admit.future.set_result(UNKNOWN_KEY_DECISION)
                    self._decision_counts[4 * UNKNOWN_KEY_DECISION.outcome] += 1
                else:
                    self._outage.verdict(admit, UNKNOWN_KEY_DECISION)
            for charge, _, _ in batch.charges:
                charge.gone()
        else:
            # The record holds a later batch of this process, though only one is ever in flight.
            event = {"event": "batch_lost", "key": batch.queue.kid[:12]}
            log.error(
                "batch %d of key %s is older than the store's record", batch.number, batch.queue.kid[:12], extra=event
            )
            self._fail(batch, "the store has lost track of this node's batches")

    def _fail(self, batch: Batch, reason: str) -> None:
        self.failed += 1
        others = len(batch.operations) - len(batch.admits)
        if others:
            event = {"event": "settles_lost", "key": batch.queue.kid[:12], "operations": others}
            log.warning(
                "%d settles and charges of key %s were lost: %s", others, batch.queue.kid[:12], reason, extra=event
            )
        self._outage.failed(batch, reason)
