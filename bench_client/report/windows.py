"""How full a window was at each moment, against one of its limits: the picture of exactness.

Counts as the audit does (half-open windows of the store's clock, output up to its reservation, requests that failed at
the upstream without their tokens), by code of its own: the two must agree. Memory is O(admissions below the limits
shown).
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from bench_client.audit.windows import share_used
from bench_client.records.record import Record
from bench_client.report.shown_limits import UNKNOWN, ShownLimit

LEVELS = 240
"""Moments that a line is drawn through."""


@dataclass(frozen=True, slots=True)
class WindowSeries:
    """Hold the window of one limit over a run. Times are in seconds from the end of the warm-up."""

    shown: ShownLimit
    edges_s: list[float]
    """Equal spans of time, one more than levels."""
    highest: list[int]
    """The most and the least that any window ending within the span held."""
    lowest: list[int]
    limit: list[int]
    """In force at the last admission up to the span's end."""
    worst_used: int
    """The fullest window of the run, relative to its limit."""
    worst_limit: int
    worst_time_ms: int
    """Store clock, of the newest admission in it."""
    rejected: list[int]
    """Requests that this limit rejected, per span."""


def window_series(
    records: Iterable[Record], shown: Sequence[ShownLimit], *, clock_ms: int, until_s: float
) -> list[WindowSeries]:
    """Return the windows of ``shown``, from the first admission until ``until_s`` after the clock's origin.

    ``clock_ms`` is the store's clock at the end of the warm-up.
    """
    entries = [_Entries(each) for each in shown]
    by_key: dict[str, list[_Entries]] = {}
    for each in entries:
        for key in each.shown.keys:
            by_key.setdefault(key, []).append(each)
    for record in records:
        if record.degraded is not None or record.sent_us is None or record.time_ms is None:
            continue
        for each in by_key.get(record.key, ()):
            each.add(record, record.time_ms)
    used = [each for each in entries if each.times_ms]
    if not used:
        return []
    first_ms, last_ms = min(min(each.times_ms) for each in used), max(max(each.times_ms) for each in used)
    spans = _Spans.between(first_ms, max(clock_ms + int(until_s * 1_000), last_ms + 1), clock_ms)
    return [_levels(each, spans) for each in used]


@dataclass(slots=True)
class _Entries:
    """Hold the admissions that count in one window, and the rejections by its limit."""

    shown: ShownLimit
    times_ms: array[int] = field(default_factory=lambda: array("q"))
    amounts: array[int] = field(default_factory=lambda: array("q"))
    limits: array[int] = field(default_factory=lambda: array("q"))
    rejected_ms: array[int] = field(default_factory=lambda: array("q"))

    def add(self, record: Record, time_ms: int) -> None:
        counted = self.shown.counted(record)
        if counted is not None:
            self.times_ms.append(time_ms)
            self.amounts.append(counted.amount)
            self.limits.append(counted.limit)
        elif self.shown.rejected(record):
            self.rejected_ms.append(time_ms)

    def in_order_of_time(self) -> tuple[array[int], array[int], array[int]]:
        order = sorted(range(len(self.times_ms)), key=self.times_ms.__getitem__)
        times_ms, amounts, limits = (
            array("q", map(column.__getitem__, order)) for column in (self.times_ms, self.amounts, self.limits)
        )
        return times_ms, amounts, limits


class _Spans(NamedTuple):
    """Hold equal spans of the store's time, in ms."""

    from_ms: int
    until_ms: int
    number: int
    edges_s: list[float]

    @classmethod
    def between(cls, from_ms: int, until_ms: int, clock_ms: int) -> _Spans:
        count = min(LEVELS, until_ms - from_ms)
        edges_ms = (from_ms + i * (until_ms - from_ms) / count for i in range(count + 1))
        return cls(from_ms, until_ms, count, [(edge_ms - clock_ms) / 1_000 for edge_ms in edges_ms])

    def at(self, time_ms: int) -> int:
        place = (time_ms - self.from_ms) * self.number // (self.until_ms - self.from_ms)
        return min(max(place, 0), self.number - 1)

    def counts(self, times_ms: Iterable[int]) -> list[int]:
        counted = Counter(self.at(time_ms) for time_ms in times_ms)
        return [counted[place] for place in range(self.number)]


def _levels(entries: _Entries, spans: _Spans) -> WindowSeries:
    """Play in order of time how admissions enter and leave the window; those of one instant happen at once.

    An admission at ``t`` is in every window that ends in ``[t, t + per_ms)``.
    """
    per_ms = entries.shown.per_ms
    times, amounts, limits = entries.in_order_of_time()
    known = next((each for each in limits if each != UNKNOWN), entries.shown.declared)
    highest, lowest, limit = [0] * spans.number, [0] * spans.number, [known] * spans.number
    used, worst, current = 0, (0, 0, 0), 0

    def go_to(span: int) -> None:
        """Pass spans in which nothing happens: they stay at the level and limit of now."""
        for passed in range(current + 1, span + 1):
            highest[passed] = lowest[passed] = used
            limit[passed] = limit[current]

    first = new = 0
    while first < len(times):
        leaves_ms = times[first] + per_ms
        now_ms = min(leaves_ms, times[new]) if new < len(times) else leaves_ms
        if now_ms >= spans.until_ms:
            break
        span = spans.at(now_ms)
        go_to(span)
        current = span
        while first < new and times[first] + per_ms <= now_ms:
            used -= amounts[first]
            first += 1
        announced, added = UNKNOWN, 0
        first_of_now = new
        while new < len(times) and times[new] == now_ms:
            added += amounts[new]
            announced = max(announced, limits[new])
            new += 1
        used += added
        if new > first_of_now:
            known = announced if announced != UNKNOWN else known
            limit[span] = known
            # What needs nothing of a limit fits it always, also where a lowered one is exceeded.
            if (added or used <= known) and share_used(used, known) > share_used(worst[0], worst[1]):
                worst = (used, known, now_ms)
        highest[span], lowest[span] = max(highest[span], used), min(lowest[span], used)
    go_to(spans.number - 1)
    return WindowSeries(entries.shown, spans.edges_s, highest, lowest, limit, *worst, spans.counts(entries.rejected_ms))
