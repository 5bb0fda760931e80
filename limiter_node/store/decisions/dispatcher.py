"""Decisions on their way to the store: at most one batch per API key in flight, everything else joins the next one.

No timer makes a request wait: with nothing in flight it leaves in this very turn of the event loop, together with all
that arrived in it; under load, batches grow by as much as arrives while one is away. (Settles, for which nobody waits,
may: see `store.decisions.linger`.) What is decided where is not known here: this module pairs requests with verdicts,
and sees to it that each is counted once. What a shard doesn't decide within the budget is decided without it: see
`store.outage.outage`.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Callable
from time import monotonic

from limiter_node.decisions import Decision, Need, Usage
from limiter_node.errors import Overloaded, StoreUnavailable
from limiter_node.limiter.policy import Fallback
from limiter_node.limits import MAX_BATCH, WINDOW_BUCKETS, bucket_life_ms
from limiter_node.store.batch import Admit, Batch, KeyQueue
from limiter_node.store.decisions.finding import Finding
from limiter_node.store.decisions.linger import Linger
from limiter_node.store.decisions.lookup import Lookups
from limiter_node.store.decisions.losses import Losses
from limiter_node.store.decisions.pending import Waiting
from limiter_node.store.decisions.queues import KeyQueues
from limiter_node.store.decisions.reading import Reading
from limiter_node.store.decisions.receipts import Receipts
from limiter_node.store.decisions.redeclare import DeclaredKeys, Redeclaring
from limiter_node.store.decisions.replies import Replies
from limiter_node.store.fleet import Fleet
from limiter_node.store.outage.outage import Outage
from limiter_node.store.outage.shards import Shards
from limiter_node.store.scripts import load_script
from limiter_node.store.wire.routing import Router
from limiter_node.store.wire.topology import Topology
from limiter_node.telemetry import ShardState, StoreState, Telemetry

log = logging.getLogger(__name__)

_SWEEP_EVERY_S = 0.025
_LATE_S = 0.02
"""A sweep that comes so much too late says that this node stood still; replies may be there, unread."""


class Dispatcher:
    """Takes decisions to the shards and brings verdicts back. One per node process; not thread-safe.

    `timeout_ms` is the budget of a decision: how long a batch may be outstanding before its shard is cut off and the
    policy decides (None: nobody does), which `policy` makes. `declared` is the keys file, whose keys are declared again
    where the store has lost them (`store.decisions.redeclare`). `max_waiting` is how many requests may wait.
    """

    def __init__(
        self,
        topology: Topology,
        *,
        timeout_ms: int = 100,
        max_waiting: int = 10_000,
        window_buckets: int = WINDOW_BUCKETS,
        policy: Callable[[Fleet], Fallback | None] = lambda _: None,
        declared: DeclaredKeys | None = None,
        telemetry: Telemetry | None = None,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._topology = topology
        telemetry = telemetry or Telemetry()
        self._batch_sizes = telemetry.batch_sizes
        # A batch older than the window counts for nothing any more, whether it was applied or not.
        self._router = Router(topology, give_up_s=bucket_life_ms(window_buckets) / 1000)
        self._timeout_s = timeout_ms / 1000
        # A sweep comes every so often: what is to be noticed in time has to be due one sweep before.
        self._due_s = max(self._timeout_s - _SWEEP_EVERY_S, self._timeout_s / 2)
        decide = load_script("decide")
        # New at each start: the store's record of a node's last batch must never answer for another process.
        self.incarnation = secrets.token_hex(4).encode()
        self.fleet = Fleet(self._router, self.incarnation)
        fallback = policy(self.fleet)
        self._queues = KeyQueues(decide, self.incarnation, window_buckets)
        self.shards = Shards(topology, self._timeout_s, decide, fallback.name if fallback else "closed")
        self.outage = Outage(self, self.shards, fallback, telemetry, window_buckets=window_buckets, due_s=self._due_s)
        self._redeclaring = Redeclaring(self._router, declared)
        self._redeclaring.start()
        self._losses = Losses(self.outage, window_buckets)
        self._replies = Replies(
            self._queues,
            self.outage,
            self._losses,
            self._redeclaring,
            Lookups(self._router, self._queues),
            telemetry,
            window_buckets=window_buckets,
            due_s=self._due_s,
            resend=lambda batch: self._router.send([batch]),
            on_ended=self._ended,
        )
        self._reading = Reading(
            topology,
            self._router,
            self._queues,
            self.shards,
            self.outage,
            self._redeclaring,
            flush=self._flush,
            timeout_s=self._timeout_s,
            window_buckets=window_buckets,
        )
        self._finding = Finding(
            self._router, self._queues, self.outage, self._redeclaring, timeout_s=self._timeout_s, due_s=self._due_s
        )
        self._number = 0
        self._scheduled: list[KeyQueue] = []
        self._waiting = Waiting(max_waiting, self._timeout_s, self.outage.overdue)
        self._admits = self._waiting.admits
        self._sweeper: asyncio.TimerHandle | None = None
        self._sweep_due_s = 0.0
        self._was_late = False
        self._linger = Linger(self.release)
        receipts = Receipts(self._queues, self.outage, self._linger, self._schedule)
        # Bound here, because a call more would cost each request.
        self.give_back, self.take_back, self.settle = receipts.give_back, receipts.take_back, receipts.settle
        self._in_flight = 0
        self._quiet = asyncio.Event()
        self._quiet.set()

    # ---- for the limiter -------------------------------------------------------------------------------------------

    def admit(self, kid: str, need: Need) -> asyncio.Future[Decision]:
        """Ask for one request of the key to be admitted.

        The future brings the decision, made by the store or by the policy, or raises `StoreUnavailable` where neither
        decides, `Overloaded` where too much of the key waits. A request that turns out to have been admitted after its
        caller was told otherwise counts for nothing; one whose caller was gone by then gives its tokens back.

        Raises:
            Overloaded: as many requests wait as may.
        """
        queues = self._queues
        queue = queues[kid]
        if queue.is_met:
            queues.move_to_end(kid)
        if self.outage.is_on and self.outage.cuts_off(queue):
            return self._decided_without_store(queue, need)
        if len(self._admits) >= self._waiting.most:
            try:
                self._waiting.make_room()
            except Overloaded:
                self._queues.drop_unmet(queue)
                raise
        admit = Admit(queue, need, self._loop.create_future(), monotonic() + self._due_s)
        queue.admits.append(admit)
        self._admits.append(admit)
        if self._sweeper is None:
            self._start_sweeping()
        if queue.in_flight is None and not queue.scheduled:
            self._schedule(queue)
        return admit.future

    def _decided_without_store(self, queue: KeyQueue, need: Need) -> asyncio.Future[Decision]:
        verdict: asyncio.Future[Decision] = self._loop.create_future()
        try:
            verdict.set_result(self.outage.decide(queue, need))
        except StoreUnavailable as error:
            verdict.set_exception(error)
            self._queues.drop_unmet(queue)
        return verdict

    def knows(self, kid: str) -> bool:
        """Whether the store's last word to this node was that there is such a key."""
        queue = self._queues.get(kid)
        return queue is not None and queue.knowledge.exists is True

    async def find(self, kid: str) -> bool:
        """Return whether the store has such a key; one that it has is known from now on.

        Raises:
            StoreUnavailable: the store did not answer in time.
        """
        return await self._finding.find(kid)

    async def peek(self, kid: str) -> Usage | None:
        """The key's limits and usage, or what the policy knows of them; None if there is no such key.

        Raises:
            StoreUnavailable: the store did not answer in time, and nothing is known.
        """
        return await self._reading.peek(kid)

    def decides_alone(self) -> bool:
        """Whether requests of some keys can be decided while the store is away."""
        return self._reading.decides_alone()

    def state(self) -> StoreState:
        """How things are now."""
        masters = self._topology.masters()
        return StoreState(
            len(self._waiting.unanswered()),
            self._in_flight,
            self.fleet.nodes,
            [ShardState(each.address, self.shards.is_cut_off(each), each.calls) for each in masters],
            len(self.shards.open_addresses()),
            self.shards.openings,
            self.outage.counts,
            {**self._router.errors, "failed": self._replies.failed},
            {"counts": self._losses.recharged, "keys": self._redeclaring.counts.total()},
        )

    async def check(self) -> None:
        """Ask each shard for a sign of life.

        Raises:
            StoreUnavailable: with the reason, naming the shard.
        """
        await self._reading.check()

    async def require_decisions(self) -> None:
        """Ask each shard that has not decided yet for a decision that counts nothing.

        Raises:
            StoreUnavailable: some shard has not decided yet; with the reason, naming the shard.
        """
        await self._reading.require_decisions()

    async def drain(self, timeout_s: float) -> bool:
        """Wait until everything given to the store has been decided; False if that took too long."""
        try:
            async with asyncio.timeout(timeout_s):
                while self._linger or self.outage.holds_any or not self._quiet.is_set():
                    self._linger.release_all()
                    if self.outage.holds_any and self._quiet.is_set():
                        await asyncio.sleep(_SWEEP_EVERY_S)
                    await self._quiet.wait()
        except TimeoutError:
            return False
        return True

    async def close(self) -> None:
        """Stop; what is not decided by now fails."""
        self.outage.close()
        self._redeclaring.close()
        self._router.close()
        if self._sweeper:
            self._sweeper.cancel()
        await self._topology.close()
        for admit in self._waiting.unanswered():
            admit.future.set_exception(StoreUnavailable("the node is stopping"))
        self._admits.clear()

    # ---- batches ---------------------------------------------------------------------------------------------------

    def waiting(self) -> list[Admit]:
        """The requests that wait."""
        return self._waiting.unanswered()

    def _flush(self, queue: KeyQueue) -> None:
        self.release(queue)
        self._send_scheduled()

    def _schedule(self, queue: KeyQueue) -> None:
        queue.scheduled = True
        if not self._scheduled:
            self._loop.call_soon(self._send_scheduled)
            self._quiet.clear()
        self._scheduled.append(queue)

    def look_after(self) -> None:
        """Something waits that the sweep has to let go."""
        if self._sweeper is None:
            self._start_sweeping()

    def release(self, queue: KeyQueue) -> None:
        """What waited in it doesn't any longer."""
        if (queue.settles or queue.owed) and queue.in_flight is None and not queue.scheduled:
            self._schedule(queue)

    def _send_scheduled(self) -> None:
        scheduled, self._scheduled = self._scheduled, []
        batches = []
        now_s = monotonic()  # the loop's own time, uvloop's, is in whole ms and of the turn's beginning
        for queue in scheduled:
            queue.scheduled = False
            if self.outage.is_on and self.outage.cuts_off(queue):
                self.outage.cut_off(queue)
            elif (batch := self._next_batch(queue, now_s)) is not None:
                queue.in_flight = batch
                batches.append(batch)
                continue
            self._queues.drop_unmet(queue)
        self._in_flight += len(batches)
        self._router.send(batches)
        self._note_quiet()

    def _next_batch(self, queue: KeyQueue, now_s: float) -> Batch | None:
        operations, charges = self.outage.take_charges(queue, MAX_BATCH) if queue.owed else ([], [])
        admits = queue.take(operations, MAX_BATCH)
        if not operations:
            return None
        self._number += 1
        self._batch_sizes[len(operations)] += 1
        return Batch(self._replies, self._router, queue, self._number, operations, admits, charges, now_s)

    def _ended(self, batch: Batch) -> None:
        queue = batch.queue
        queue.in_flight = None
        self._in_flight -= 1
        if self.outage.is_on:
            self.outage.ended(batch)
        if queue.admits or ((queue.settles or queue.owed) and not self.outage.holds(queue)):
            self._schedule(queue)
        elif not queue.is_met:
            self._queues.drop_unmet(queue)
        self._note_quiet()

    def _note_quiet(self) -> None:
        if not self._in_flight and not self._scheduled:
            self._quiet.set()

    # ---- deadlines: one timer for all ------------------------------------------------------------------------------

    def _start_sweeping(self) -> None:
        self._linger.note_operations(self._batch_sizes.operations)
        self._sweep_due_s = self._loop.time() + _SWEEP_EVERY_S
        self._sweeper = self._loop.call_later(_SWEEP_EVERY_S, self._sweep)

    def _sweep(self) -> None:
        try:
            self._look_around(self._loop.time())
        except Exception:
            log.exception("looking after deadlines failed; it is tried again", extra={"event": "sweep_failed"})
        # Whatever went wrong: without the next sweep no request of this node would ever be told that it waits too long.
        if self._waiting or self._linger or self.outage.is_on or self.outage.holds_any:
            self._start_sweeping()
        else:
            self._sweeper, self._linger.is_busy = None, False

    def _look_around(self, now_s: float) -> None:
        # Never twice in a row: between two sweeps the loop has read what there was.
        self._was_late = not self._was_late and now_s - self._sweep_due_s > _LATE_S
        if not self._was_late:
            self._waiting.sweep(now_s)
        if self.outage.is_on or self.outage.holds_any:
            self.outage.tick()
        self._linger.sweep(now_s)
