"""What a run writes down: every operation as its caller saw it, and everything that was done to the store on purpose.

All times are milliseconds of the machine's clock, which is the store's clock too, unless a scenario steps that one.
What is done to the store lies in an interval: `begun_ms` is before its command was sent, `ended_ms` after its reply.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from .sharing import Sharing

if TYPE_CHECKING:
    from .policies import Declared

BUCKET_MS = 100
DIMENSIONS = ("requests", "input", "output")
UNITS = (*DIMENSIONS, "tokens")
"""The units of limits; tokens are input and output together."""

Triple = tuple[int, int, int]
"""Requests, input tokens, output tokens."""
NOTHING: Triple = (0, 0, 0)
Limits = tuple[int, int, int, int]
"""By unit of `UNITS`."""
NO_LIMIT = 2**53 - 1


class Place(NamedTuple):
    """A window: of a plain key, whose kid is the `owner`, or of the account with that hash tag.

    `subject`: empty for the account itself, a team's name, or ``=`` and a key's kid. The rest is empty for a plain key.
    """

    owner: str
    subject: str = ""
    per_ms: int = 0
    models: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """Its name in verdicts: of a plain key the kid."""
        if not self.per_ms:
            return self.owner
        return f"{self.owner[:8]} {self.subject[:8]} {self.per_ms / 1000:g} s {','.join(self.models)}"


class Touched(NamedTuple):
    """A window on a request's path, with the limits that may reject, as the decision told them."""

    place: Place
    limits: Limits


ADMITTED, REJECTED, NEVER, UNKNOWN = "admitted", "rejected", "never fits", "unknown key"
UNAVAILABLE, OVERLOADED, CANCELLED = "unavailable", "overloaded", "cancelled"
DECIDED = (ADMITTED, REJECTED, NEVER)
"""Outcomes that carry limits and a time."""
PENDING = ""
"""No end yet."""


def clock_ms() -> float:
    """Return the machine's clock."""
    return time.time() * 1000


@dataclass(slots=True)
class Op:
    """One request, from the asking to the settling. `node` is the incarnation that was asked."""

    node: int
    key: str
    asked_ms: float
    most: Triple
    """The most that it may come to count; what it needs exactly is known once it is decided."""
    told_ms: float = 0.0
    outcome: str = PENDING
    degraded: str = ""
    at_once: bool = False
    """Whether its end was there when the call returned, so that it was never sent."""
    time_ms: int = 0
    """The store's clock as the decision told it."""
    limits: Triple = NOTHING
    need: Triple = NOTHING
    used: Triple = NOTHING
    """The usage after the decision, as it was told: for reading a record, not judged."""
    settled_ms: float | None = None
    settled: Triple = NOTHING
    """What it counts from `settled_ms` on."""
    models: tuple[str, ...] = ()
    path: tuple[Touched, ...] = ()
    """The windows of a decided request of an account's key; a plain key has one, with `limits`."""
    exceeded: int = -1
    """Which window of `path` rejected it."""
    unit: int = -1
    """Index into `UNITS` of the limit that rejected it."""
    retry_ms: int = 0

    @property
    def counts(self) -> Triple:
        """What an admitted one counts in the end."""
        return self.need if self.settled_ms is None else self.settled


@dataclass(frozen=True, slots=True)
class Put:
    """Limits were declared."""

    begun_ms: float
    ended_ms: float
    limits: Triple
    reserve: int


@dataclass(frozen=True, slots=True)
class Deletion:
    """The key was deleted on purpose."""

    begun_ms: float
    ended_ms: float


@dataclass(frozen=True, slots=True)
class Loss:
    """All that was counted of the key is gone; `with_limits`: its limits, too."""

    begun_ms: float
    ended_ms: float
    with_limits: bool = False
    with_marks: bool = False
    """The marks of deleted keys are gone, too."""


@dataclass(frozen=True, slots=True)
class Rollback:
    """What was counted of the key is what it was at the dump."""

    begun_ms: float
    ended_ms: float
    dump_begun_ms: float
    dump_ended_ms: float


@dataclass(slots=True)
class KeyHistory:
    """What was done to one key. `is_declared`: whether nodes are given its limits, to declare it again."""

    is_declared: bool = False
    puts: list[Put] = field(default_factory=list)
    deletions: list[Deletion] = field(default_factory=list)
    losses: list[Loss] = field(default_factory=list)
    rollbacks: list[Rollback] = field(default_factory=list)

    @property
    def forgotten_ms(self) -> list[float]:
        """When the usage of before is forgotten: with each deletion, and once more when the key is put again.

        In between a node that has not heard of the deletion may admit on its own, and charge that or forget it. The
        store decides again from some moment on between the beginning and the end of that put.
        """
        times = []
        for deletion in self.deletions:
            times.append(deletion.ended_ms)
            again = [put for put in self.puts if put.begun_ms > deletion.ended_ms][:1]
            times += [at_ms for put in again for at_ms in (put.begun_ms, put.ended_ms)]
        return sorted(times)


