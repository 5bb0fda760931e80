"""The end of a batch of whatever kind: its requests get their verdicts, and each batch ends exactly once.

Neighbours: `store.decisions.replies` reads the replies about plain keys, `store.decisions.path_replies` those about
accounts.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from limiter_node.decisions import Decision
from limiter_node.errors import StoreUnavailable
from limiter_node.policy import tag_fields, tag_text
from limiter_node.store.batch import Admit, Batch
from limiter_node.store.decisions.reconciliation import Reconciliation
from limiter_node.telemetry import Telemetry

log = logging.getLogger(__name__)


class BatchEnds:
    """End batches for one node. `on_ended` is called with each batch that has ended.

    `due_s`: seconds from asking until a request's deadline.
    """

    def __init__(
        self,
        reconciliation: Reconciliation,
        telemetry: Telemetry,
        *,
        due_s: float,
        on_ended: Callable[[Batch], None],
    ) -> None:
        self._reconciliation = reconciliation
        self._count_rejection = telemetry.rejections.count
        self._count_decision, self._waited = telemetry.decisions.count, telemetry.decision_latency.note
        self._due_s, self._on_ended = due_s, on_ended
        self.failed = 0
        """Batches that were given up."""

    def on_batch_refused(self, batch: Batch, reason: str) -> None:
        """See `BatchOwner`."""
        self._end(batch, self._reconciliation.on_refused, reason)

    def on_batch_failed(self, batch: Batch, reason: str) -> None:
        """See `BatchOwner`."""
        self._end(batch, self._give_up, reason)

    # What goes wrong in the end of one batch must keep nothing else from ending.

    def _end(self, batch: Batch, finish: Callable[..., None], *arguments: object) -> None:
        """End a batch by ``finish(batch, *arguments)``."""
        try:
            finish(batch, *arguments)
        except Exception:
            self._end_badly(batch)
        finally:
            self._on_ended(batch)

    def _deliver(self, batch: Batch, admits: Sequence[Admit], decisions: Sequence[Decision], heard_s: float) -> None:
        """Give requests their decisions."""
        count, waited, asked_to_now_s = self._count_decision, self._waited, heard_s + self._due_s
        for admit, decision in zip(admits, decisions, strict=True):
            if not admit.future.done():
                admit.future.set_result(decision)
                count(decision[0], decision[1])
                if decision[1] >= 0:
                    self._count_rejection(decision)
                waited(asked_to_now_s - admit.deadline_s)
            else:
                self._reconciliation.on_late_verdict(batch, admit, decision)

    @staticmethod
    def _end_badly(batch: Batch) -> None:
        log.exception("failed to end batch %d", batch.number, extra={"event": "batch_failed"})
        for admit in batch.admits:
            if not admit.future.done():
                admit.future.set_exception(StoreUnavailable("the node failed to read the store's reply"))

    def _lost_track(self, batch: Batch) -> None:
        """End a batch older than the store's record: it has a later one of this process, though one is in flight."""
        tag = batch.queue.kid
        event = {"event": "batch_lost", **tag_fields(tag)}
        log.error("batch %d of %s is older than the store's record", batch.number, tag_text(tag), extra=event)
        self._end(batch, self._give_up, "the store has lost track of this node's batches")

    def _give_up(self, batch: Batch, reason: str) -> None:
        self.failed += 1
        if others := batch.others:
            tag = batch.queue.kid
            event = {"event": "settles_lost", "operations": others, **tag_fields(tag)}
            log.warning("%d settles and charges of %s were lost: %s", others, tag_text(tag), reason, extra=event)
        self._reconciliation.on_given_up(batch, reason)
