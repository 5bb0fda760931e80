"""A node's counts about itself: plain numbers, counted where things happen and read when somebody asks.

`limiter_node.http.metrics` exposes them to Prometheus. They are not prometheus-client's own counters because those take
a lock and walk over their buckets: 1.5 µs per observation, and a request makes several. Here, counting adds to a list's
element, and a power of two is found by the bit length of a number: all counting of a request costs it 1 %
(docs/measurements.md).

Neighbours: the store counts decisions, batches and calls, the limiter tokens and settles, the HTTP layer responses.
Nothing here knows an API key.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from itertools import product
from typing import Final, NamedTuple, Protocol

from limiter_node.decisions import Decision, Outcome
from limiter_node.limits import MAX_BATCH, WINDOW_MS
from limiter_node.policy import UNITS

LATENCY_BOUNDS_S: Final = tuple(0.0001 * 2**k for k in range(12))
"""0.1 ms to 204.8 ms; above it is the last count."""
SIZE_BOUNDS: Final = tuple(2**k for k in range(7))
"""1 to 64; above them is the last count."""

_PER_OUTCOME: Final = 8
"""Counts per outcome: one for no limit, one per unit of `UNITS`, and room for three more units."""


class Latencies:
    """A histogram of times: `counts` has one entry per bound of `LATENCY_BOUNDS_S`, and one for longer times."""

    __slots__ = ("counts", "sum_s")

    def __init__(self) -> None:
        self.counts = [0] * (len(LATENCY_BOUNDS_S) + 1)
        self.sum_s = 0.0

    def note(self, seconds: float) -> None:
        """Count a time."""
        index = int(seconds * 10_000.0).bit_length()
        self.counts[index if index < 12 else 12] += 1
        self.sum_s += seconds


WAIT_BOUNDS_S: Final = tuple(0.001 * 2**k for k in range(18))
"""1 ms to 131 s; above it is the last count."""


class Waits(Latencies):
    """A histogram of times that may be minutes, by `WAIT_BOUNDS_S`."""

    __slots__ = ()

    def __init__(self) -> None:
        super().__init__()
        self.counts = [0] * (len(WAIT_BOUNDS_S) + 1)

    def note(self, seconds: float) -> None:
        """Count a time."""
        index = int(seconds * 1_000.0).bit_length()
        self.counts[index if index < 18 else 18] += 1
        self.sum_s += seconds


UPSTREAM_OUTCOMES: Final = ("ok", "rate_limited", "refused", "failed", "unreachable", "timeout", "broken", "gone")
"""The ways a service may take a request: answered; 429; another 4xx; 5xx; no connection; silence; an answer that broke
off or made no sense; given up because the client left."""


class UpstreamCounts:
    """The requests to one service, and their outcomes."""

    __slots__ = ("head_wait", "outcomes", "retries")

    def __init__(self) -> None:
        self.outcomes = dict.fromkeys(UPSTREAM_OUTCOMES, 0)
        self.retries = 0
        """Requests sent again, because the service cannot have read them."""
        self.head_wait = Waits()
        """Times from sending a request to the head of its answer."""


class UpstreamTarget(Protocol):
    """One address of a service, as it is now."""

    service: str
    name: str
    """``host:port``."""
    is_out: bool
    """Whether it gets no requests for now, because it failed."""


class BatchSizes(list[int]):
    """The number of batches of each size: ``sizes[n] += 1`` counts one of `n` operations, up to `most`."""

    def __init__(self, most: int) -> None:
        super().__init__([0] * (most + 1))

    @property
    def batches(self) -> int:
        """The number of batches. O(most), as the others."""
        return sum(self)

    @property
    def operations(self) -> int:
        """The number of operations in all batches. O(most)."""
        return sum(size * count for size, count in enumerate(self))

    def by_bound(self) -> list[int]:
        """Return a histogram: one entry per bound of `SIZE_BOUNDS`, and one for larger batches."""
        counts = [0] * (len(SIZE_BOUNDS) + 1)
        for size, count in enumerate(self):
            counts[bisect_left(SIZE_BOUNDS, size)] += count
        return counts


class DecisionCounts:
    """The store's decisions by outcome and unit, in one list, because a look-up by two enums costs as much as the rest
    of the counting.
    """

    __slots__ = ("_counts",)

    def __init__(self) -> None:
        self._counts = [0] * (_PER_OUTCOME * len(Outcome))

    def count(self, outcome: Outcome, dimension: int = -1) -> None:
        """Count a decision. `dimension`: the index into `UNITS` of the limit that rejected, -1 if none did."""
        self._counts[_PER_OUTCOME * outcome + dimension + 1] += 1

    def by_reason(self) -> dict[tuple[str, str], int]:
        """Return ``(outcome, reason)`` → decisions for all possible pairs. Reasons are units, or ``none``."""
        counts = {}
        for outcome in Outcome:
            at = _PER_OUTCOME * outcome
            if outcome in (Outcome.REJECTED, Outcome.NEVER_FITS):
                for dimension, name in enumerate(UNITS):
                    counts[outcome.name.lower(), name] = self._counts[at + dimension + 1]
            else:
                counts[outcome.name.lower(), "none"] = self._counts[at]
        return counts


LEVELS: Final = ("account", "team", "key")
WINDOW_CLASSES: Final = ("shorter", "1m", "longer")
"""Lengths of windows: below a minute, just that, and above it."""


class RejectionCounts:
    """The rejections by the limit that rejected: its unit, its level, and the class of its window's length."""

    __slots__ = ("_counts",)

    def __init__(self) -> None:
        self._counts = [0] * (len(UNITS) * len(LEVELS) * len(WINDOW_CLASSES))

    def count(self, decision: Decision) -> None:
        """Count a decision that a limit rejected."""
        level, length = 2, 1
        path = decision.path
        if path is not None:
            window = path.plan.windows[path.exceeded]
            if not (window.is_own or path.plan.is_flat):
                level = 1 if "/" in window.subject else 0  # the name of an account has no slash
            length = (window.per_ms > WINDOW_MS) - (window.per_ms < WINDOW_MS) + 1
        self._counts[(decision.dimension * len(LEVELS) + level) * len(WINDOW_CLASSES) + length] += 1

    def by_limit(self) -> dict[tuple[str, str, str], int]:
        """Return ``(unit, level, window)`` → rejections for all possible ones."""
        names = product(UNITS, LEVELS, WINDOW_CLASSES)
        return dict(zip(names, self._counts, strict=True))


