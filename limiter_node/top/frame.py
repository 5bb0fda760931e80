"""One frame of the view, as plain values, made from the current reading and the ones before.

Pure. Neighbours: `rates` (one node), `screen` and `lines` (which draw it).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from limiter_node.policy import UNITS
from limiter_node.store.admin.hottest import NOT_WALKED, Walk
from limiter_node.store.admin.limit_heat import LimitHeat
from limiter_node.store.admin.plain_heat import KeyHeat
from limiter_node.store.admin.watch import ShardReading, StoreReading
from limiter_node.top.rates import NodeRates, Quantile, mean, quantile, rates, together
from limiter_node.top.sample import NodeReading, NodeSample

OUTCOMES = ("admitted", "rejected", "never_fits", "unknown_key", "revoked_key", "expired_key", "disabled_key")
DEGRADED = ("admitted", "rejected", "refused")
TOKENS = ("input", "reserved", "output")
HISTORY = 240
"""Number of refreshes that the line of decisions/s shows."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Hold the readings of one refresh. `nodes` is None without --target, `store` without --store."""

    time_s: float
    """Since the epoch."""
    nodes: tuple[NodeReading, ...] | None
    store: StoreReading | None


@dataclass(frozen=True, slots=True)
class NodeRow:
    """Hold a node's numbers, None while they aren't known."""

    target: str
    problem: str = ""
    requests: float | None = None
    decisions: float | None = None
    p50_s: Quantile | None = None
    p99_s: Quantile | None = None
    batch: float | None = None
    """Operations per script call, on average."""
    in_flight: float | None = None
    waiting: float | None = None
    cpu: float | None = None
    """Cores."""
    memory_bytes: float | None = None
    shed: float | None = None


@dataclass(frozen=True, slots=True)
class ShardRow:
    """Hold a shard's numbers: `reading` from its server, the rest from the nodes."""

    reading: ShardReading
    cpu: float | None = None
    """Cores."""
    p99_s: Quantile | None = None
    """Of the nodes' script calls."""
    cut_off_by: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Totals:
    """Hold the sums over all nodes that could be compared, per second."""

    requests: float
    outcomes: Mapping[str, float]
    """Decisions, by `OUTCOMES`."""
    reasons: Mapping[str, float]
    """Rejected decisions, by the limit that rejected."""
    degraded: Mapping[str, float]
    """Decisions without the store, by `DEGRADED`."""
    tokens: Mapping[str, float]
    """Tokens, by `TOKENS`."""
    shed: float
    p50_s: Quantile | None
    p99_s: Quantile | None

    @property
    def decisions(self) -> float:
        """Return the store's decisions per second."""
        return sum(self.outcomes.values())


@dataclass(frozen=True, slots=True)
class Frame:
    """Hold one frame of the view."""

    time_s: float
    nodes: tuple[NodeRow, ...] | None
    totals: Totals | None
    """None without nodes, and before there are two samples to compare."""
    shards: tuple[ShardRow, ...] | None
    store_name: str = ""
    store_problem: str = ""
    shards_cut_off: int = 0
    """The largest number that any node reports."""
    live_nodes: int | None = None
    """As the store counts them."""
    hottest: tuple[KeyHeat | LimitHeat, ...] = ()
    tightest: tuple[LimitHeat, ...] = ()
    """Of accounts and teams."""
    walk: Walk = NOT_WALKED
    history: tuple[float, ...] = ()
    """Decisions/s of recent frames, the current one last."""

    @property
    def nodes_up(self) -> int:
        """Return how many nodes answered."""
        return sum(not row.problem for row in self.nodes or ())

    @property
    def shards_up(self) -> int:
        """Return how many shards' masters answered."""
        return sum(not row.reading.problem for row in self.shards or ())