@dataclass(frozen=True, slots=True)
class AccountPut:
    """The policy of an account, or of one of its keys, was written: the account is `declared` so from then on.

    `is_loss`: its policies were lost instead. Nodes may declare again what they know, until it is put again.
    """

    begun_ms: float
    ended_ms: float
    declared: Declared
    is_loss: bool = False


@dataclass(slots=True)
class AccountHistory:
    """The changes of one account. A loss of its policies is also a put, of an account without keys."""

    puts: list[AccountPut] = field(default_factory=list)
    losses: list[Loss] = field(default_factory=list)
    rollbacks: list[Rollback] = field(default_factory=list)
    forgotten_ms: list[float] = field(default_factory=list)
    """Always empty: what was counted of an account's key stays counted when the key is taken out."""

    def in_force(self, since_ms: float, until_ms: float) -> list[Declared]:
        """Return what was, or may have been, declared at some time between the two."""
        ends = [*(put.ended_ms for put in self.puts[1:]), float("inf")]
        found: list[Declared] = []
        for number, (put, end_ms) in enumerate(zip(self.puts, ends, strict=True)):
            if put.begun_ms <= until_ms and end_ms >= since_ms:
                found += [each.declared for each in self.puts[: number if put.is_loss else 0]]
                found.append(put.declared)
        return found


@dataclass(frozen=True, slots=True)
class Peek:
    """The counts of the store in a window: amounts by bucket."""

    time_ms: int
    buckets: dict[int, Triple]


@dataclass(frozen=True, slots=True)
class Count:
    """The counts of the store when all nodes had been drained, by window; None where the key doesn't exist."""

    drained_ms: float
    peeks: dict[Place, Peek | None]


EXACT_CLOCK, STEPPED_BACK, STEPPED_FORWARD = "exact", "back", "forward"


@dataclass(slots=True)
class Record:
    """One run. `nodes` is how many there are at a time; incarnations number on from 0."""

    nodes: int
    window_buckets: int
    policy: str
    timeout_ms: int
    clock: str = EXACT_CLOCK
    keys: dict[str, KeyHistory] = field(default_factory=dict)
    """The plain keys."""
    accounts: dict[str, AccountHistory] = field(default_factory=dict)
    """By hash tag."""
    account_of: dict[str, str] = field(default_factory=dict)
    """The hash tags of the accounts' keys."""
    ops: list[Op] = field(default_factory=list)
    deaths: dict[int, float] = field(default_factory=dict)
    """Incarnations that ended without draining, and when."""
    stalls: list[tuple[float, float]] = field(default_factory=list)
    """When this process itself stood still: from, until."""
    counts: list[Count] = field(default_factory=list)
    leaks: list[str] = field(default_factory=list)
    events: list[tuple[float, str]] = field(default_factory=list)
    """What was done, in words."""
    faults: int = 0
    """How many were drawn."""
    sharing: Sharing = field(init=False)

    def __post_init__(self) -> None:
        self.sharing = Sharing(self.nodes)

    @property
    def window_ms(self) -> int:
        """The length of a true window."""
        return self.window_buckets * BUCKET_MS

    def owner(self, kid: str) -> str:
        """Return the hash tag of the key's account; the kid of a plain key."""
        return self.account_of.get(kid, kid)

    def note(self, what: str) -> None:
        """Write down in words what is done."""
        self.events.append((clock_ms(), what))


@dataclass(frozen=True, slots=True)
class Violation:
    """Something that must not be: which rule, of which key, when, and the numbers."""

    rule: str
    key: str
    at_ms: float
    what: str


def plus(a: Triple, b: Triple) -> Triple:
    """Return the sum, dimension by dimension."""
    return a[0] + b[0], a[1] + b[1], a[2] + b[2]


def by_unit(amounts: Triple) -> Limits:
    """Return amounts by unit of `UNITS`."""
    return *amounts, amounts[1] + amounts[2]


def minus(a: Triple, b: Triple) -> Triple:
    """Return the difference, dimension by dimension."""
    return a[0] - b[0], a[1] - b[1], a[2] - b[2]


def least(a: Triple, b: Triple) -> Triple:
    """Return the smaller one, dimension by dimension."""
    return min(a[0], b[0]), min(a[1], b[1]), min(a[2], b[2])


def most(a: Triple, b: Triple) -> Triple:
    """Return the larger one, dimension by dimension."""
    return max(a[0], b[0]), max(a[1], b[1]), max(a[2], b[2])