class Telemetry:
    """The counts of one node process, all since its start."""

    def __init__(self) -> None:
        # By the store.
        self.decisions = DecisionCounts()
        self.rejections = RejectionCounts()
        self.decision_latency = Latencies()
        """Times from asking to the verdict of the store, or of a policy in its place."""
        self.batch_sizes = BatchSizes(MAX_BATCH)
        """Operations per batch, charges and settles among them."""
        # By the limiter.
        self.input_tokens = 0
        """Input tokens of admitted requests."""
        self.reserved_output_tokens = 0
        """Output tokens that admitted requests reserved."""
        self.output_tokens = 0
        """Output tokens of answers that have ended."""
        self.overrun_input_tokens = 0
        """Charged on settle: input that an upstream reports beyond what was counted on admission."""
        self.overrun_output_tokens = 0
        """Charged on settle: output beyond what was reserved."""
        self.settled = 0
        """Reservations that ended with an answer, whole or in part; the others were refunded."""
        self.refunded = 0
        # By the gateway.
        self.upstreams: dict[str, UpstreamCounts] = {}
        """The counts of each service, by its name."""
        self.upstream_targets: Sequence[UpstreamTarget] = ()
        """The services' addresses."""
        # By the HTTP layer.
        self.responses = [0] * 600
        """HTTP responses by status."""


class ShardState(NamedTuple):
    """The state of one shard as a node sees it."""

    address: str
    """``host:port`` of its master."""
    is_cut_off: bool
    calls: Latencies
    """Times from a write to the reply to its last command; one write at a time is timed."""


class StoreState(NamedTuple):
    """The state of the store as a node sees it, with counts since the node's start."""

    waiting: int
    """Requests without a verdict yet."""
    batches_in_flight: int
    live_nodes: int
    """0 until the store has reported the number."""
    shards: Sequence[ShardState]
    shards_cut_off: int
    """Shards that don't decide, those without a known master included."""
    outages: int
    """The number of times that a shard was cut off."""
    degraded: Mapping[str, int]
    """Requests decided without the store: ``admitted``, ``rejected``; ``refused`` is neither: there is no policy, it
    doesn't know enough of the key, or too many charges wait."""
    errors: Mapping[str, int]
    """Errors by kind: ``lost``, ``refused``, ``redirected``, ``reloaded``, ``unreadable``, ``failed``."""
    losses: Mapping[str, int]
    """Data that the store had lost and this node restored: windows charged again (``counts``), keys declared again
    (``keys``)."""
    known_keys: int
    """Keys that the node has met and remembers; one with several credentials counts for each that was used."""
    known_accounts: int
    """Accounts of such keys; a key that is an account of its own is one, too."""
    unsent_charges: int
    """Charges that wait: what the node has admitted without the store, and what settles add."""
