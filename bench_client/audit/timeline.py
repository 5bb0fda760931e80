"""Sorts records by key and path into admissions, rejections and possible usage."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from bench_client.audit.announced import Announcements, Told, UndeclaredError
from bench_client.audit.outcomes import (
    Admission,
    Possible,
    Rejection,
    admission,
    failed_admission,
    is_decided,
    is_refused,
    possible_admission,
    possible_rejection,
    rejection,
)
from bench_client.audit.paths import WINDOW_MS, Paths, RequestPath
from bench_client.audit.units import DIMENSIONS, INPUT, NEVER, OUTPUT, UNBOUNDED, UNITS
from bench_client.load.declared_limits import DeclaredTree
from bench_client.records.record import Record, failed_upstream


@dataclass(slots=True)
class Timeline:
    """Hold everything recorded of one key's requests on one path, in order of the store's clock."""

    key: str
    path: RequestPath
    admitted: list[Admission] = field(default_factory=list)
    rejected: list[Rejection] = field(default_factory=list)
    possible: list[Possible] = field(default_factory=list)
    unknown: int = 0
    """Requests with an unknown outcome: timed out, broken off, or answered without a decision."""
    undecided: int = 0
    """Number of those that are successes without the time of their decision."""
    failed: int = 0
    """Admitted requests without an answer from the service behind the limiter."""
    overruns: list[tuple[int, int]] = field(default_factory=list)
    """Input and output that the service reported beyond admission and reservation, per request with an overrun."""
    degraded: Counter[str] = field(default_factory=Counter)
    """Decisions made without the store, as "policy status"."""
    degraded_admitted: list[Admission] = field(default_factory=list)
    wrongly_named: list[tuple[Record, str]] = field(default_factory=list)
    """Rejections that name a limit that can't have rejected, and why it can't."""


@dataclass(slots=True)
class Timelines:
    """Hold the timelines of all paths, and what can't be judged."""

    paths: list[Timeline] = field(default_factory=list)
    undeclared: dict[str, str] = field(default_factory=dict)
    """Keys whose responses announce other limits than the keys file declares, each with the first such difference."""
    announcements: Announcements = field(default_factory=Announcements)


def build_timelines(
    records: Iterable[Record], window_ms: int = WINDOW_MS, tree: DeclaredTree | None = None, model: str | None = None
) -> Timelines:
    """Return one timeline per path that was used. Those of undeclared keys are left out.

    ``model``: that of requests whose records name none.
    """
    return _Builder(Paths(tree or DeclaredTree(), model, window_ms)).build(records)


