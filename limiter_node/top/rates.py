"""Rates between two samples of a node, and quantiles of the values counted between them.

Pure. Without a sample to compare with (the first one, a restarted node, another node behind the same URL) there are no
rates, so that no rate is ever negative.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import inf
from typing import NamedTuple

from limiter_node.top.sample import NOTHING, Histogram, NodeSample


@dataclass(frozen=True, slots=True)
class NodeRates:
    """Hold rates per second, between two samples of one node."""

    requests: float
    decisions: Mapping[tuple[str, str], float]
    """By outcome and reason."""
    degraded: Mapping[str, float]
    """Without the store, by outcome."""
    shed: float
    tokens: Mapping[str, float]
    """``input`` and ``reserved`` of admitted requests, ``output`` as settled."""
    cpu: float | None
    """Cores used."""
    latency: Histogram = NOTHING
    """Latency of the decisions between the samples."""
    batches: Histogram = NOTHING
    shard_calls: Mapping[str, Histogram] = field(default_factory=dict)


def rates(before: NodeSample | None, now: NodeSample) -> NodeRates | None:
    """Return the rates between the two samples; None if `now` doesn't continue `before`."""
    if before is None or not _goes_on(before, now):
        return None
    elapsed_s = now.at_s - before.at_s
    cpu = None if now.cpu_s is None or before.cpu_s is None else (now.cpu_s - before.cpu_s) / elapsed_s
    return NodeRates(
        requests=(now.responses - before.responses) / elapsed_s,
        decisions={key: (n - before.decisions.get(key, 0)) / elapsed_s for key, n in now.decisions.items()},
        degraded={key: (n - before.degraded.get(key, 0)) / elapsed_s for key, n in now.degraded.items()},
        shed=(now.shed - before.shed) / elapsed_s,
        tokens={key: (n - before.tokens.get(key, 0)) / elapsed_s for key, n in now.tokens.items()},
        cpu=cpu,
        latency=difference(before.latency, now.latency),
        batches=difference(before.batches, now.batches),
        shard_calls={
            shard: difference(before.shard_calls.get(shard, NOTHING), calls) for shard, calls in now.shard_calls.items()
        },
    )


def difference(before: Histogram, now: Histogram) -> Histogram:
    """Return the counts between two histograms. A new or restarted one, or one with other buckets, counts from 0."""
    if before.bounds != now.bounds or any(n < b for b, n in zip(before.counts, now.counts, strict=True)):
        return now
    counts = tuple(n - b for b, n in zip(before.counts, now.counts, strict=True))
    return Histogram(now.bounds, counts, now.total - before.total)


def together(histograms: Iterable[Histogram]) -> Histogram:
    """Return the sum of histograms, in the buckets of the first that has any; those with other buckets are left out."""
    kept = [each for each in histograms if each.bounds]
    kept = [each for each in kept if each.bounds == kept[0].bounds]
    if not kept:
        return NOTHING
    columns = zip(*(each.counts for each in kept), strict=True)
    return Histogram(kept[0].bounds, tuple(map(sum, columns)), sum(each.total for each in kept))


class Quantile(NamedTuple):
    """Hold a quantile; where it lies above the last bound, hold that bound."""

    value: float
    is_above: bool = False


def quantile(histogram: Histogram, share: float) -> Quantile | None:
    """Return the value below which `share` of the counted values lies; None for an empty histogram.

    Values are taken to be spread evenly within a bucket, as in Prometheus.
    """
    rank = share * histogram.number
    if not rank:
        return None
    lower, below = 0.0, 0.0
    for bound, count in zip(histogram.bounds, histogram.counts, strict=True):
        if bound == inf:
            break
        if count and below + count >= rank:
            return Quantile(lower + (bound - lower) * (rank - below) / count)
        lower, below = bound, below + count
    return Quantile(lower, True)


def mean(histogram: Histogram) -> float | None:
    """Return the mean of the counted values; None for an empty histogram."""
    return histogram.total / histogram.number if histogram.number else None


def _goes_on(before: NodeSample, now: NodeSample) -> bool:
    if (before.node, before.started_s) != (now.node, now.started_s) or now.at_s <= before.at_s:
        return False
    # If the system doesn't give a process's start time, falling counters show a restart.
    return not any(n < b for b, n in zip(_counters(before, now), _counters(now, now), strict=True))


def _counters(sample: NodeSample, named_by: NodeSample) -> Sequence[float]:
    return (
        sample.responses,
        sample.shed,
        sample.cpu_s or 0,
        sample.latency.number,
        sample.batches.number,
        *(sample.decisions.get(key, 0) for key in named_by.decisions),
        *(sample.degraded.get(key, 0) for key in named_by.degraded),
        *(sample.tokens.get(key, 0) for key in named_by.tokens),
    )
