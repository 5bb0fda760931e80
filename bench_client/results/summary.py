"""The figures of a run, from its records: counts, rates, latencies from the due time, per node and over all.

Weakness: percentiles come from HDR histograms of three significant digits, so they are within 0.1 % and not exact.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from bench_client.records.record import Record, failed_upstream
from bench_client.records.run_directory import RunInfo
from bench_client.results.client_health import ClientHealth
from bench_client.results.histograms import MAX_TRACKABLE_US, latency_histogram

PERCENTILES = {"p50": 50.0, "p90": 90.0, "p99": 99.0, "p99_9": 99.9}
NO_NODE = "(no node)"
REASONS = ("requests", "input_tokens", "output_tokens", "tokens")
ALL_REASONS = (*REASONS, "never_fits", "other")


@dataclass(slots=True)
class Figures:
    """Hold the counts over a set of requests; latencies are in µs from the due time, of complete responses."""

    requests: int = 0
    statuses: Counter[int] = field(default_factory=Counter)
    rejected: Counter[str] = field(default_factory=Counter)
    """429s by the binding limit; ``never_fits`` and ``other`` (nobody's) apart. Those of a service behind the limiter
    are in ``upstream``."""
    upstream: Counter[int] = field(default_factory=Counter)
    """Statuses of requests that the limiter admitted and that failed at the service behind it."""
    errors: Counter[str] = field(default_factory=Counter)
    degraded: int = 0
    latency_us: Any = field(default_factory=latency_histogram)

    def add(self, record: Record) -> None:
        self.requests += 1
        if record.degraded is not None:
            self.degraded += 1
        if record.error is not None or record.status is None:
            self.errors[record.error or "protocol"] += 1
            return
        self.statuses[record.status] += 1
        if failed_upstream(record):
            self.upstream[record.status] += 1
        elif record.status == 429:
            self.rejected[rejection_reason(record)] += 1
        self.latency_us.record_value(min(max(record.done_us - record.due_us, 1), MAX_TRACKABLE_US))

    @property
    def rejected_total(self) -> int:
        """Return the number of 429s, but for those of a service behind the limiter."""
        return self.statuses[429] - self.upstream[429]

    @property
    def other_statuses(self) -> Counter[int]:
        """Return the complete responses that are neither a success nor a rejection, by status."""
        return Counter({s: n for s, n in self.statuses.items() if s not in (200, 429)}) + Counter(
            {429: self.upstream[429]}
        )

    def as_dict(self) -> dict[str, object]:
        return {
            "requests": self.requests,
            "admitted": self.statuses[200],
            "rejected": {reason: self.rejected[reason] for reason in ALL_REASONS if self.rejected[reason]},
            "rejected_total": self.rejected_total,
            "other_statuses": {str(status): n for status, n in sorted(self.other_statuses.items())},
            "upstream_failures": {str(status): n for status, n in sorted(self.upstream.items())},
            "errors": dict(sorted(self.errors.items())),
            "errors_total": self.errors.total(),
            "degraded": self.degraded,
            "latency_ms": percentiles_ms(self.latency_us),
        }


@dataclass(frozen=True, slots=True)
class Summary:
    """Hold the figures of run and nodes without the warm-up, and how well the client kept to the schedule."""

    total: Figures
    nodes: dict[str, Figures]
    lateness_us: Any
    """When a request left, from when it was due; waiting for a free connection included."""
    sent: int
    target_qps: float
    achieved_qps: float
    """Complete responses while load was offered, per second of that time; what was caught up later doesn't count."""
    sending_s: float
    planned: int
    interrupted: bool
    client: ClientHealth
    warmup: int
    """Requests sent before those measured here."""

    def as_dict(self) -> dict[str, object]:
        return {
            "sent": self.sent,
            "planned": self.planned,
            "warmup": self.warmup,
            "interrupted": self.interrupted,
            "sending_s": round(self.sending_s, 3),
            "target_qps": round(self.target_qps, 2),
            "achieved_qps": round(self.achieved_qps, 2),
            "send_lateness_ms": percentiles_ms(self.lateness_us),
            "client": self.client.as_dict(),
            "total": self.total.as_dict(),
            "nodes": {node: figures.as_dict() for node, figures in self.nodes.items()},
        }


def summarize(records: Iterable[Record], info: RunInfo) -> Summary:
    """Sum up the records in one pass, without those of the warm-up, which come first in the schedule."""
    total, nodes, sent, in_time = Figures(), dict[str, Figures](), 0, 0
    lateness_us, from_sending_us = latency_histogram(), latency_histogram()
    planned, planned_s = info.planned - info.warmup, info.planned_s - info.warmup_s
    until_s = info.sending_s or info.planned_s
    for record in records:
        if record.request < info.warmup:
            continue
        total.add(record)
        node = record.node or NO_NODE
        figures = nodes.get(node)
        if figures is None:
            figures = nodes[node] = Figures()
        figures.add(record)
        if record.sent_us is not None:
            sent += 1
            in_time += record.error is None and record.done_us <= until_s * 1e6
            lateness_us.record_value(min(max(record.sent_us - record.due_us, 1), MAX_TRACKABLE_US))
            if record.error is None and record.status is not None:
                from_sending_us.record_value(min(max(record.done_us - record.sent_us, 1), MAX_TRACKABLE_US))
    seconds = max(until_s - info.warmup_s, 0.0)
    return Summary(
        total,
        dict(sorted(nodes.items(), key=lambda item: (item[0] == NO_NODE, item[0]))),
        lateness_us,
        sent,
        planned / planned_s if planned_s else 0.0,
        in_time / seconds if seconds else 0.0,
        seconds,
        planned,
        info.interrupted,
        ClientHealth(info.processes, percentiles_ms(total.latency_us), percentiles_ms(from_sending_us)),
        info.warmup,
    )


def percentiles_ms(histogram: Any) -> dict[str, float]:
    """Return percentiles in milliseconds; empty if nothing was recorded."""
    if not histogram.total_count:
        return {}
    figures = {name: histogram.get_value_at_percentile(at) / 1000 for name, at in PERCENTILES.items()}
    return {**figures, "max": histogram.get_max_value() / 1000}


def rejection_reason(record: Record) -> str:
    """Return why a request was rejected, one of ``ALL_REASONS``; only for a 429 that isn't an upstream's."""
    if record.never_fits:
        return "never_fits"
    return record.exceeded if record.exceeded in REASONS else "other"
