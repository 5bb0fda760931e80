"""All that a page says about one run, put together from its directory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from bench_client.records.run_directory import open_records
from bench_client.report.audit_figures import AuditedLimit, AuditFigures, audit_of
from bench_client.report.choosing import choose_keys, choose_limits, in_order
from bench_client.report.collect import Collected, collect
from bench_client.report.loads import Batches, batches_of, processes_of
from bench_client.report.shown_limits import PlainLimit, shared_subjects, tree_limits
from bench_client.report.sources import Source, printable
from bench_client.report.windows import WindowSeries, window_series
from bench_client.servers.servers_file import ProcessUse, read_servers

MAX_KEY_NAME = 20
"""Most characters for which a panel's title has room on a telephone."""


class TreeWindow(NamedTuple):
    """Hold what the audit found of a limit, and the same window counted again."""

    audited: AuditedLimit
    series: WindowSeries


@dataclass(frozen=True, slots=True)
class ReportedRun:
    """Hold one column of the page."""

    source: Source
    records: Collected
    audit: AuditFigures
    windows: list[WindowSeries]
    """Of plain keys; empty where a limiter decided nothing of such a key."""
    limits: list[AuditedLimit]
    """On the paths of all other keys, in the order in which they are shown."""
    tree_windows: list[TreeWindow]
    """Of the first of these limits."""
    sampled: bool
    """Whether the run has a ``servers.json``."""
    batches: Batches | None
    processes: list[ProcessUse]

    @property
    def label(self) -> str:
        return self.source.label

    @property
    def seconds(self) -> float:
        """Return how long load was offered, without the warm-up."""
        return self.records.summary.sending_s

    def key_name(self, key: str) -> str:
        """Return the key's name as a figure shows it."""
        return printable(self.source.info.key_names.get(key) or key, MAX_KEY_NAME)


def gather(source: Source) -> ReportedRun:
    """Read a run; audit it, if that hasn't been done.

    Raises BenchError when its files are damaged, or nothing was answered.
    """
    records = collect(source)
    audit, servers = audit_of(source.directory, complete=records.complete), read_servers(source.directory)
    info, tree = source.info, source.info.tree
    plain = {key: use for key, use in records.keys.items() if key not in tree.keys}
    keys = choose_keys(plain, {dimension: fill.key for dimension, fill in audit.fullest})
    limits = in_order(audit.limits, shared_subjects(tree))
    chosen = choose_limits(limits, tree_limits(tree, str(info.settings.get("model") or "")))
    series: list[WindowSeries] = []
    if records.clock_ms is not None:
        series = window_series(
            open_records(source.directory, info),
            [*keys, *(limit for _, limit in chosen)],
            clock_ms=records.clock_ms,
            until_s=records.summary.sending_s,
        )
    return ReportedRun(
        source,
        records,
        audit,
        [each for each in series if isinstance(each.shown, PlainLimit)],
        limits,
        [TreeWindow(audited, each) for audited, limit in chosen for each in series if each.shown is limit],
        servers is not None,
        batches_of(servers),
        processes_of(servers),
    )