@dataclass(frozen=True, slots=True)
class Before:
    """Hold the readings that a frame is compared with: each node's and shard's last one, however old."""

    nodes: Mapping[str, NodeSample] = field(default_factory=dict)
    shards: Mapping[str, ShardReading] = field(default_factory=dict)
    history: tuple[float, ...] = ()

    def then(self, snapshot: Snapshot, frame: Frame) -> Before:
        """Return the readings that the next frame is compared with."""
        nodes = {each.target: each.sample for each in snapshot.nodes or () if each.sample is not None}
        shards = snapshot.store.shards if snapshot.store is not None else ()
        answered = {each.address: each for each in shards if not each.problem}
        return Before({**self.nodes, **nodes}, {**self.shards, **answered}, frame.history)


def make_frame(before: Before, now: Snapshot) -> Frame:
    """Return the frame of `now`."""
    samples = {each.target: each.sample for each in now.nodes or () if each.sample is not None}
    compared = {
        target: found
        for target, sample in samples.items()
        if (found := rates(before.nodes.get(target), sample)) is not None
    }
    totals = _totals(compared.values()) if compared else None
    store = now.store
    return Frame(
        now.time_s,
        None if now.nodes is None else tuple(_node_row(each, compared.get(each.target)) for each in now.nodes),
        totals,
        None if store is None else tuple(_shard_row(each, store, before, samples, compared) for each in store.shards),
        store.name if store is not None else "",
        store.problem if store is not None else "",
        int(max((sample.shards_cut_off for sample in samples.values()), default=0)),
        max((int(each.live_nodes) for each in samples.values() if each.live_nodes), default=None),
        store.hottest if store is not None else (),
        store.tightest if store is not None else (),
        store.walk if store is not None else NOT_WALKED,
        (*before.history, totals.decisions)[-HISTORY:] if totals is not None else before.history,
    )


def _node_row(reading: NodeReading, found: NodeRates | None) -> NodeRow:
    sample = reading.sample
    if sample is None:
        return NodeRow(reading.target, reading.problem)
    return NodeRow(
        reading.target,
        requests=found.requests if found else None,
        decisions=sum(found.decisions.values()) if found else None,
        p50_s=quantile(found.latency, 0.5) if found else None,
        p99_s=quantile(found.latency, 0.99) if found else None,
        batch=mean(found.batches) if found else None,
        in_flight=sample.requests_in_flight,
        waiting=sample.waiting,
        cpu=found.cpu if found else None,
        memory_bytes=sample.memory_bytes,
        shed=found.shed if found else None,
    )


def _shard_row(
    reading: ShardReading,
    store: StoreReading,
    before: Before,
    samples: Mapping[str, NodeSample],
    compared: Mapping[str, NodeRates],
) -> ShardRow:
    def is_it(named: str) -> bool:
        # Nodes may use another name for a single store than this command.
        return named == reading.address or (len(store.shards) == 1 and not store.is_cluster)

    calls = together(calls for found in compared.values() for named, calls in found.shard_calls.items() if is_it(named))
    cut_off_by = tuple(target for target, sample in samples.items() if any(map(is_it, sample.cut_off)))
    return ShardRow(reading, _cpu(before.shards.get(reading.address), reading), quantile(calls, 0.99), cut_off_by)


def _cpu(before: ShardReading | None, now: ShardReading) -> float | None:
    if before is None or before.cpu_s is None or now.cpu_s is None:
        return None
    if now.cpu_s < before.cpu_s or now.at_s <= before.at_s:  # the server was restarted
        return None
    return (now.cpu_s - before.cpu_s) / (now.at_s - before.at_s)


def _totals(found: Iterable[NodeRates]) -> Totals:
    found = list(found)
    latency = together(each.latency for each in found)

    def decisions(label: int, name: str) -> float:
        return sum(n for each in found for labels, n in each.decisions.items() if labels[label] == name)

    return Totals(
        sum(each.requests for each in found),
        {outcome: decisions(0, outcome) for outcome in OUTCOMES},
        {reason: decisions(1, reason) for reason in UNITS},
        {outcome: sum(each.degraded.get(outcome, 0) for each in found) for outcome in DEGRADED},
        {what: sum(each.tokens.get(what, 0) for each in found) for what in TOKENS},
        sum(each.shed for each in found),
        quantile(latency, 0.5),
        quantile(latency, 0.99),
    )
