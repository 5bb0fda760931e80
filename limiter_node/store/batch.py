"""The queue where one key's requests wait, the batches that leave it, and reads of a key's window."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import Protocol

from limiter_node.decisions import Decision, Need, Usage
from limiter_node.errors import StoreUnavailable
from limiter_node.limits import Amounts
from limiter_node.store.charges import Charge
from limiter_node.store.codec import pack_admit, pack_batch
from limiter_node.store.knowledge import KeyKnowledge
from limiter_node.store.values import unpack_usage
from limiter_node.store.wire.commands import bulk
from limiter_node.store.wire.routing_and_retries import RoutedCall, Router
from limiter_node.store.wire.script_target import ScriptTarget


class BatchOwner(Protocol):
    """Handle the end of batches: reply, refusal or failure, once per batch, unless `on_batch_reply` raises."""

    @property
    def window_buckets(self) -> int:
        """The window's length in buckets, which every batch carries."""
        ...

    def on_batch_reply(self, batch: Batch, reply: bytes) -> None:
        """Take the script's reply. Raises, before it does anything, if `reply` can't be the script's."""
        ...

    def on_batch_refused(self, batch: Batch, reason: str) -> None:
        """Take a batch that the store refused to run."""
        ...

    def on_batch_failed(self, batch: Batch, reason: str) -> None:
        """Take a batch that was given up: whether it ran is unknown, and no longer matters."""
        ...

    def on_batch_held_up(self, batch: Batch) -> None:
        """Note that a batch can't run for now, because its slot is moving; it is sent again."""
        ...


class Admit:
    """Hold a request that waits for its verdict; `deadline_s` is by `time.monotonic`."""

    __slots__ = ("charge", "deadline_s", "future", "need", "queue")

    def __init__(self, queue: KeyQueue, need: Need, future: asyncio.Future[Decision], deadline_s: float) -> None:
        self.queue, self.need, self.future, self.deadline_s = queue, need, future, deadline_s
        self.charge: Charge | None = None
        """Its charge, if a policy admitted it while the store's verdict was still to come."""


class KeyQueue:
    """Hold the requests and settles that wait for one API key, its batch under way, and the node's knowledge of it."""

    __slots__ = (
        "admits",
        "charges",
        "in_flight",
        "is_lingering",
        "is_met",
        "is_scheduled",
        "kid",
        "knowledge",
        "lingering_tokens",
        "settles",
        "target",
    )

    def __init__(self, kid: str, target: ScriptTarget, knowledge: KeyKnowledge) -> None:
        self.kid = kid
        self.target = target
        self.knowledge = knowledge
        self.is_met = False
        """Whether the store has replied anything about the key; see `store.decisions.queues`."""
        # Lists, because there is one of each per key: an empty deque takes 600 bytes.
        self.admits: list[Admit] = []
        self.settles: list[bytes] = []
        self.in_flight: Batch | None = None
        self.is_scheduled = False
        """Whether its next batch leaves in this turn of the event loop."""
        self.charges: deque[Charge] | None = None
        """Charges that still have to be sent; see `store.unsent_charges`."""
        self.lingering_tokens = 0
        """Tokens that the waiting settles give back; see `store.decisions.linger`."""
        self.is_lingering = False
        """Whether the waiting settles linger."""

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
    def is_idle(self) -> bool:
        """Whether the key has nothing waiting and no batch under way."""
        return not (self.in_flight is not None or self.is_scheduled or self.admits or self.settles or self.charges)


class Batch(RoutedCall):
    """Operations of one key under one number: charges first, which are history; settles, which make room; admits.

    `charges` are those among the operations, with the amounts they were sent with.
    """

    __slots__ = ("_owner", "admits", "charges", "number", "operations", "queue", "was_cut_off", "was_redeclared")

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
    ) -> None:
        RoutedCall.__init__(self, router, queue.target, now_s)  # `super()` costs as much again
        self._owner, self.queue, self.number = owner, queue, number
        self.operations, self.admits, self.charges = operations, admits, charges
        self.was_cut_off = False  # its requests were decided without it
        self.was_redeclared = False  # its key was missing, and has been declared again

    @property
    def settles(self) -> list[bytes]:
        """The settles among the operations."""
        return self.operations[len(self.charges) : len(self.operations) - len(self.admits)]

    def arguments(self) -> bytes:
        window_buckets, knowledge = self._owner.window_buckets, self.queue.knowledge
        packed = pack_batch(
            self.number,
            self.operations,
            resent=self.resent,
            expected=knowledge.recorded if self._router.loop.time() < knowledge.recorded_until_s else 0,
            window_buckets=window_buckets,
        )
        return b"$%d\r\n%b\r\n" % (len(packed), packed)

    def is_wanted(self) -> bool:
        # A batch that may have run has to be resolved even if nobody waits: it may have counted requests.
        others = len(self.operations) > len(self.admits)
        return self.resent or others or any(not admit.future.done() for admit in self.admits)

    def on_result(self, reply: bytes) -> None:
        self._owner.on_batch_reply(self, reply)

    def on_unreadable(self) -> None:
        # The batch may have run: sent again under its number, it is answered from the record, not decided twice.
        self._router.ask_again(self)

    def on_held_up(self) -> None:
        self._owner.on_batch_held_up(self)

    def on_refused(self, reason: str) -> None:
        self._owner.on_batch_refused(self, reason)

    def on_failed(self, reason: str) -> None:
        self._owner.on_batch_failed(self, reason)


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

    def is_wanted(self) -> bool:
        return not self.future.done()

    def on_result(self, reply: list[object] | None) -> None:
        if not self.future.done():
            self.future.set_result(unpack_usage(reply, self.window_buckets))

    def on_failed(self, reason: str) -> None:
        if not self.future.done():
            self.future.set_exception(StoreUnavailable(reason))
