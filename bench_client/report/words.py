"""The page's labels: what is said about runs and figures, in words and numbers. Plain text, nothing is escaped here."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from bench_client.audit.paths import length_text
from bench_client.report.audit_figures import AuditedLimit
from bench_client.report.collect import Timeline
from bench_client.report.gather import MAX_KEY_NAME, ReportedRun, TreeWindow
from bench_client.report.sources import printable
from bench_client.report.windows import WindowSeries
from bench_client.results.summary import percentiles_ms
from bench_client.servers.servers_file import ProcessUse

DIMENSIONS = {"requests": "requests", "input_tokens": "input tokens", "output_tokens": "output tokens"}
UNITS = {**DIMENSIONS, "tokens": "tokens"}
OFFERED = "offered"
NEVER_SLID = "longer than the run"
"""Says of a window that its limit was only filled: nothing became free by time."""
MAX_SUBJECT = 200
MAX_MODELS = 18
"""Most characters of patterns for which a panel has room on a telephone."""
OUTCOMES = {
    "admitted": "admitted",
    "requests": "rejected: requests",
    "input_tokens": "rejected: input tokens",
    "output_tokens": "rejected: output tokens",
    "tokens": "rejected: tokens",
    "never_fits": "rejected: never fits",
    "rejected": "rejected: by others",
    "other": "other statuses",
    "errors": "errors",
}
"""As legends and tables call them; 429s that no limiter has signed are those of others."""


def outcomes(timeline: Timeline) -> dict[str, list[int]]:
    """Return what became of the requests, by outcome in the order of ``OUTCOMES``; only outcomes that there were."""
    rejected = {("rejected" if reason == "other" else reason): counts for reason, counts in timeline.rejected.items()}
    series = {"admitted": timeline.admitted, **rejected, "other": timeline.other, "errors": timeline.errors}
    return {name: series[name] for name in OUTCOMES if any(series.get(name, ()))}


def ms(value: float | None) -> str:
    """Return milliseconds with their unit, three digits or so; a dash for none."""
    if value is None:
        return "–"
    return f"{value:,.0f} ms" if value >= 100 else f"{value:.1f} ms" if value >= 10 else f"{value:.2f} ms"


def percentile(run: ReportedRun, name: str) -> float | None:
    """Return a percentile of all complete responses, in ms."""
    return percentiles_ms(run.records.summary.total.latency_us).get(name)


def latency_legend(run: ReportedRun) -> str:
    return f"{run.label}\np50 {ms(percentile(run, 'p50'))}, p99 {ms(percentile(run, 'p99'))}"


def window_note(window: WindowSeries) -> str:
    return f"{_fullest(window)}, {f'{sum(window.rejected):,}' if any(window.rejected) else 'none'} rejected"


def _fullest(window: WindowSeries) -> str:
    return f"fullest {share(window.worst_used, window.worst_limit)} of {window.worst_limit:,}"


def limit_title(limit: AuditedLimit) -> str:
    return f"{printable(limit.subject, MAX_KEY_NAME)}: {UNITS[limit.unit]}"


def limit_note(window: TreeWindow) -> str:
    """Return two lines: how full the window got, and which one it is."""
    limit, series = window
    per = f"in any {length_text(limit.per_ms)}" + ("" if limit.slid else f", {NEVER_SLID}")
    if limit.models:
        per += f"; for {printable(', '.join(limit.models), MAX_MODELS)}"
    if limit.is_enforced:
        return f"{window_note(series)}\n{per}"
    return f"{_fullest(series)}, {limit.would_have_rejected:,} would be rejected\naudited {per}"


def share(used: int, limit: int) -> str:
    """Return a share in percent, never rounded up to the limit or down to it: 99.9 % is below, 100.1 % is above."""
    if used == limit:
        return "100 %"
    ratio = used / limit if limit else float("inf")
    if ratio < 1:
        return f"{min(ratio * 100, 99.9):.1f} %"
    return f"{max(ratio * 100, 100.1):,.1f} %"


def process_name(use: ProcessUse) -> str:
    return printable(use.name, 20)


def joined(parts: Iterable[str]) -> str:
    """Return ``a``, ``a and b`` or ``a, b and c``."""
    *first, last = list(parts) or [""]
    return f"{', '.join(first)} and {last}" if first else last


# ---- what a figure shows, for those who can't see it ----------------------------------------------------------------


def throughput_label(runs: Sequence[ReportedRun]) -> str:
    def one(run: ReportedRun) -> str:
        timeline = run.records.timeline
        counts = ", ".join(f"{OUTCOMES[name]} {sum(each):,}" for name, each in outcomes(timeline).items())
        return f"{run.label}: offered {sum(timeline.offered):,}; {counts}"

    return "Requests per second over time, by what became of them. " + ". ".join(map(one, runs))


def latency_label(runs: Sequence[ReportedRun]) -> str:
    def one(run: ReportedRun) -> str:
        figures = percentiles_ms(run.records.summary.total.latency_us)
        return f"{run.label}: " + ", ".join(f"{name.replace('_', '.')} {ms(value)}" for name, value in figures.items())

    return "Latency by percentile. " + ". ".join(map(one, runs))


def over_time_label(runs: Sequence[ReportedRun]) -> str:
    def one(run: ReportedRun) -> str:
        known = [value for value in run.records.timeline.p99_ms if value is not None]
        return f"{run.label}: p99 of single bins between {ms(min(known))} and {ms(max(known))}"

    return "Median and p99 latency over time. " + ". ".join(map(one, runs))


def windows_label(run: ReportedRun) -> str:
    def one(window: WindowSeries) -> str:
        used = f"{window.worst_used:,} of {window.worst_limit:,} {DIMENSIONS[window.shown.unit]}"
        return f"{run.key_name(window.shown.name)}: fullest window {used}, {sum(window.rejected):,} rejected"

    return f"{run.label}: what each true 60 s window held, against its limit. " + ". ".join(map(one, run.windows))


def limits_label(run: ReportedRun) -> str:
    def one(window: TreeWindow) -> str:
        limit, series = window
        used = f"{series.worst_used:,} of {series.worst_limit:,} {UNITS[limit.unit]} in any {length_text(limit.per_ms)}"
        said = [used, f"{sum(series.rejected):,} rejected" if limit.is_enforced else "audited only"]
        said += [] if limit.slid else [NEVER_SLID]
        return f"{printable(limit.subject, MAX_SUBJECT)}: fullest window {', '.join(said)}"

    return f"{run.label}: what each true window held, against its limit. " + ". ".join(map(one, run.tree_windows))


def batches_label(runs: Sequence[ReportedRun]) -> str:
    def one(run: ReportedRun) -> str:
        if run.batches is None:
            return f"{run.label}: not sampled"
        shares = zip(run.batches.labels, run.batches.shares, strict=True)
        return f"{run.label}: " + ", ".join(f"{label}: {share:.1%}" for label, share in shares if share)

    return "Script calls by how many operations each carried. " + ". ".join(map(one, runs))


def cpu_label(runs: Sequence[ReportedRun]) -> str:
    def one(run: ReportedRun) -> str:
        return f"{run.label}: " + ", ".join(f"{process_name(use)} {use.cores:.2f}" for use in run.processes)

    return "CPU used, in cores. " + ". ".join(map(one, runs))
