"""What the dispatcher sends: batches of operations of one key, and peeks; and the queue where a key's requests wait."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import Protocol

from limiter_node.model import Decision, Need, StoreUnavailable, Usage
from limiter_node.store import codec
from limiter_node.store.charges import Charge
from limiter_node.store.codec import pack_admit, pack_batch
from limiter_node.store.own_window import OwnWindow
from limiter_node.store.routing import RoutedCall, Router, ScriptTarget, bulk


class BatchOwner(Protocol):
    """Whom a batch tells how it ended, once."""

    @property
    def window_buckets(self) -> int:
        """The window's length, which goes with every batch."""
        ...

    def batch_resolved(self, batch: Batch, packed: bytes) -> None:
        """The store decided; `packed` is the script's reply."""
        ...

    def batch_failed(self, batch: Batch, reason: str) -> None:
        """Nobody can tell what became of it, or it was refused."""
        ...


class Admit:
    """A request that waits for its verdict."""

    __slots__ = ("charge", "deadline_s", "future", "need", "queue")

    def __init__(self, queue: KeyQueue, need: Need, future: asyncio.Future[Decision], deadline_s: float) -> None:
        self.queue, self.need, self.future, self.deadline_s = queue, need, future, deadline_s
        self.charge: Charge | None = None
        """Set where it was admitted without the store while the store's verdict was still to come."""


class KeyQueue:
    """What waits for one API key, whether a batch of it is away, and what the node knows of the key.

    `own`: what this node had admitted, where there is a policy that decides without the store.
    """

    __slots__ = (
        "admits",
        "held",
        "in_flight",
        "kid",
        "latest",
        "lingers",
        "owed",
        "own",
        "recorded_until_s",
        "scheduled",
        "settles",
        "target",
        "told",
        "told_s",
    )

    def __init__(self, kid: str, target: ScriptTarget, own: OwnWindow | None = None) -> None:
        self.kid = kid
        self.target = target
        self.admits: deque[Admit] = deque()
        self.settles: deque[bytes] = deque()
        self.in_flight: Batch | None = None
        self.scheduled = False
        self.latest: Decision | None = None
        # The store's last reply, and when it was asked: read only when the store is away.
        self.told: bytes | None = None
        self.told_s = 0.0
        self.own = own
        # How long the store has to have a record of this node here: else it has lost what was counted.
        self.recorded_until_s = 0.0
        self.owed: deque[Charge] | None = None
        # See `store.linger`: tokens that the settles here give back, and whether they wait.
        self.held = 0
        self.lingers = False

    def take(self, operations: list[bytes], most: int) -> list[Admit]:
        """Add settles to `operations`, then admits, up to so many in all; the admits."""
        settles, waiting = self.settles, self.admits
        if settles:
            if len(operations) + len(settles) <= most:
                operations.extend(settles)
                settles.clear()
            else:
                operations.extend([settles.popleft() for _ in range(most - len(operations))])
            self.held = 0
        admits: list[Admit] = []
        while waiting and len(operations) < most:
            admit = waiting.popleft()
            if not admit.future.done():  # else its caller has given up: it was never sent and never will be
                admits.append(admit)
                operations.append(pack_admit(*admit.need))
        return admits

    def forget(self) -> None:
        """The key is gone, and with it what was known of it."""
        self.told, self.recorded_until_s = None, 0.0
        if self.own is not None:
            self.own.clear()

    @property
    def is_idle(self) -> bool:
        """Whether nothing waits here or is under way."""
        return not (self.in_flight is not None or self.scheduled or self.admits or self.settles or self.owed)


class Batch(RoutedCall):
    """Operations of one key under one number: charges first, which are history; settles, which make room; admits.

    `charges` are those among the operations, with the tokens they were sent with.
    """

    __slots__ = ("_owner", "admits", "charges", "number", "operations", "queue", "was_cut_off")

    def __init__(
        self,
        owner: BatchOwner,
        router: Router,
        queue: KeyQueue,
        number: int,
        operations: list[bytes],
        admits: list[Admit],
        charges: Sequence[tuple[Charge, int, int]],
        now_s: float,
    ) -> None:
        RoutedCall.__init__(self, router, queue.target, now_s)  # `super()` costs as much again
        self._owner, self.queue, self.number = owner, queue, number
        self.operations, self.admits, self.charges = operations, admits, charges
        self.was_cut_off = False  # its requests were decided without it

    def arguments(self) -> bytes:
        window_buckets = self._owner.window_buckets
        packed = pack_batch(
            self.number,
            self.operations,
            resent=self.resent,
            has_record=self._router.loop.time() < self.queue.recorded_until_s,
            window_buckets=window_buckets,
        )
        return b"$%d\r\n%b\r\n" % (len(packed), packed)

    def is_wanted(self) -> bool:
        # One that may have run has to be resolved whoever waits; else it would count what nobody asks for any more.
        others = len(self.operations) > len(self.admits)
        return self.resent or others or any(not admit.future.done() for admit in self.admits)

    def resolved(self, reply: bytes) -> None:
        self._owner.batch_resolved(self, reply)

    def failed(self, reason: str) -> None:
        self._owner.batch_failed(self, reason)


class Peek(RoutedCall):
    """A read of one key's window."""

    __slots__ = ("_arguments", "future", "window_buckets")

    def __init__(
        self, router: Router, target: ScriptTarget, window_buckets: int, future: asyncio.Future[Usage | None]
    ) -> None:
        super().__init__(router, target, router.loop.time())
        self.window_buckets, self.future = window_buckets, future

    def arguments(self) -> bytes:
        return bulk((b"%d" % self.window_buckets, b"0"))

    def is_wanted(self) -> bool:
        return not self.future.done()

    def resolved(self, reply: list[object] | None) -> None:
        if not self.future.done():
            self.future.set_result(codec.unpack_usage(reply, self.window_buckets))

    def failed(self, reason: str) -> None:
        if not self.future.done():
            self.future.set_exception(StoreUnavailable(reason))
