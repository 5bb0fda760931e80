"""What the dispatcher sends: batches of operations of one key, and peeks; and the queue where a key's requests wait."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Protocol

from limiter_node.model import Decision, Need, StoreUnavailable, Usage
from limiter_node.store import codec
from limiter_node.store.codec import pack_batch
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

    __slots__ = ("deadline_s", "future", "need")

    def __init__(self, need: Need, future: asyncio.Future[Decision], deadline_s: float) -> None:
        self.need, self.future, self.deadline_s = need, future, deadline_s


class KeyQueue:
    """What waits for one API key, and whether a batch of it is away."""

    __slots__ = ("admits", "held", "in_flight", "kid", "latest", "lingers", "scheduled", "settles", "target")

    def __init__(self, kid: str, target: ScriptTarget) -> None:
        self.kid = kid
        self.target = target
        self.admits: deque[Admit] = deque()
        self.settles: deque[bytes] = deque()
        self.in_flight: Batch | None = None
        self.scheduled = False
        self.latest: Decision | None = None
        # See `store.linger`: tokens that the settles here give back, and whether they wait.
        self.held = 0
        self.lingers = False


class Batch(RoutedCall):
    """Operations of one key under one number: settles first, since they make room, then admits."""

    __slots__ = ("_owner", "admits", "number", "operations", "queue")

    def __init__(
        self,
        owner: BatchOwner,
        router: Router,
        queue: KeyQueue,
        number: int,
        operations: list[bytes],
        admits: list[Admit],
        now_s: float,
    ) -> None:
        RoutedCall.__init__(self, router, queue.target, now_s)  # `super()` costs as much again
        self._owner, self.queue, self.number = owner, queue, number
        self.operations, self.admits = operations, admits

    def arguments(self) -> bytes:
        packed = pack_batch(self.number, self.operations, resent=self.resent, window_buckets=self._owner.window_buckets)
        return b"$%d\r\n%b\r\n" % (len(packed), packed)

    def is_wanted(self) -> bool:
        # One that may have run has to be resolved whoever waits; else it would count what nobody asks for any more.
        settles = len(self.operations) > len(self.admits)
        return self.resent or settles or any(not admit.future.done() for admit in self.admits)

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