class _Builder:
    """Build the timelines of one run."""

    def __init__(self, paths: Paths) -> None:
        self._paths = paths
        self._found = Timelines()
        self._timelines: dict[RequestPath, Timeline] = {}
        self._unknown: dict[RequestPath, list[Record]] = {}
        self._default_reserve: dict[str, int] = {}

    def build(self, records: Iterable[Record]) -> Timelines:
        path_of, timelines, default_reserve = self._paths.of, self._timelines, self._default_reserve
        for record in records:
            path = path_of(record)
            timeline = timelines.get(path)
            if timeline is None:
                timeline = timelines[path] = Timeline(record.key, path)
            if record.max_tokens is None and record.reserved_output is not None:
                default_reserve[record.key] = max(default_reserve.get(record.key, 0), record.reserved_output)
            try:
                is_known = self._file_record(record, timeline)
            except UndeclaredError as error:
                self._found.undeclared.setdefault(record.key, str(error))
                continue
            if not is_known:
                self._unknown.setdefault(path, []).append(record)
        for path, lost in self._unknown.items():
            timeline, reserve = timelines[path], default_reserve.get(path.key, UNBOUNDED)
            timeline.unknown = len(lost)
            timeline.possible += (possible_admission(record, reserve) for record in lost)
        for timeline in timelines.values():
            if timeline.key in self._found.undeclared:
                continue
            timeline.overruns = overruns_of(timeline.admitted)
            timeline.admitted.sort(key=_admission_time)
            timeline.rejected.sort(key=_rejection_time)
            self._found.paths.append(timeline)
        return self._found

    def _file_record(self, record: Record, timeline: Timeline) -> bool:
        """File the record; return False if its outcome is unknown. Raises UndeclaredError."""
        if record.sent_us is None:
            return True
        status, failed, path = record.status, failed_upstream(record), timeline.path
        if record.degraded is not None and (status in (200, 429) or failed):
            self._file_degraded(record, timeline)
            return True
        if record.time_ms is None:
            if status == 200 and record.error is None:
                timeline.undecided += 1
            return is_refused(record)
        if failed:
            timeline.admitted.append(failed_admission(record, path, self._told_of_failed(record, path)))
            timeline.failed += 1
            return True
        if status in (200, 429):
            told = self._found.announcements.read(path, record)
            if told is not None or not path.is_plain:
                if status == 200:
                    timeline.admitted.append(admission(record, path, told))
                    return True
                if record.exceeded in (DIMENSIONS if path.is_plain else UNITS):
                    self._file_rejection(record, timeline, told)
                    return True
        if status == 200 and record.error is None:
            timeline.undecided += 1
        return False

    def _file_degraded(self, record: Record, timeline: Timeline) -> None:
        """File a decision made without the store."""
        assert record.sent_us is not None
        path, failed = timeline.path, failed_upstream(record)
        timeline.degraded[f"{record.degraded} {'failed' if failed else record.status}"] += 1
        if record.status != 200 and not failed:
            timeline.possible.append(possible_rejection(record))
            return
        told = self._found.announcements.read(path, record) if path.is_plain and is_decided(record) else None
        made = failed_admission(record, path, told) if failed else admission(record, path, told)
        if told is not None or (failed and record.time_ms is not None):
            timeline.degraded_admitted.append(made)
        # Charged to the window when the store is back, at a time that no response shows.
        timeline.possible.append(Possible(record.sent_us, NEVER, made.most))

    def _file_rejection(self, record: Record, timeline: Timeline, told: Told | None) -> None:
        path = timeline.path
        unit = UNITS.index(record.exceeded or "")
        if path.is_plain:
            timeline.rejected.append(rejection(record, path, told, (unit,)))
            return
        named = tuple(
            ordinal
            for ordinal, limit in enumerate(path.limits)
            if limit.limit.unit == unit and limit.limit.enforces and limit.named_as == record.limit
        )
        if not named:
            timeline.wrongly_named.append((record, self._problem_of_name(record, path)))
        timeline.rejected.append(rejection(record, path, told, named))

    def _problem_of_name(self, record: Record, path: RequestPath) -> str:
        """Return why the limit that a rejection names can't have rejected it. Raises UndeclaredError."""
        if record.limit is None:
            return "a rejection without x-limiter-limit"
        if record.limit not in self._paths.names(record.key):
            raise UndeclaredError(f"whose requests {record.limit} rejects, which the keys file doesn't declare")
        if any(limit.named_as == record.limit and not limit.limit.enforces for limit in path.limits):
            return f"rejected by {record.limit}, which is only audited"
        return f"rejected by {record.limit}, which it is not subject to for {record.exceeded}"

    def _told_of_failed(self, record: Record, path: RequestPath) -> Told | None:
        """Return what the response to a failed request announces: its limits, or nothing."""
        if record.status == 429 or (path.is_plain and record.has_other_limits):
            return None
        try:
            return self._found.announcements.read(path, record)
        except UndeclaredError:
            return None


def overruns_of(admitted: Iterable[Admission]) -> list[tuple[int, int]]:
    """Return input and output of each overrun."""
    overruns = []
    for each in admitted:
        settled, least = each.settled, each.least
        if settled != least and (settled[INPUT] > least[INPUT] or settled[OUTPUT] > least[OUTPUT]):
            overruns.append((settled[INPUT] - least[INPUT], settled[OUTPUT] - least[OUTPUT]))
    return overruns


def _admission_time(each: Admission) -> int:
    return each.time_ms


def _rejection_time(each: Rejection) -> int:
    return each.time_ms
