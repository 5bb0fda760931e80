"""Decisions on their way to the store: at most one batch per API key in flight, everything else joins the next one.

No timer makes a request wait: with nothing in flight it leaves in this very turn of the event loop, together with all
that arrived in it; under load, batches grow by as much as arrives while one is away. (Settles, for which nobody waits,
may: see `store.linger`.) What is decided where is not known here: this module pairs requests with verdicts, and sees to
it that each is counted once.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from binascii import crc_hqx
from collections import deque
from itertools import islice

from limiter_node.model import UNKNOWN_KEY as UNKNOWN_KEY_DECISION
from limiter_node.model import Decision, Need, Outcome, Overloaded, StoreUnavailable, Usage
from limiter_node.store import codec
from limiter_node.store.batch import Admit, Batch, KeyQueue, Peek
from limiter_node.store.codec import load_script, pack_admit, pack_settle
from limiter_node.store.keyspace import limits_key, past_key, window_key
from limiter_node.store.linger import Linger
from limiter_node.store.routing import Router, ScriptTarget
from limiter_node.store.topology import Topology

log = logging.getLogger(__name__)

MAX_BATCH = 64
"""Operations per script call: keeps a call far below 1 ms, so that no other key of the shard waits for long."""

_SWEEP_EVERY_S = 0.025
_BUSY_OPERATIONS = 100
"""Operations from one sweep to the next that make a node a busy one: some 2,000 requests a second."""
_IDLE_QUEUES = 20_000


class Dispatcher:
    """Takes decisions to the shards and brings verdicts back. One per node process; not thread-safe.

    `timeout_ms` bounds how long a request waits for its verdict, `max_waiting` how many may wait.
    """

    def __init__(
        self,
        topology: Topology,
        *,
        timeout_ms: int = 250,
        max_waiting: int = 10_000,
        window_buckets: int = codec.WINDOW_BUCKETS,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._topology = topology
        self.window_buckets = window_buckets
        # A batch older than the window counts for nothing any more, whether it was applied or not.
        self._router = Router(topology, give_up_s=(window_buckets + 1) * codec.BUCKET_MS / 1000)
        self._timeout_s = timeout_ms / 1000
        self._max_waiting = max_waiting
        self._decide, self._peek = load_script("decide"), load_script("peek")
        # New at each start: the store's record of a node's last batch must never answer for another process.
        self._incarnation = secrets.token_hex(4).encode()
        self._number = 0
        self._queues: dict[str, KeyQueue] = {}
        self._scheduled: list[KeyQueue] = []
        self._waiting: deque[Admit] = deque()  # in the order of their deadlines; answered ones linger until swept
        self._compact_at_s = 0.0
        self._sweeper: asyncio.TimerHandle | None = None
        self._linger = Linger(self._release)
        self._is_busy = False
        self._swept_operations = 0
        self._in_flight = 0
        self._quiet = asyncio.Event()
        self._quiet.set()
        self.batches = 0
        self.operations = 0

    # ---- for the limiter -------------------------------------------------------------------------------------------

    def admit(self, kid: str, need: Need) -> asyncio.Future[Decision]:
        """Ask for one request of the key to be admitted.

        The future brings the decision, or raises `StoreUnavailable` after the timeout. A request whose caller has
        given up by then and that turns out to have been admitted gives its tokens back.

        Raises:
            Overloaded: as many requests wait as may.
        """
        if len(self._waiting) >= self._max_waiting:
            self._make_room()
            if len(self._waiting) >= self._max_waiting:
                raise Overloaded(f"{self._max_waiting} requests wait for a decision already")
        queue = self._queues.get(kid) or self._new_queue(kid)
        admit = Admit(need, self._loop.create_future(), self._loop.time() + self._timeout_s)
        queue.admits.append(admit)
        self._waiting.append(admit)
        if self._sweeper is None:
            self._start_sweeping()
        if queue.in_flight is None and not queue.scheduled:
            self._schedule(queue)
        return admit.future

    def settle(self, kid: str, bucket: int, input_tokens: int, output_tokens: int) -> None:
        """Give back tokens of a request admitted in `bucket`. Goes with the key's next batch, or makes one."""
        queue = self._queues.get(kid) or self._new_queue(kid)
        queue.settles.append(pack_settle(bucket, input_tokens, output_tokens))
        if queue.in_flight is None and not queue.scheduled:
            if self._is_busy and self._linger.holds(queue, input_tokens, output_tokens, self._loop.time()):
                return
            self._schedule(queue)

    async def peek(self, kid: str) -> Usage | None:
        """The key's limits and usage; None if there is no such key.

        Raises:
            StoreUnavailable: the store did not answer in time.
        """
        if (queue := self._queues.get(kid)) is not None:
            self._release(queue)
            self._send_scheduled()  # in front of the peek, on the same connection
        kid_bytes = kid.encode()
        target = ScriptTarget(
            self._peek,
            crc_hqx(kid_bytes, 0) % 16384,
            (limits_key(kid).encode(), window_key(kid).encode(), past_key(kid).encode()),
            (),
            2,
        )
        call = Peek(self._router, target, self.window_buckets, self._loop.create_future())
        self._router.send([call])
        try:
            async with asyncio.timeout(self._timeout_s):
                return await call.future
        except TimeoutError:
            raise StoreUnavailable("the store did not answer in time") from None

    async def check(self) -> None:
        """Ask each shard for a sign of life.

        Raises:
            StoreUnavailable: with the reason, naming the shard.
        """
        self._topology.require_known()
        for connection in self._topology.masters():
            if not connection.is_open:
                connection.connect()
                raise StoreUnavailable(f"store {connection.host}:{connection.port}: {connection.last_error}")
        try:
            async with asyncio.timeout(self._timeout_s):
                await asyncio.gather(*(connection.ping() for connection in self._topology.masters()))
        except TimeoutError:
            raise StoreUnavailable("a shard of the store does not answer") from None

    async def drain(self, timeout_s: float) -> bool:
        """Wait until everything given to the store has been decided; False if that took too long."""
        try:
            async with asyncio.timeout(timeout_s):
                while self._linger or not self._quiet.is_set():
                    self._linger.release_all()
                    await self._quiet.wait()
        except TimeoutError:
            return False
        return True

    async def close(self) -> None:
        """Stop; what is not decided by now fails."""
        self._router.close()
        if self._sweeper:
            self._sweeper.cancel()
        await self._topology.close()
        for admit in self._waiting:
            if not admit.future.done():
                admit.future.set_exception(StoreUnavailable("the node is stopping"))
        self._waiting.clear()

    # ---- batches ---------------------------------------------------------------------------------------------------

    def _new_queue(self, kid: str) -> KeyQueue:
        if len(self._queues) >= _IDLE_QUEUES:
            # A queue is a cache of its command's bytes; the idle ones in front are those made longest ago.
            for old in list(islice(self._queues, _IDLE_QUEUES // 10)):
                queue = self._queues[old]
                if queue.in_flight is None and not queue.scheduled and not queue.settles:
                    del self._queues[old]
        target = ScriptTarget(
            self._decide,
            crc_hqx(kid.encode(), 0) % 16384,
            (limits_key(kid).encode(), window_key(kid).encode(), past_key(kid).encode()),
            (self._incarnation,),
            1,
        )
        queue = self._queues[kid] = KeyQueue(kid, target)
        return queue

    def _schedule(self, queue: KeyQueue) -> None:
        queue.scheduled = True
        if not self._scheduled:
            self._loop.call_soon(self._send_scheduled)
            self._quiet.clear()
        self._scheduled.append(queue)

    def _release(self, queue: KeyQueue) -> None:
        """Settles that waited don't any longer."""
        if queue.settles and queue.in_flight is None and not queue.scheduled:
            self._schedule(queue)

    def _send_scheduled(self) -> None:
        scheduled, self._scheduled = self._scheduled, []
        batches = []
        now_s = self._loop.time()
        for queue in scheduled:
            queue.scheduled = False
            batch = self._next_batch(queue, now_s)
            if batch is not None:
                queue.in_flight = batch
                batches.append(batch)
        self._in_flight += len(batches)
        self.batches += len(batches)
        self._router.send(batches)
        self._note_quiet()

    def _next_batch(self, queue: KeyQueue, now_s: float) -> Batch | None:
        settles, waiting = queue.settles, queue.admits
        operations: list[bytes] = []
        if settles:
            if len(settles) <= MAX_BATCH:
                operations.extend(settles)
                settles.clear()
            else:
                operations.extend(settles.popleft() for _ in range(MAX_BATCH))
            queue.held = 0
        admits: list[Admit] = []
        while waiting and len(operations) < MAX_BATCH:
            admit = waiting.popleft()
            if not admit.future.done():  # else its caller has given up: it was never sent and never will be
                admits.append(admit)
                operations.append(pack_admit(*admit.need))
        if not operations:
            return None
        self._number += 1
        self.operations += len(operations)
        return Batch(self, self._router, queue, self._number, operations, admits, now_s)

    def _ended(self, batch: Batch) -> None:
        queue = batch.queue
        queue.in_flight = None
        self._in_flight -= 1
        if queue.admits or queue.settles:
            self._schedule(queue)
        self._note_quiet()

    def _note_quiet(self) -> None:
        if not self._in_flight and not self._scheduled:
            self._quiet.set()

    def batch_resolved(self, batch: Batch, packed: bytes) -> None:
        state, admits = packed[0], batch.admits
        if state <= codec.REPLAYED:
            if not admits:
                self._ended(batch)  # settles alone: there is nothing to tell anybody
                return
            needs = [admit.need for admit in admits]
            decisions = codec.decisions(packed, len(batch.operations), needs, self.window_buckets)
            batch.queue.latest = decisions[-1]
            for admit, decision in zip(admits, decisions, strict=True):
                if not admit.future.done():
                    admit.future.set_result(decision)
                elif decision.outcome is Outcome.ADMITTED:
                    # Nobody waits for it any more: the request stays counted, its tokens go back (accounting rule 4).
                    self.settle(
                        batch.queue.kid,
                        decision.time_ms // codec.BUCKET_MS,
                        decision.need.input_tokens,
                        decision.need.output_tokens,
                    )
        elif state == codec.UNKNOWN_KEY:
            for admit in admits:
                if not admit.future.done():
                    admit.future.set_result(UNKNOWN_KEY_DECISION)
        else:
            # The record holds a later batch of this process, though only one is ever in flight.
            log.error("batch %d of key %s is older than the store's record", batch.number, batch.queue.kid[:12])
            self._fail(batch, "the store has lost track of this node's batches")
        self._ended(batch)

    def batch_failed(self, batch: Batch, reason: str) -> None:
        self._fail(batch, reason)
        self._ended(batch)

    def _fail(self, batch: Batch, reason: str) -> None:
        settles = len(batch.operations) - len(batch.admits)
        if settles:
            log.warning("%d settles of key %s were lost: %s", settles, batch.queue.kid[:12], reason)
        for admit in batch.admits:
            if not admit.future.done():
                admit.future.set_exception(StoreUnavailable(reason))

    # ---- deadlines: one timer for all ------------------------------------------------------------------------------

    def _start_sweeping(self) -> None:
        self._swept_operations = self.operations
        self._sweeper = self._loop.call_later(_SWEEP_EVERY_S, self._sweep_again)

    def _sweep_again(self) -> None:
        self._sweep()
        self._is_busy = self.operations - self._swept_operations >= _BUSY_OPERATIONS
        self._linger.sweep(self._loop.time())
        if self._waiting or self._linger:
            self._start_sweeping()
        else:
            self._sweeper, self._is_busy = None, False

    def _make_room(self) -> None:
        """Forget the answered ones behind one that waits, too: one slow shard must not make the node refuse all."""
        self._sweep()
        now_s = self._loop.time()
        if len(self._waiting) >= self._max_waiting and now_s >= self._compact_at_s:
            self._waiting = deque(admit for admit in self._waiting if not admit.future.done())
            # O(waiting): where it doesn't help it isn't done again for each request that is refused.
            self._compact_at_s = now_s + 0.005 if len(self._waiting) * 2 > self._max_waiting else 0.0

    def _sweep(self) -> None:
        waiting, now_s = self._waiting, self._loop.time()
        while waiting:
            admit = waiting[0]
            if not admit.future.done():
                if admit.deadline_s > now_s:
                    return
                admit.future.set_exception(StoreUnavailable("the store did not answer in time"))
            waiting.popleft()
