"""Makes the batches of scheduled queues and sends them: one of each queue under way at a time, one write per shard.

Neighbours: `store.decisions.schedule` holds the queues whose batch leaves in this turn, `store.decisions.batch_ends`
ends batches and calls `BatchSender.on_ended`.
"""

from __future__ import annotations

from time import monotonic

from limiter_node.store.accounts.accounts import Accounts
from limiter_node.store.accounts.queue import AccountQueue
from limiter_node.store.batch import Batch, BatchOwner, SendQueue
from limiter_node.store.decisions.queues import KeyQueues
from limiter_node.store.decisions.schedule import Schedule
from limiter_node.store.key_queue import KeyQueue
from limiter_node.store.outage.outage import Outage
from limiter_node.store.unsent_charges import UnsentCharges
from limiter_node.store.wire.routing_and_retries import Router
from limiter_node.telemetry import BatchSizes


class BatchSender:
    """Send batches for one node. `replies` owns those of plain keys, `path_replies` accounts': set both first."""

    replies: BatchOwner
    path_replies: BatchOwner

    def __init__(
        self,
        router: Router,
        schedule: Schedule,
        queues: KeyQueues,
        accounts: Accounts,
        outage: Outage,
        charges: UnsentCharges,
        batch_sizes: BatchSizes,
        window_buckets: int,
    ) -> None:
        self._router, self._schedule, self._queues, self._accounts = router, schedule, queues, accounts
        self._outage, self._charges, self._batch_sizes = outage, charges, batch_sizes
        self._window_buckets = window_buckets
        self.number = 0
        """That of the latest batch."""
        self.in_flight = 0
        """Batches under way."""

    def flush(self, queue: SendQueue) -> None:
        """Send at once what waits of a queue, so that a read that follows sees it counted."""
        self._schedule.release(queue)
        self.send_scheduled()

    def send_scheduled(self) -> None:
        """Send the next batch of each scheduled queue."""
        schedule, batches = self._schedule, []
        scheduled, schedule.queues = schedule.queues, []
        now_s = monotonic()  # uvloop's own time has whole ms and is that of the turn's beginning
        for queue in scheduled:
            queue.is_scheduled = False
            if self._outage.is_on and self._outage.cuts_off(queue):
                self._outage.cut_off(queue)
            elif (batch := self._next_batch(queue, now_s)) is not None:
                queue.in_flight = batch
                batches.append(batch)
                continue
            self._queues.drop_unmet(queue)
        self.in_flight += len(batches)
        self._router.send(batches)
        self._note_quiet()

    def on_ended(self, batch: Batch) -> None:
        """Note that a batch has ended: the queue's next one may leave."""
        queue = batch.queue
        queue.in_flight = None
        self.in_flight -= 1
        if self._outage.is_on:
            self._outage.on_ended(batch)
        if queue.has_admits or ((queue.has_settles or queue.charges) and not self._outage.holds(queue)):
            if not queue.is_scheduled:
                self._schedule.add(queue)
        elif not queue.is_met:
            self._queues.drop_unmet(queue)
        self._note_quiet()

    def _next_batch(self, queue: SendQueue, now_s: float) -> Batch | None:
        number = self.number + 1
        batch: Batch | None = None
        if isinstance(queue, KeyQueue):
            batch = queue.next_batch(number, self.replies, self._router, self._charges, now_s, self._window_buckets)
        elif isinstance(queue, AccountQueue):
            batch = self._accounts.next_batch(queue, number, self.path_replies, self._charges, now_s)
        if batch is not None:
            self.number = number
            self._batch_sizes[batch.size] += 1
        return batch

    def _note_quiet(self) -> None:
        if not self.in_flight and not self._schedule.queues:
            self._schedule.quiet.set()
