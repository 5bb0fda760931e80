"""The figures of a run, from its records: counts, rates, latencies from the due time, per node and over all.

Weakness: percentiles come from HDR histograms of three significant digits, so they are within 0.1 % and not exact.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from bench_client.records.record import Record
from bench_client.records.run_directory import RunInfo
from bench_client.results.client_health import ClientHealth
from bench_client.results.counts import Counts
from bench_client.results.groups import Groups
from bench_client.results.histograms import MAX_TRACKABLE_US, latency_histogram

PERCENTILES = {"p50": 50.0, "p90": 90.0, "p99": 99.0, "p99_9": 99.9}
NO_NODE = "(no node)"


@dataclass(slots=True)
class Figures(Counts):
    """Hold the counts and latencies of a set of requests; latencies are in µs from the due time, of whole responses."""

    latency_us: Any = field(default_factory=latency_histogram)

    def add(self, record: Record) -> None:
        if self.count(record):
            self.latency_us.record_value(min(max(record.done_us - record.due_us, 1), MAX_TRACKABLE_US))

    def as_dict(self) -> dict[str, object]:
        return {**Counts.as_dict(self), "latency_ms": percentiles_ms(self.latency_us)}


@dataclass(frozen=True, slots=True)
class Summary:
    """Hold the figures of run and nodes without the warm-up, and how well the client kept to the schedule."""

    total: Figures
    nodes: dict[str, Figures]
    accounts: dict[str, Counts]
    """By account; empty if the run's keys have the same one, or none."""
    models: dict[str, Counts]
    """By model; empty if the run asked for one."""
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
            "accounts": {account: counts.as_dict() for account, counts in self.accounts.items()},
            "models": {model: counts.as_dict() for model, counts in self.models.items()},
        }


def summarize(records: Iterable[Record], info: RunInfo) -> Summary:
    """Sum up the records in one pass, without those of the warm-up, which come first in the schedule."""
    total, nodes, sent, in_time = Figures(), dict[str, Figures](), 0, 0
    lateness_us, from_sending_us = latency_histogram(), latency_histogram()
    planned, planned_s = info.planned - info.warmup, info.planned_s - info.warmup_s
    until_s = info.sending_s or info.planned_s
    groups = Groups(info)
    for record in records:
        if record.request < info.warmup:
            continue
        total.add(record)
        node = record.node or NO_NODE
        figures = nodes.get(node)
        if figures is None:
            figures = nodes[node] = Figures()
        figures.add(record)
        groups.add(record)
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
        groups.accounts,
        groups.models,
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
