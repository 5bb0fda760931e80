"""Runs all checks over the records of a run and writes ``audit.json``."""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from bench_client.audit.bounds import UsageBounds
from bench_client.audit.carry_in import EmptyBefore
from bench_client.audit.completeness import Completeness, read_once
from bench_client.audit.decisions import check_decisions
from bench_client.audit.findings import NO_DECISION, Findings
from bench_client.audit.limit_use import uses_of
from bench_client.audit.outcomes import Possible, is_refused, possible_admission
from bench_client.audit.paths import WINDOW_MS, Window
from bench_client.audit.report import OTHER_LIMITS, AuditReport, NotJudged, WorstFill
from bench_client.audit.responses import check_responses
from bench_client.audit.retries import check_retries
from bench_client.audit.timeline import Timeline, build_timelines
from bench_client.audit.units import DIMENSIONS, NEVER, UNBOUNDED
from bench_client.audit.window_timeline import WindowTimeline, window_timeline
from bench_client.audit.windows import Fullest, check_windows
from bench_client.errors import BenchError
from bench_client.records.record import Record
from bench_client.records.run_directory import RunInfo, open_records, read_info, write_json

AUDIT_NAME = "audit.json"
CUT_OFF_SLACK_US = 1_000_000
NOTHING_HELD_US = -NEVER
COMPLETE = Completeness()


def audit_directory(
    directory: Path, window_ms: int = WINDOW_MS, *, warn: Callable[[str], None] = lambda _: None
) -> AuditReport:
    """Audit the run in ``directory``. ``window_ms``: the length of plain keys' windows in the limiter.

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

    Keys are judged by the limits that ``info`` declares for them, or as plain keys. Where their responses announce
    other limits, they are not judged: their requests may then count in windows that nobody knows. O(n log n) per
    window, and one window is judged at a time. Raises BenchError when no request was decided.
    """
    records = list(records)
    audit = _Audit(info, complete, window_ms)
    audit.judge(records)
    report = audit.report
    if not report.not_judged and not report.admitted + report.rejected + report.degraded.total():
        raise BenchError(f"nothing to audit: none of {len(records)} requests was decided by a limiter")
    if report.undecided:
        report.findings.counts[NO_DECISION] += report.undecided
    return report


class _Audit:
    """Judge one run."""

    def __init__(self, info: RunInfo, complete: Completeness, window_ms: int) -> None:
        self._info, self._complete = info, complete
        self.report = AuditReport(Findings(), info.key_names, {}, {}, missing=complete.reasons, window_ms=window_ms)
        self.report.unknown_limits = info.tree.unknown
        self._held_until_us = NEVER
        self._empty = EmptyBefore()

    def judge(self, records: Sequence[Record]) -> None:
        """Judge all paths, and then all windows on them."""
        report, tree = self.report, self._info.tree
        strange = {each.key for each in records if each.has_other_limits and each.key not in tree.keys}
        judged = [each for each in records if each.key not in strange] if strange else records
        model = self._info.settings.get("model")
        found = build_timelines(judged, report.window_ms, tree, model if isinstance(model, str) else None)
        why = {**dict.fromkeys(strange, OTHER_LIMITS), **found.undeclared}
        strangers = self._leave_out(records, why) if why else []
        self._held_until_us = _held_until_us(records, self._complete, float(self._info.settings.get("timeout_s", 0)))
        times_ms = [each.time_ms for each in records if each.time_ms is not None and each.key not in why]
        report.span_ms = max(times_ms, default=0) - min(times_ms, default=0)
        report.changed_limits = len(found.announcements.changed)
        windows: dict[Window, list[Timeline]] = {}
        for timeline in found.paths:
            self._count(timeline)
            check_responses(timeline, report.findings)
            for window in timeline.path.ordinals:
                windows.setdefault(window, []).append(timeline)
        keys = {timeline.key: timeline.path.is_plain for timeline in found.paths}
        report.keys, report.plain_keys = len(keys), sum(keys.values())
        # Those that contain others come first: if they were empty before the run, the others were, too.
        for window in sorted(windows, key=lambda each: (-each.per_ms, len(each.scope), len(each.models))):
            self._judge_window(window_timeline(window, windows.pop(window), () if window.is_own else strangers))
        report.limits.sort(key=lambda each: -each.ratio)

    def _leave_out(self, records: Sequence[Record], why: dict[str, str]) -> list[Possible]:
        """Note the keys that aren't judged, by reason; return what they may have counted in windows of others."""
        requests = Counter(each.key for each in records if each.key in why)
        for reason in dict.fromkeys(why.values()):
            keys = [key for key, each in why.items() if each == reason]
            self.report.not_judged.append(NotJudged(len(keys), sum(requests[key] for key in keys), reason))
        sent = (each for each in records if each.key in why and each.sent_us is not None and not is_refused(each))
        return [possible_admission(each, UNBOUNDED) for each in sent]

    def _count(self, timeline: Timeline) -> None:
        report = self.report
        report.admitted += len(timeline.admitted)
        report.rejected += len(timeline.rejected)
        report.rejections_held += sum(each.record.done_us <= self._held_until_us for each in timeline.rejected)
        report.failed += timeline.failed
        report.unknown += timeline.unknown
        report.overruns.add(timeline.overruns)
        report.undecided += timeline.undecided
        report.degraded += timeline.degraded
        if timeline.degraded_admitted and timeline.path.is_plain:
            (window,) = timeline.path.ordinals
            admitted = sorted(timeline.admitted + timeline.degraded_admitted, key=lambda each: each.time_ms)
            limits = [each.told.listed.amounts if each.told else (None, None, None) for each in admitted]
            _merge(report.worst_with_degraded, timeline.key, check_windows(window, admitted, limits, None))

    def _judge_window(self, timeline: WindowTimeline) -> None:
        report, findings, window = self.report, self.report.findings, timeline.window
        fullest = check_windows(window, timeline.admitted, timeline.limits, findings)
        bounds = UsageBounds(timeline, self._empty)
        would_have_rejected = check_decisions(timeline, bounds, findings, self._held_until_us)
        check_retries(timeline, bounds, findings, is_complete=not report.missing)
        report.windows += fullest.windows
        if window.subject:
            report.limits += uses_of(timeline, fullest, would_have_rejected, report.span_ms)
        else:
            _merge(report.worst, window.key, fullest)


def _merge(worst: dict[str, WorstFill], key: str, fullest: Fullest) -> None:
    for unit, fill in zip(DIMENSIONS, fullest.worst, strict=True):
        if fill is not None and (unit not in worst or fill.ratio > worst[unit].ratio):
            worst[unit] = WorstFill(fill.used, fill.limit, key, fill.time_ms)


def _held_until_us(records: Sequence[Record], complete: Completeness, timeout_s: float) -> int:
    """Return until when decisions can be held against all requests that may have been admitted before them.

    Requests missing from the end of a killed run were done after all others, so sent at most a timeout before. If other
    requests are missing, no decision can be held against them all.
    """
    if complete:
        return NEVER
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
