"""One node's ``/metrics`` at one moment, read into plain numbers.

Tolerant: a missing family (an older node, another system) is None, zero or empty. Pure except for the parser.
Neighbours: `polling` fetches the text, `rates` compares two samples.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from prometheus_client.parser import text_string_to_metric_families

PREFIX = "limiter_"
_TOKENS = {
    "input": "limiter_input_tokens_total",
    "reserved": "limiter_reserved_output_tokens_total",
    "output": "limiter_output_tokens_total",
}


class NotOurs(ValueError):
    """Raised when a text is not a node's metrics."""


class Histogram(NamedTuple):
    """Hold counts per bucket (not cumulative; the last bound is infinite), and the sum of the values."""

    bounds: tuple[float, ...] = ()
    counts: tuple[float, ...] = ()
    total: float = 0.0

    @property
    def number(self) -> float:
        """Return how many values were counted."""
        return sum(self.counts)


NOTHING = Histogram()


@dataclass(frozen=True, slots=True)
class NodeSample:
    """Hold one node's numbers; counters count from its start."""

    at_s: float
    """Time of the reading, by this process's monotonic clock."""
    node: str = ""
    version: str = ""
    started_s: float | None = None
    cpu_s: float | None = None
    memory_bytes: float | None = None
    decisions: Mapping[tuple[str, str], float] = field(default_factory=dict)
    """By outcome and reason."""
    degraded: Mapping[str, float] = field(default_factory=dict)
    """Decisions without the store, by outcome."""
    responses: float = 0
    shed: float = 0
    tokens: Mapping[str, float] = field(default_factory=dict)
    """``input`` and ``reserved`` of admitted requests, ``output`` as settled."""
    latency: Histogram = NOTHING
    """Of decisions, in s."""
    batches: Histogram = NOTHING
    """Operations per batch."""
    shard_calls: Mapping[str, Histogram] = field(default_factory=dict)
    """Times in s, by the shard's ``host:port``."""
    cut_off: frozenset[str] = frozenset()
    """Shards that the node has cut off."""
    shards_cut_off: float = 0
    requests_in_flight: float | None = None
    waiting: float | None = None
    live_nodes: float | None = None


@dataclass(frozen=True, slots=True)
class NodeReading:
    """Hold a target's sample, or the reason why there is none."""

    target: str
    sample: NodeSample | None
    problem: str = ""


def read_sample(text: str, at_s: float) -> NodeSample:
    """Read a page of Prometheus text. Raises NotOurs."""
    values: dict[str, dict[tuple[str, ...], float]] = defaultdict(dict)
    try:
        for family in text_string_to_metric_families(text):
            for each in family.samples:
                # In the order of the labels' names, which need not be that of the page.
                values[each.name][tuple(each.labels[name] for name in sorted(each.labels))] = each.value
    except (ValueError, KeyError, IndexError):
        raise NotOurs("its metrics are not Prometheus text: is it a node?") from None
    if not any(name.startswith(PREFIX) for name in values):
        raise NotOurs("its metrics are not a limiter's: is it a node?")
    try:
        return _node_sample(values, at_s)
    except ValueError:
        raise NotOurs("its metrics have other labels than a node's: is it another version?") from None


def _node_sample(values: Mapping[str, Mapping[tuple[str, ...], float]], at_s: float) -> NodeSample:
    def family(name: str) -> Mapping[tuple[str, ...], float]:
        return values.get(name, {})

    def one(name: str) -> float | None:
        return family(name).get(())

    # Here and below labels are unpacked in the order of their names.
    node, version = next(iter(family("limiter_build_info")), ("", ""))
    calls: dict[str, dict[str, float]] = defaultdict(dict)
    for (bound, shard), count in family("limiter_shard_call_seconds_bucket").items():
        calls[shard][bound] = count
    return NodeSample(
        at_s=at_s,
        node=node,
        version=version,
        started_s=one("process_start_time_seconds"),
        cpu_s=one("process_cpu_seconds_total"),
        memory_bytes=one("process_resident_memory_bytes"),
        decisions={(outcome, reason): n for (outcome, reason), n in family("limiter_decisions_total").items()},
        degraded={outcome: n for (outcome,), n in family("limiter_degraded_decisions_total").items()},
        responses=sum(family("limiter_responses_total").values()),
        shed=one("limiter_shed_requests_total") or 0,
        tokens={what: n for what, name in _TOKENS.items() if (n := one(name)) is not None},
        latency=_histogram(
            {bound: n for (bound,), n in family("limiter_decision_seconds_bucket").items()},
            one("limiter_decision_seconds_sum"),
        ),
        batches=_histogram(
            {bound: n for (bound,), n in family("limiter_batch_operations_bucket").items()},
            one("limiter_batch_operations_sum"),
        ),
        shard_calls={shard: _histogram(buckets, None) for shard, buckets in calls.items()},
        cut_off=frozenset(shard for (shard,), is_cut_off in family("limiter_shard_cut_off").items() if is_cut_off),
        shards_cut_off=one("limiter_shards_cut_off") or 0,
        requests_in_flight=one("limiter_requests_in_flight"),
        waiting=one("limiter_waiting_requests"),
        live_nodes=one("limiter_live_nodes"),
    )


def _histogram(buckets: Mapping[str, float], total: float | None) -> Histogram:
    ordered = sorted((float(bound), count) for bound, count in buckets.items())
    below = [0.0, *(count for _, count in ordered)]  # Prometheus' buckets each hold the ones below
    counts = tuple(count - before for (_, count), before in zip(ordered, below, strict=False))
    return Histogram(tuple(bound for bound, _ in ordered), counts, total or 0.0)
