"""All that a page says about one run, put together from its directory."""

from __future__ import annotations

from dataclasses import dataclass

from bench_client.records.run_directory import open_records
from bench_client.report.collect import Collected, collect
from bench_client.report.loads import AuditFigures, Batches, audit_of, batches_of, processes_of
from bench_client.report.sources import Source, printable
from bench_client.report.windows import KeyWindow, choose_keys, window_series
from bench_client.servers.servers_file import ProcessUse, read_servers

MAX_KEY_NAME = 20
"""Most characters for which a panel's title has room on a telephone."""


@dataclass(frozen=True, slots=True)
class ReportedRun:
    """Hold one column of the page."""

    source: Source
    records: Collected
    audit: AuditFigures
    windows: list[KeyWindow]
    """Empty where nothing was decided by a limiter."""
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
    shown = choose_keys(records.keys, {dimension: fill.key for dimension, fill in audit.fullest})
    windows: list[KeyWindow] = []
    if records.clock_ms is not None:
        windows = window_series(
            open_records(source.directory, source.info),
            shown,
            clock_ms=records.clock_ms,
            until_s=records.summary.sending_s,
        )
    return ReportedRun(source, records, audit, windows, servers is not None, batches_of(servers), processes_of(servers))
