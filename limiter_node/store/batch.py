"""Requests that wait for a verdict, the queues that hold them, and the batches in which they leave.

A queue has at most one batch under way. There are two kinds: `store.key_queue` has the queue of a plain key,
`store.accounts` that of an account. The rooms `store.decisions` and `store.outage` know only what they have in common.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Sequence
from typing import Protocol

from limiter_node.decisions import Decision, Need, Usage
from limiter_node.limiter.fallback import Fallback
from limiter_node.limits import Amounts
from limiter_node.store.charges import Charge
from limiter_node.store.wire.routing_and_retries import RoutedCall, Router
from limiter_node.store.wire.script_target import ScriptTarget


class BatchOwner(Protocol):
    """Handle the end of batches: reply, refusal or failure, once per batch, unless `on_batch_reply` raises."""

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

    __slots__ = ("charge", "deadline_s", "future", "is_held", "need", "queue")

    def __init__(self, queue: Asker, need: Need, future: asyncio.Future[Decision], deadline_s: float) -> None:
        self.queue, self.need, self.future, self.deadline_s = queue, need, future, deadline_s
        self.is_held = False
        """Whether its key is being looked for: it is asked again, or ends, in bounded time."""
        self.charge: Charge | None = None
        """Its charge, if a policy admitted it while the store's verdict was still to come."""


class SendQueue(ABC):
    """Hold what waits for one key or account, and its batch under way."""

    __slots__ = (
        "charges",
        "in_flight",
        "is_lingering",
        "is_met",
        "is_scheduled",
        "kid",
        "lingering_tokens",
        "target",
    )

    def __init__(self, kid: str, target: ScriptTarget) -> None:
        self.kid = kid
        """The key's digest, or the account's hash tag."""
        self.target = target
        self.is_met = False
        """Whether the store has replied anything about the key; see `store.decisions.queues`."""
        self.in_flight: Batch | None = None
        self.is_scheduled = False
        """Whether its next batch leaves in this turn of the event loop."""
        self.charges: deque[Charge] | None = None
        """Charges that still have to be sent; see `store.unsent_charges`."""
        self.lingering_tokens = 0
        """Tokens that the waiting settles give back; see `store.decisions.linger`."""
        self.is_lingering = False
        """Whether the waiting settles linger."""

    @property
    @abstractmethod
    def has_admits(self) -> bool:
        """Whether requests wait to be sent."""

    @property
    @abstractmethod
    def has_settles(self) -> bool:
        """Whether settles wait to be sent."""

    @abstractmethod
    def take_unsent(self) -> list[Admit]:
        """Take all requests that wait to be sent."""

    @abstractmethod
    def put_back(self, batch: Batch, unsent: list[Admit]) -> None:
        """Put back the settles of a batch that hasn't run, and those of its requests that still wait."""

    @abstractmethod
    def forget(self, window_buckets: int) -> None:
        """Forget settles that have left their windows."""

    @abstractmethod
    def now_bucket(self) -> int | None:
        """Return the store's time, as estimated and never ahead of it, in buckets; None if no reply has told it."""

    @abstractmethod
    def tokens_left(self) -> int:
        """Return the tokens that the last reply leaves in the tightest limit; -1 if there was none."""

    @abstractmethod
    def mark_counted(self, charge: Charge, bucket: int, number: int) -> None:
        """Note in the node's own windows that batch `number` has counted a charge in `bucket`: it moves there."""

    @abstractmethod
    def lose(self, recorded: int) -> list[Charge]:
        """Learn that the store has lost the counts of this node's batches after `recorded`; return charges for them.

        Settles of lost counts are dropped: the charges are already less by them.
        """

    @abstractmethod
    def forget_recharges(self) -> bool:
        """Forget the charges made after a loss that have left their windows. Return whether others are left."""

    keeps_charges = False
    """Whether charges may stay for longer than a window of a minute, so that their number has to be bounded."""

    def join(self, charge: Charge, width: int) -> Charge | None:
        """Add a new charge to one that waits, by `Charge.absorb`. Return the one that it has joined, None if none."""
        latest = self.charges[-1] if self.charges else None
        return latest if latest is not None and latest.absorb(charge, width) else None

    @property
    def is_idle(self) -> bool:
        """Whether nothing waits and no batch is under way."""
        return not (
            self.in_flight is not None or self.is_scheduled or self.has_admits or self.has_settles or self.charges
        )


class Asker(ABC):
    """The queue that requests with one credential join: a plain key's own, or that of a key of an account."""

    __slots__ = ()

    kid: str
    """The key's digest."""

    @property
    @abstractmethod
    def cid(self) -> str:
        """The credential's digest: the key's own, unless it is a further credential of the key."""

    @property
    @abstractmethod
    def sender(self) -> SendQueue:
        """The queue in whose batches the requests leave."""

    @abstractmethod
    def add(self, admit: Admit) -> None:
        """Add a request. Raises Overloaded if too many of this key wait."""

    @abstractmethod
    def decide_alone(self, fallback: Fallback, need: Need) -> tuple[Decision, int] | None:
        """Let a policy decide; return the decision and the bucket of the admission, None if the key isn't known.

        Raises:
            StoreUnavailable: the policy can't decide.
        """

    @abstractmethod
    def usage_alone(self, fallback: Fallback, models: tuple[str, ...] | None) -> Usage | None:
        """Return the usage by which a policy would decide requests for a model; None if the key isn't known.

        `models`: see `limiter.admission.Decider.peek`.
        """

    @abstractmethod
    def new_charge(self, need: Need, decision: Decision, bucket: int) -> Charge:
        """Return the charge of a request that a policy admitted in `bucket`."""


class Batch(RoutedCall):
    """Operations of one queue under one number: charges first, which are history; settles, which make room; admits.

    `charges` are those among the operations, with the amounts they were sent with.
    """

    __slots__ = ("_owner", "admits", "charges", "number", "queue", "size", "was_cut_off", "was_redeclared")

    def __init__(
        self,
        owner: BatchOwner,
        router: Router,
        queue: SendQueue,
        target: ScriptTarget,
        number: int,
        admits: list[Admit],
        charges: Sequence[tuple[Charge, Amounts]],
        now_s: float,
    ) -> None:
        RoutedCall.__init__(self, router, target, now_s)  # `super()` costs as much again
        self._owner, self.queue, self.number = owner, queue, number
        self.admits, self.charges = admits, charges
        self.size = len(admits)
        """The number of its operations; whoever adds others sets it."""
        self.was_cut_off = False  # its requests were decided without it
        self.was_redeclared = False  # its key was missing, and has been declared again

    @property
    @abstractmethod
    def others(self) -> int:
        """The number of its settles and charges."""

    def is_wanted(self) -> bool:
        # A batch that may have run has to be resolved even if nobody waits: it may have counted requests.
        return self.resent or self.others > 0 or any(not admit.future.done() for admit in self.admits)

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
