"""The end of a batch: its reply goes to the node's knowledge and to the requests that wait, and is counted.

Each batch ends here exactly once, in `_end`, whatever its reply was. Neighbours: `store.decisions.dispatcher` makes
batches and learns when one has ended, `store.knowledge` learns, `store.decisions.reconciliation` takes batches that
were decided too late or never, `store.decisions.redeclare` keys that the store has lost,
`store.decisions.limits_while_moving` keys that can't be decided while their slot moves.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import partial
from time import monotonic

from limiter_node.decisions import UNKNOWN_KEY as UNKNOWN_KEY_DECISION
from limiter_node.decisions import Decision, Outcome
from limiter_node.errors import StoreUnavailable
from limiter_node.store import codec
from limiter_node.store.batch import Batch
from limiter_node.store.codec import REPLAYED, UnreadableReply
from limiter_node.store.decisions.limits_while_moving import LimitsWhileMoving
from limiter_node.store.decisions.losses import Losses
from limiter_node.store.decisions.queues import KeyQueues
from limiter_node.store.decisions.reconciliation import Reconciliation
from limiter_node.store.decisions.redeclare import Redeclared, Redeclarer
from limiter_node.store.wire.routing_and_retries import Router
from limiter_node.telemetry import Telemetry

log = logging.getLogger(__name__)

ADMITTED = Outcome.ADMITTED  # enum look-ups aren't free
NO_DECISIONS: Sequence[Decision] = ()


class Replies:
    """A `BatchOwner` for one node. `on_ended` is called with each batch that has ended.

    `due_s`: seconds from asking until a request's deadline.
    """

    def __init__(
        self,
        router: Router,
        queues: KeyQueues,
        reconciliation: Reconciliation,
        losses: Losses,
        redeclarer: Redeclarer,
        telemetry: Telemetry,
        *,
        window_buckets: int,
        due_s: float,
        on_ended: Callable[[Batch], None],
    ) -> None:
        self._router, self._queues, self._reconciliation = router, queues, reconciliation
        self._losses, self._redeclarer, self._lookups = losses, redeclarer, LimitsWhileMoving(router, queues)
        self._count_decision, self._waited = telemetry.decisions.count, telemetry.decision_latency.note
        self.window_buckets = window_buckets
        self._due_s, self._on_ended = due_s, on_ended
        self.failed = 0
        """Batches that were given up."""

    # ---- BatchOwner ------------------------------------------------------------------------------------------------

    def on_batch_reply(self, batch: Batch, reply: bytes) -> None:
        """See `BatchOwner`. The whole reply is read before anything is done."""
        state, admits = reply[0], batch.admits
        if state > REPLAYED:
            self._on_not_decided(batch, codec.unpack_reply(reply, 0))
            return
        recorded, decisions = 0, NO_DECISIONS
        if admits or batch.charges:
            needs = [admit.need for admit in admits]
            recorded, decisions = codec.unpack_decisions(reply, len(batch.operations), needs, self.window_buckets)
            # What is counted is recorded, and no batch is recorded before it is sent.
            number = batch.number
            if recorded != number and (recorded > number or any(each[0] is ADMITTED for each in decisions)):
                raise UnreadableReply(f"batch {number} was decided, and {recorded} recorded")
        elif len(reply) < codec.REPLY_SIZE:
            raise UnreadableReply(f"{len(reply)} bytes")
        elif batch.queue.is_met:  # settles alone: nobody waits, and the reply says nothing that the node needs
            self._on_ended(batch)
            return
        try:  # the usual end: as `_end`, without the extra call
            self._on_decided(batch, reply, recorded, decisions)
        except Exception:
            self._end_badly(batch)
        finally:
            self._on_ended(batch)

    def on_batch_refused(self, batch: Batch, reason: str) -> None:
        """See `BatchOwner`."""
        self._end(batch, self._reconciliation.on_refused, reason)

    def on_batch_failed(self, batch: Batch, reason: str) -> None:
        """See `BatchOwner`."""
        self._end(batch, self._give_up, reason)

    def on_batch_held_up(self, batch: Batch) -> None:
        """See `BatchOwner`."""
        if batch.admits and not batch.queue.knowledge.exists:
            self._lookups.look_up(batch.queue)

    # ---- the end of a batch: what goes wrong in one must keep nothing else from ending -------------------------------

    def _end(self, batch: Batch, finish: Callable[..., None], *arguments: object) -> None:
        """End a batch by ``finish(batch, *arguments)``."""
        try:
            finish(batch, *arguments)
        except Exception:
            self._end_badly(batch)
        finally:
            self._on_ended(batch)

    def _on_decided(self, batch: Batch, reply: bytes, recorded: int, decisions: Sequence[Decision]) -> None:
        queue, noted, heard_s = batch.queue, decisions, monotonic()
        if batch.was_cut_off:  # what was admitted without the store is already in the node's own window
            noted = [each for admit, each in zip(batch.admits, decisions, strict=True) if admit.charge is None]
        queue.knowledge.learn(reply, batch, heard_s, recorded, noted)
        if not queue.is_met:
            self._queues.meet(queue)
        if batch.charges:
            self._reconciliation.on_charged(batch, codec.unpack_reply(reply, len(batch.operations)).time_ms)
        count, waited, asked_to_now_s = self._count_decision, self._waited, heard_s + self._due_s
        for admit, decision in zip(batch.admits, decisions, strict=True):
            if not admit.future.done():
                admit.future.set_result(decision)
                count(decision[0], decision[1])
                waited(asked_to_now_s - admit.deadline_s)
            else:
                self._reconciliation.on_late_verdict(batch, admit, decision)

    @staticmethod
    def _end_badly(batch: Batch) -> None:
        log.exception("failed to end batch %d", batch.number, extra={"event": "batch_failed"})
        for admit in batch.admits:
            if not admit.future.done():
                admit.future.set_exception(StoreUnavailable("the node failed to read the store's reply"))

    def _on_not_decided(self, batch: Batch, reply: codec.BatchReply) -> None:
        if reply.state == codec.LOST:
            self._end(batch, self._losses.on_loss, reply.recorded)
        elif reply.state == codec.UNKNOWN_KEY:
            queue = batch.queue
            if batch.was_redeclared:  # lost again, which doesn't say whether the key exists
                self._end(batch, self._reconciliation.on_refused, "the store has lost the key again")
            elif self._redeclarer.begin(queue.kid, queue.knowledge, partial(self._on_redeclared, batch)):
                batch.tries += 1  # its shard has replied: a delay is not its fault
            else:
                self._end(batch, self._on_unknown_key)
        else:
            # The record holds a later batch of this process, though only one is ever in flight.
            kid, event = batch.queue.kid[:12], {"event": "batch_lost", "key": batch.queue.kid[:12]}
            log.error("batch %d of key %s is older than the store's record", batch.number, kid, extra=event)
            self._end(batch, self._give_up, "the store has lost track of this node's batches")

    def _on_redeclared(self, batch: Batch, result: Redeclared, reason: str) -> None:
        if result is Redeclared.DECLARED:
            batch.was_redeclared = True
            self._router.send([batch])  # the reply shows whether the store has lost the key's window, too
        elif result is Redeclared.FAILED:
            self._end(batch, self._reconciliation.on_refused, reason)
        else:
            if result is Redeclared.DELETED and not batch.queue.is_met:
                self._queues.meet(batch.queue)  # so that the deletion is remembered
            self._end(batch, self._on_unknown_key)

    def _on_unknown_key(self, batch: Batch) -> None:
        """Decide that the key is unknown: it is not in the store, and this node may not declare it."""
        queue = batch.queue
        if queue.is_met:
            queue.knowledge.forget()
        for charge, _ in batch.charges:
            charge.drop()
        for admit in batch.admits:
            if not admit.future.done():
                admit.future.set_result(UNKNOWN_KEY_DECISION)
                self._count_decision(UNKNOWN_KEY_DECISION.outcome)
            else:
                self._reconciliation.on_late_verdict(batch, admit, UNKNOWN_KEY_DECISION)

    def _give_up(self, batch: Batch, reason: str) -> None:
        self.failed += 1
        others = len(batch.operations) - len(batch.admits)
        if others:
            kid, event = batch.queue.kid[:12], {"event": "settles_lost", "operations": others}
            log.warning(
                "%d settles and charges of key %s were lost: %s", others, kid, reason, extra={**event, "key": kid}
            )
        self._reconciliation.on_given_up(batch, reason)
