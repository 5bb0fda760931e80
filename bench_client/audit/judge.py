"""Runs all checks over the records of a run and writes ``audit.json``."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from bench_client.audit.bounds import UsageBounds
from bench_client.audit.completeness import Completeness, read_once
from bench_client.audit.decisions import check_decisions
from bench_client.audit.report import AuditReport, Findings, WorstFill
from bench_client.audit.responses import check_responses
from bench_client.audit.retries import check_retries
from bench_client.audit.timeline import DIMENSIONS, NEVER_US, WINDOW_MS, KeyTimeline, build_timelines
from bench_client.audit.windows import Fullest, check_windows
from bench_client.errors import BenchError
from bench_client.records.record import Record
from bench_client.records.run_directory import RunInfo, open_records, read_info, write_json

AUDIT_NAME = "audit.json"
CUT_OFF_SLACK_US = 1_000_000
NOTHING_HELD_US = -NEVER_US
COMPLETE = Completeness()


def audit_directory(
    directory: Path, window_ms: int = WINDOW_MS, *, warn: Callable[[str], None] = lambda _: None
) -> AuditReport:
    """Audit the run in ``directory`` of a limiter whose window is ``window_ms`` long.

    ``warn`` gets a line if the result can't be written there. Raises BenchError if there is nothing to audit.
    """
    info = read_info(directory)
    with _no_cyclic_gc():
        records, complete = read_once(open_records(directory, info), info)
        report = audit_records(records, info, complete=complete, window_ms=window_ms)
    try:
        write_json(directory / AUDIT_NAME, report.as_dict())
    except BenchError as error:  # a read-only folder or a full disk does not change the verdict
        warn(f"note: {error}; the verdict is shown but not saved")
    return report


def audit_records(
    records: Iterable[Record],
    info: RunInfo,
    *,
    complete: Completeness = COMPLETE,
    window_ms: int = WINDOW_MS,
) -> AuditReport:
    """Audit ``records``: one for each request that was sent, except for those that ``complete`` lists as missing.

    Keys with other limits than their own three a minute are not judged: their counters may be of windows that they
    share with other keys, or of another length. O(n log n). Raises BenchError when no request was decided.
    """
    records = list(records)
    sent, other_keys = len(records), {record.key for record in records if record.has_other_limits}
    if other_keys:
        records = [record for record in records if record.key not in other_keys]
    timelines = build_timelines(records, window_ms)
    report = AuditReport(Findings(), info.key_names, {}, {}, missing=complete.reasons, window_ms=window_ms)
    report.keys_not_judged, report.requests_not_judged = len(other_keys), sent - len(records)
    held_until_us = _held_until_us(records, complete, float(info.settings.get("timeout_s", 0)))
    for timeline in timelines.values():
        _judge(timeline, report, held_until_us)
    if not other_keys and not report.admitted + report.rejected + report.degraded.total():
        raise BenchError(f"nothing to audit: none of {len(records)} requests was decided by a limiter")
    times_ms = [record.time_ms for record in records if record.time_ms is not None]
    report.span_ms = max(times_ms, default=0) - min(times_ms, default=0)
    if report.undecided:
        report.findings.counts["success without a decision"] += report.undecided
    return report


def _judge(timeline: KeyTimeline, report: AuditReport, held_until_us: int) -> None:
    findings, window_ms = report.findings, report.window_ms
    fullest = check_windows(timeline.key, timeline.admitted, findings, window_ms)
    _merge(report.worst, fullest)
    if timeline.degraded_admitted:
        everything = sorted(timeline.admitted + timeline.degraded_admitted, key=lambda a: a.time_ms)
        _merge(report.worst_with_degraded, check_windows(timeline.key, everything, None, window_ms))
    bounds = UsageBounds(timeline, window_ms)
    report.rejections_held += check_decisions(timeline, bounds, findings, held_until_us)
    check_responses(timeline, findings)
    check_retries(timeline, bounds, findings, is_complete=not report.missing)
    report.keys += 1
    report.windows += fullest.windows
    report.admitted += len(timeline.admitted)
    report.rejected += len(timeline.rejected)
    report.failed += timeline.failed
    report.unknown += timeline.unknown
    report.overruns.add(timeline.overruns)
    report.undecided += timeline.undecided
    report.degraded += timeline.degraded


def _merge(worst: dict[str, WorstFill], fullest: Fullest) -> None:
    for dimension, fill in zip(DIMENSIONS, fullest.worst, strict=True):
        if fill is not None and (dimension not in worst or fill.ratio > worst[dimension].ratio):
            worst[dimension] = fill


def _held_until_us(records: list[Record], complete: Completeness, timeout_s: float) -> int:
    """Return until when decisions can be held against all requests that may have been admitted before them.

    Requests missing from the end of a killed run were done after all others, so sent at most a timeout before. If other
    requests are missing, no decision can be held against them all.
    """
    if complete:
        return NEVER_US
    if not complete.only_the_end_is_missing:
        return NOTHING_HELD_US
    last_done_us = max((record.done_us for record in records), default=0)
    return last_done_us - int(timeout_s * 1e6) - CUT_OFF_SLACK_US


@contextmanager
def _no_cyclic_gc() -> Iterator[None]:
    """Switch the garbage collector off: it would walk millions of tuples over and over, and no cycle is among them."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
