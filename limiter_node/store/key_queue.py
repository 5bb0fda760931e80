"""The queue where one plain key's requests wait, the batches that leave it, and reads of the key's window."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

from limiter_node.decisions import Decision, Need, Usage
from limiter_node.errors import StoreUnavailable
from limiter_node.limiter.fallback import Fallback
from limiter_node.limits import BUCKET_MS, MAX_BATCH, Amounts
from limiter_node.store.batch import Admit, Asker, Batch, BatchOwner, SendQueue
from limiter_node.store.charges import Charge
from limiter_node.store.codec import pack_admit, pack_batch, pack_charge, settled_bucket
from limiter_node.store.knowledge import KeyKnowledge
from limiter_node.store.unsent_charges import UnsentCharges
from limiter_node.store.values import unpack_usage
from limiter_node.store.wire.commands import bulk
from limiter_node.store.wire.routing_and_retries import RoutedCall, Router
from limiter_node.store.wire.script_target import ScriptTarget

WRONG_TYPE: Final = "WRONGTYPE"
"""The error reply about a plain key that has become an account's, or of which a value is damaged."""


class KeyQueue(SendQueue, Asker):
    """Hold the requests and settles of one plain key that wait, its batch under way, and the node's knowledge of it."""

    __slots__ = ("admits", "knowledge", "settles")

    def __init__(self, kid: str, target: ScriptTarget, knowledge: KeyKnowledge) -> None:
        super().__init__(kid, target)
        self.knowledge = knowledge
        self.admits: list[Admit] = []
        self.settles: list[bytes] = []

    @property
    def sender(self) -> KeyQueue:
        return self

    def add(self, admit: Admit) -> None:
        self.admits.append(admit)

    def next_batch(
        self,
        number: int,
        owner: BatchOwner,
        router: Router,
        unsent: UnsentCharges,
        now_s: float,
        window_buckets: int,
    ) -> KeyBatch | None:
        """Return the next batch; None if nothing waits."""
        operations: list[bytes] = []
        charges: Sequence[tuple[Charge, Amounts]] = ()
        if self.charges:
            charges = unsent.take(self, MAX_BATCH)
            operations = [
                pack_charge(each.bucket, each.requests, each.input_tokens, each.output_tokens) for each, _ in charges
            ]
        admits = self.take(operations, MAX_BATCH)
        if not operations:
            return None
        return KeyBatch(owner, router, self, number, operations, admits, charges, now_s, window_buckets)

    def take(self, operations: list[bytes], most: int) -> list[Admit]:
        """Add settles, then admits, to `operations` until it holds `most`. Return the admits."""
        settles, waiting = self.settles, self.admits
        if settles:
            room = most - len(operations)
            if len(settles) <= room:
                operations.extend(settles)
                settles.clear()
            else:
                operations.extend(settles[:room])
                del settles[:room]
            self.lingering_tokens = 0
        if not waiting:
            return []
        admits: list[Admit] = []
        room, taken = most - len(operations), 0
        for admit in waiting:
            if len(admits) >= room:
                break
            taken += 1
            if not admit.future.done():  # else its caller has given up, and it is never sent
                admits.append(admit)
                input_tokens, output_tokens, choices, _ = admit.need
                operations.append(pack_admit(input_tokens, output_tokens, choices))
        del waiting[:taken]
        return admits

    @property
    def cid(self) -> str:
        return self.kid

    @property
    def is_valid(self) -> bool:
        """Whether the key exists, by the store's last reply."""
        return self.knowledge.exists is True

    def heard_s_ago(self) -> float:
        """Return the seconds since the store's last reply about the key."""
        return self.knowledge.heard_s_ago()

    @property
    def has_admits(self) -> bool:
        return bool(self.admits)

    @property
    def has_settles(self) -> bool:
        return bool(self.settles)

    def take_unsent(self) -> list[Admit]:
        unsent, self.admits = self.admits, []
        return unsent

    def put_back(self, batch: Batch, unsent: list[Admit]) -> None:
        assert isinstance(batch, KeyBatch)
        self.settles[:0] = batch.settles
        self.admits[:0] = unsent

    def forget(self, window_buckets: int) -> None:
        if (now_bucket := self.now_bucket()) is not None:
            oldest = now_bucket - window_buckets
            self.settles = [each for each in self.settles if settled_bucket(each) >= oldest]

    def now_bucket(self) -> int | None:
        known = self.knowledge.known()
        return None if known is None else known.now_ms // BUCKET_MS

    def tokens_left(self) -> int:
        return self.knowledge.tokens_left()

    def mark_counted(self, charge: Charge, bucket: int, number: int) -> None:
        own = self.knowledge.own
        own.move(charge.since, charge.bucket, bucket, charge.amounts)
        own.mark_counted(min(charge.since, bucket), max(charge.bucket, bucket), number)

    def lose(self, recorded: int) -> list[Charge]:
        recharged, lost = self.knowledge.lose(recorded, self.charges or ())
        cell_of = self.knowledge.own.cell_of
        self.settles = [each for each in self.settles if cell_of(settled_bucket(each)) not in lost]
        return recharged

    def forget_recharges(self) -> bool:
        self.knowledge.forget_recharges()
        return self.knowledge.recharges is not None

    def decide_alone(self, fallback: Fallback, need: Need) -> tuple[Decision, int] | None:
        known = self.knowledge.known()  # None, too, if the store's last reply was that there is no such key
        return None if known is None else (fallback.decide(known, need), known.latest_ms // BUCKET_MS)

    def usage_alone(self, fallback: Fallback, models: tuple[str, ...] | None) -> Usage | None:
        known = self.knowledge.known()
        return None if known is None else fallback.usage(known)

    def new_charge(self, need: Need, decision: Decision, bucket: int) -> Charge:
        return Charge(bucket, decision.need)


class KeyBatch(Batch):
    """A batch of one plain key."""

    __slots__ = ("_knowledge", "_window_buckets", "operations")

    def __init__(
        self,
        owner: BatchOwner,
        router: Router,
        queue: KeyQueue,
        number: int,
        operations: list[bytes],
        admits: list[Admit],
        charges: Sequence[tuple[Charge, Amounts]],
        now_s: float,
        window_buckets: int,
    ) -> None:
        Batch.__init__(self, owner, router, queue, queue.target, number, admits, charges, now_s)
        self.operations, self._knowledge, self._window_buckets = operations, queue.knowledge, window_buckets
        self.size = len(operations)

    @property
    def others(self) -> int:
        return len(self.operations) - len(self.admits)

    @property
    def settles(self) -> list[bytes]:
        """The settles among the operations."""
        return self.operations[len(self.charges) : len(self.operations) - len(self.admits)]

    def expects_error(self, kind: str) -> bool:
        return kind == WRONG_TYPE

    def arguments(self) -> bytes:
        knowledge = self._knowledge
        packed = pack_batch(
            self.number,
            self.operations,
            resent=self.resent,
            expected=knowledge.recorded if self._router.loop.time() < knowledge.recorded_until_s else 0,
            window_buckets=self._window_buckets,
        )
        return b"$%d\r\n%b\r\n" % (len(packed), packed)


class Peek(RoutedCall):
    """A read of one key's window; `future` brings its usage, None if there is no such key."""

    __slots__ = ("_arguments", "future", "window_buckets")

    def __init__(
        self, router: Router, target: ScriptTarget, window_buckets: int, future: asyncio.Future[Usage | None]
    ) -> None:
        super().__init__(router, target, router.loop.time())
        self.window_buckets, self.future = window_buckets, future

    def arguments(self) -> bytes:
        return bulk((b"%d" % self.window_buckets, b"0"))

    def expects_error(self, kind: str) -> bool:
        return kind == WRONG_TYPE

    def is_wanted(self) -> bool:
        return not self.future.done()

    def on_result(self, reply: list[object] | None) -> None:
        if not self.future.done():
            self.future.set_result(unpack_usage(reply, self.window_buckets))

    def on_failed(self, reason: str) -> None:
        if not self.future.done():
            self.future.set_exception(StoreUnavailable(reason))
