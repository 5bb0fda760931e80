"""The end of a batch: its reply goes to the node's knowledge and to the requests that wait, and is counted.

Each batch ends here exactly once, in `_end`, whatever its reply was. Neighbours: `store.decisions.dispatcher` makes
batches and learns when one has ended, `store.knowledge` learns, `store.decisions.reconciliation` takes batches that
were decided too late or never, `store.decisions.redeclare` keys that the store has lost,
`store.decisions.limits_while_moving` keys that can't be decided while their slot moves.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from time import monotonic

from limiter_node.decisions import UNKNOWN_KEY as UNKNOWN_KEY_DECISION
from limiter_node.decisions import Decision, Outcome
from limiter_node.declarations import AccountKey
from limiter_node.key_states import CredentialState
from limiter_node.store import codec
from limiter_node.store.batch import Batch
from limiter_node.store.codec import REPLAYED, UnreadableReply
from limiter_node.store.decisions.batch_ends import BatchEnds
from limiter_node.store.decisions.declared_file import DeclaredFile
from limiter_node.store.decisions.limits_while_moving import LimitsWhileMoving
from limiter_node.store.decisions.losses import Losses
from limiter_node.store.decisions.queues import KeyQueues
from limiter_node.store.decisions.reconciliation import Reconciliation
from limiter_node.store.decisions.redeclare import Redeclared, Redeclarer
from limiter_node.store.key_queue import WRONG_TYPE, KeyBatch, KeyQueue
from limiter_node.store.wire.routing_and_retries import Router
from limiter_node.telemetry import Telemetry

ADMITTED = Outcome.ADMITTED  # enum look-ups aren't free
NO_DECISIONS: Sequence[Decision] = ()


CheckForm = Callable[[Batch, Callable[[Callable[[Batch], None]], None], Callable[[CredentialState | None], None]], None]


class Replies(BatchEnds):
    """A `BatchOwner` of the batches of plain keys, for one node.

    `due_s`: seconds from asking until a request's deadline. `on_ended`: see `BatchEnds`. `check_form`: called with a
    batch that the store refused because of a value's type; see `moved_keys.MovedKeys.check_form`.
    """

    def __init__(
        self,
        router: Router,
        queues: KeyQueues,
        reconciliation: Reconciliation,
        losses: Losses,
        declared: DeclaredFile,
        redeclarer: Redeclarer,
        telemetry: Telemetry,
        *,
        window_buckets: int,
        due_s: float,
        on_ended: Callable[[Batch], None],
        check_form: CheckForm,
    ) -> None:
        super().__init__(reconciliation, telemetry, due_s=due_s, on_ended=on_ended)
        self._router, self._queues = router, queues
        self._losses, self._redeclarer, self._lookups = losses, redeclarer, LimitsWhileMoving(router, queues)
        self._declared, self._window_buckets, self._check_form = declared, window_buckets, check_form

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
            recorded, decisions = codec.unpack_decisions(reply, batch.size, needs, self._window_buckets)
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
        if reason.startswith(WRONG_TYPE):
            self._check_form(batch, partial(self._end, batch), partial(self._on_damaged, batch, reason))
        else:
            super().on_batch_refused(batch, reason)

    def _on_damaged(self, batch: Batch, reason: str, state: CredentialState | None) -> None:
        if state is CredentialState.UNKNOWN:  # it leads to a key that doesn't have it
            self._end(batch, self._on_unknown_key)
            return
        self._router.note_refused(reason)
        super().on_batch_refused(batch, reason)

    def on_batch_held_up(self, batch: Batch) -> None:
        """See `BatchOwner`."""
        queue = batch.queue
        assert isinstance(queue, KeyQueue)
        if batch.admits and not queue.knowledge.exists:
            self._lookups.look_up(queue)

    def _on_decided(self, batch: Batch, reply: bytes, recorded: int, decisions: Sequence[Decision]) -> None:
        queue, noted, heard_s = batch.queue, decisions, monotonic()
        assert isinstance(batch, KeyBatch)
        assert isinstance(queue, KeyQueue)
        if batch.was_cut_off:  # what was admitted without the store is already in the node's own window
            noted = [each for admit, each in zip(batch.admits, decisions, strict=True) if admit.charge is None]
        queue.knowledge.learn(reply, batch, heard_s, recorded, noted)
        if not queue.is_met:
            self._queues.meet(queue)
        if batch.charges:
            self._reconciliation.on_charged(batch, codec.unpack_reply(reply, batch.size).time_ms)
        self._deliver(batch, batch.admits, decisions, heard_s)

    def _on_not_decided(self, batch: Batch, reply: codec.BatchReply) -> None:
        if reply.state == codec.LOST:
            self._end(batch, self._losses.on_loss, reply.recorded)
        elif reply.state == codec.UNKNOWN_KEY:
            queue = batch.queue
            assert isinstance(queue, KeyQueue)
            if batch.was_redeclared:  # lost again, which doesn't say whether the key exists
                self._end(batch, self._reconciliation.on_refused, "the store has lost the key again")
            elif self._redeclarer.begin(queue.kid, queue.knowledge, partial(self._on_redeclared, batch)):
                batch.tries += 1  # its shard has replied: a delay is not its fault
            else:
                self._on_undeclared(batch)
        else:
            self._lost_track(batch)

    def _on_redeclared(self, batch: Batch, result: Redeclared, reason: str) -> None:
        if result is Redeclared.DECLARED:
            batch.was_redeclared = True
            self._router.send([batch])  # the reply shows whether the store has lost the key's window, too
        elif result is Redeclared.FAILED:
            self._end(batch, self._reconciliation.on_refused, reason)
        elif result is Redeclared.DELETED:
            queue = batch.queue
            assert isinstance(queue, KeyQueue)
            if not queue.is_met:
                self._queues.meet(queue)  # so that the deletion is remembered
            self._end(batch, self._on_unknown_key)
            queue.knowledge.mark = queue.kid
        else:
            self._on_undeclared(batch)

    def _on_undeclared(self, batch: Batch) -> None:
        """End the batch of a key that nobody declares as a plain one; the file may have it in an account by now."""
        queue = batch.queue
        assert isinstance(queue, KeyQueue)
        if isinstance(self._declared.key(queue.kid), AccountKey) and queue.knowledge.exists is not False:
            self._check_form(batch, partial(self._end, batch), partial(self._on_not_in_account, batch))
        else:
            self._end(batch, self._on_unknown_key)

    def _on_not_in_account(self, batch: Batch, state: CredentialState | None) -> None:
        queue = batch.queue
        assert isinstance(queue, KeyQueue)
        if queue.knowledge.exists is False or state is CredentialState.UNKNOWN:
            self._end(batch, self._on_unknown_key)
        else:  # the store could not be asked
            self._end(batch, self._reconciliation.on_refused, "the key has not been found")

    def _on_unknown_key(self, batch: Batch) -> None:
        """Decide that the key is unknown: it is not in the store, and this node may not declare it."""
        queue = batch.queue
        assert isinstance(queue, KeyQueue)
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
