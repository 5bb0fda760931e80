"""Decisions on their way to the store: at most one batch per API key in flight, everything else joins the next one.

No timer makes a request wait: with nothing in flight it leaves in this very turn of the event loop, together with all
that arrived in it; under load, batches grow by as much as arrives while one is away. (Settles may wait, because nobody
waits for them: see `store.decisions.linger`.) This module pairs requests with verdicts and sees to it that each is
counted once; `store.wire` knows which shard decides which key. A request that isn't decided within the budget is
decided without its shard: see `store.outage.outage`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from time import monotonic

from limiter_node.decisions import Decision, Need, Usage
from limiter_node.errors import OtherFormat, Overloaded, StoreUnavailable
from limiter_node.key_states import CredentialState
from limiter_node.limiter.fallback import Fallback
from limiter_node.limits import WINDOW_BUCKETS, bucket_life_ms
from limiter_node.store.accounts.accounts import Accounts
from limiter_node.store.batch import Admit, Asker
from limiter_node.store.decisions.batch_sender import BatchSender
from limiter_node.store.decisions.deadlines import Deadlines
from limiter_node.store.decisions.declared_file import DeclaredFile, DeclaredKeys
from limiter_node.store.decisions.draining import drain
from limiter_node.store.decisions.following import FinishMove, Follower
from limiter_node.store.decisions.forwarding import Forwarding
from limiter_node.store.decisions.key_exists import KeyExistence
from limiter_node.store.decisions.linger import LingeringSettles
from limiter_node.store.decisions.losses import Losses
from limiter_node.store.decisions.moved_keys import MovedKeys
from limiter_node.store.decisions.path_replies import PathReplies
from limiter_node.store.decisions.queues import KeyQueues
from limiter_node.store.decisions.reading import StoreReader
from limiter_node.store.decisions.receipts import Receipts
from limiter_node.store.decisions.reconciliation import Reconciliation
from limiter_node.store.decisions.redeclare import RedeclaredCounts, Redeclarer
from limiter_node.store.decisions.redeclare_accounts import AccountRedeclarer
from limiter_node.store.decisions.replies import Replies
from limiter_node.store.decisions.schedule import Schedule
from limiter_node.store.decisions.sweeper import SWEEP_EVERY_S, Sweeper
from limiter_node.store.fleet import Fleet, new_node_id
from limiter_node.store.outage.outage import Outage
from limiter_node.store.pending import PendingAdmits
from limiter_node.store.scripts import load_script
from limiter_node.store.unsent_charges import UnsentCharges
from limiter_node.store.wire.routing_and_retries import Router
from limiter_node.store.wire.topology import Topology
from limiter_node.telemetry import ShardState, StoreState, Telemetry


class Dispatcher:
    """The `limiter.admission.Decider` that asks the shards of a store. One per node process; not thread-safe.

    `timeout_ms` is the budget of a decision: how long a batch may be outstanding before its shard is cut off and the
    policy decides that `policy` makes (without one, nobody does). `declared` is the keys file, whose keys are declared
    again where the store has lost them (`store.decisions.redeclare`). `max_waiting` is how many requests may wait.
    `on_other_format` is called once, if nodes of another storage format use the store: this node has to end then.
    `finish_move` finishes the move of a key that somebody else has left unfinished.
    """

    def __init__(
        self,
        topology: Topology,
        *,
        timeout_ms: int = 100,
        max_waiting: int = 10_000,
        window_buckets: int = WINDOW_BUCKETS,
        policy: Callable[[Fleet], Fallback | None] | None = None,
        declared: DeclaredKeys | None = None,
        telemetry: Telemetry | None = None,
        on_other_format: Callable[[OtherFormat], None] | None = None,
        finish_move: FinishMove | None = None,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._topology = topology
        telemetry = telemetry or Telemetry()
        # A batch older than the window no longer counts, whether it was applied or not.
        self._router = Router(topology, give_up_s=bucket_life_ms(window_buckets) / 1000)
        timeout_s = timeout_ms / 1000
        # Sweeps are periodic: to be noticed in time, a request has to be due one sweep earlier.
        self._due_s = max(timeout_s - SWEEP_EVERY_S, timeout_s / 2)
        # New at each start: the store's record of a node's last batch must never answer for another process.
        self.incarnation = new_node_id()
        self.fleet = Fleet(self._router, self.incarnation, on_other_format)
        # From here on each part knows those above it; the schedule and the sweeper call back into this object.
        self._schedule = Schedule()
        self._linger = LingeringSettles(self._schedule.release, telemetry.batch_sizes)
        self._sweeper = Sweeper(self._sweep, self._linger.note_operations)
        self._pending, self._charges = PendingAdmits(max_waiting), UnsentCharges(window_buckets)
        self._queues = KeyQueues(load_script("decide"), self.incarnation, window_buckets)
        self._accounts = Accounts(self._router, self.incarnation)
        self._receipts = Receipts(self._queues, self._charges, self._linger, self._schedule)
        self.outage = Outage(
            topology,
            self._pending,
            self._charges,
            policy(self.fleet) if policy is not None else None,
            telemetry,
            budget_s=timeout_s,
            due_s=self._due_s,
            start_sweeping=self._sweeper.start,
        )
        self._batches = BatchSender(
            self._router,
            self._schedule,
            self._queues,
            self._accounts,
            self.outage,
            self._charges,
            telemetry.batch_sizes,
            window_buckets,
        )
        self._schedule.send = self._batches.send_scheduled
        self._deadlines = Deadlines(self._pending, self.outage, timeout_s)
        self._follower = Follower(self._accounts, self.outage, finish_move, timeout_s=timeout_s)
        self._forwarding = self._receipts.forwarding = Forwarding(
            self._follower, self._charges, self._receipts.settle, self._schedule.add, lambda: self._finder
        )
        reconciliation = Reconciliation(self.outage, self._charges, self._receipts, self._forwarding, window_buckets)
        self._moved = MovedKeys(
            self._queues, self._receipts, self._schedule, self.outage, lambda: self._finder, self._forwarding, telemetry
        )
        self._accounts.look_up_again = self._moved.look_up_again
        self._losses = Losses(reconciliation, self._charges, window_buckets)
        self._redeclared, self._declared = RedeclaredCounts(), DeclaredFile(declared)
        self._declared.start()
        self._redeclarer = Redeclarer(self._router, self._declared, self._redeclared)
        self._account_redeclarer = AccountRedeclarer(
            self._router, self._declared, self._accounts, self._redeclared, on_elsewhere=self._moved.find_anew
        )
        self._replies = self._batches.replies = Replies(
            self._router,
            self._queues,
            reconciliation,
            self._losses,
            self._declared,
            self._redeclarer,
            telemetry,
            window_buckets=window_buckets,
            due_s=self._due_s,
            on_ended=self._batches.on_ended,
            check_form=self._moved.check_form,
        )
        self._path_replies = self._batches.path_replies = PathReplies(
            self._router,
            reconciliation,
            self._losses,
            self._account_redeclarer,
            self._forwarding,
            telemetry,
            due_s=self._due_s,
            on_ended=self._batches.on_ended,
            on_gone=self._moved.look_up_again,
        )
        self._finder = KeyExistence(
            self._router,
            self._queues,
            self.outage,
            self._redeclarer,
            self._account_redeclarer,
            self._accounts,
            self._follower,
            latest_number=lambda: self._batches.number,
            timeout_s=timeout_s,
            due_s=self._due_s,
        )
        self._reader = StoreReader(
            topology,
            self._router,
            self._queues,
            self.outage,
            self._accounts,
            finder=self._finder,
            forwarding=self._forwarding,
            flush=self._batches.flush,
            timeout_s=timeout_s,
            window_buckets=window_buckets,
        )
        # Bound here, to spare each request a call and a look-up.
        self._admits, self._schedule_queue = self._pending.admits, self._schedule.add
        self.give_back = self._receipts.give_back

    async def start(self) -> None:
        """Find the shards; see `Topology.start`. Requests may come earlier: they wait for their shard."""
        await self._topology.start(self._router.send_again)

    # ---- for the limiter -------------------------------------------------------------------------------------------

    def admit(self, kid: str, need: Need) -> asyncio.Future[Decision]:
        """Ask to admit one request of the key; see `Decider`. The store or the policy decides.

        A request that turns out to have been admitted after its caller was refused counts for nothing; one whose caller
        had left by then gives its tokens back.

        Raises:
            Overloaded: too many requests of the node wait.
        """
        queues = self._queues
        queue = queues[kid]
        if queue.is_met:
            queues.move_to_end(kid)
        sender = queue.sender
        if self.outage.is_on and self.outage.cuts_off(sender):
            return self._decided_without_store(queue, need)
        if len(self._admits) >= self._pending.most:
            try:
                self._deadlines.make_room()
            except Overloaded:
                self._queues.drop_unmet(sender)
                raise
        admit = Admit(queue, need, self._loop.create_future(), monotonic() + self._due_s)
        queue.add(admit)
        self._admits.append(admit)
        if not self._sweeper.is_running:
            self._sweeper.start()
        if sender.in_flight is None and not sender.is_scheduled:
            self._schedule_queue(sender)
        return admit.future

    def _decided_without_store(self, queue: Asker, need: Need) -> asyncio.Future[Decision]:
        verdict: asyncio.Future[Decision] = self._loop.create_future()
        try:
            verdict.set_result(self.outage.decide(queue, need))
        except StoreUnavailable as error:
            verdict.set_exception(error)
            self._queues.drop_unmet(queue.sender)
        return verdict

    def knows(self, kid: str) -> bool:
        """See `Decider`. The store's last reply to this node counts."""
        queue = self._queues.get(kid)
        return queue is not None and queue.is_valid

    async def find(self, kid: str) -> CredentialState:
        """See `Decider`. A key that the store has is known from now on."""
        return await self._finder.find(kid)

    async def peek(self, kid: str, models: tuple[str, ...] | None = None) -> Usage | CredentialState:
        """See `Decider`. If the store can't be asked, the policy returns the usage that it knows."""
        return await self._reader.peek(kid, models)

    def decides_alone(self) -> bool:
        """See `Decider`."""
        return self._reader.decides_alone()

    def state(self) -> StoreState:
        """See `Decider`."""
        masters, shards = self._topology.masters(), self.outage.shards
        return StoreState(
            len(self._pending.unanswered()),
            self._batches.in_flight,
            self.fleet.nodes,
            [ShardState(each.address, shards.is_cut_off(each), each.calls) for each in masters],
            len(shards.open_addresses()),
            shards.openings,
            self.outage.counts,
            {**self._router.errors, "failed": self._replies.failed + self._path_replies.failed},
            {"counts": self._losses.recharged, "keys": self._redeclared.counts.total() + self._accounts.declared},
            len(self._queues),
            self._accounts.count,
            self._charges.size,
        )

    async def check(self) -> None:
        """See `Decider`. Each shard has to answer a PING."""
        await self._reader.check()

    async def require_decisions(self) -> None:
        """See `Decider`. Each shard that has not decided yet is asked for a decision that counts nothing."""
        await self._reader.require_decisions()

    async def drain(self, timeout_s: float) -> bool:
        """Wait until everything sent to the store has been decided. Return False if `timeout_s` passes first."""
        return await drain(self._schedule, self._linger, self.outage, self._forwarding, timeout_s)

    async def close(self) -> None:
        """Stop. Requests without a verdict fail."""
        askers = (self._moved, self._follower, self._forwarding, self._declared, self._account_redeclarer)
        for each in (self.outage, *askers, self._router, self._sweeper):
            each.close()
        await self._topology.close()
        for admit in self._pending.unanswered():
            admit.future.set_exception(StoreUnavailable("the node is stopping"))
        self._admits.clear()

    # ---- deadlines -------------------------------------------------------------------------------------------------

    def _sweep(self, now_s: float, is_late: bool) -> bool:
        if not is_late:
            self._deadlines.sweep(now_s)
        if self.outage.is_on or self.outage.holds_any:
            for queue in self.outage.tick():
                self._schedule.release(queue)
        self._linger.sweep(now_s)
        if self._pending or self._linger or self.outage.is_on or self.outage.holds_any:
            return True
        self._linger.is_busy = False
        return False
