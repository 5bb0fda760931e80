"""How full a key's window was at each moment, against its limit: the picture of exactness.

Counts as the audit does (half-open windows of 60 s of the store's clock, output at what was produced, requests that
failed at the upstream without their tokens), by code of its own: the two must agree. Memory is O(admissions of the keys
shown).
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from bench_client.audit.report import share_used
from bench_client.audit.timeline import DIMENSIONS, WINDOW_MS, is_decided, limits_of
from bench_client.records.record import Record, failed_upstream
from bench_client.report.collect import KeyUse

SHOWN_KEYS = 4
LEVELS = 240
"""Moments that a line is drawn through."""
UNKNOWN_LIMITS = (-1, -1, -1)
"""Stands for limits that aren't known: the ones in force before go on."""


class Shown(NamedTuple):
    """Name a key and one of its limits."""

    key: str
    dimension: str


@dataclass(frozen=True, slots=True)
class KeyWindow:
    """Hold the window of one key in one dimension over a run. Times are in seconds from the end of the warm-up."""

    key: str
    dimension: str
    edges_s: list[float]
    """Equal spans of time, one more than levels."""
    highest: list[int]
    """The most and the least that any 60 s ending within the span held."""
    lowest: list[int]
    limit: list[int]
    """In force at the last admission up to the span's end."""
    worst_used: int
    """The fullest window of the run, relative to its limit."""
    worst_limit: int
    worst_time_ms: int
    """Store clock, of the newest admission in it."""
    rejected: list[int]
    """Requests of the key that this limit rejected, per span."""


def choose_keys(keys: dict[str, KeyUse], fullest: dict[str, str]) -> list[Shown]:
    """Return the windows to show: the fullest ones, then those of the busiest keys by the limit that bound them.

    ``fullest`` names, by dimension, the key with the audit's fullest window. Dimensions that rejected nothing are
    passed over, unless none did.
    """
    bound = {d for use in keys.values() for d in use.rejected} & set(DIMENSIONS) or set(DIMENSIONS)
    shown = [Shown(fullest[d], d) for d in DIMENSIONS if d in bound and d in fullest]
    for key, use in sorted(keys.items(), key=lambda item: (-item[1].requests, item[0])):
        if len(shown) >= SHOWN_KEYS:
            break
        if any(use.used) and all(each.key != key for each in shown):
            shown.append(Shown(key, _binding(use)))
    return shown


def window_series(
    records: Iterable[Record], shown: Sequence[Shown], *, clock_ms: int, until_s: float
) -> list[KeyWindow]:
    """Return the windows of ``shown``, from the first admission until ``until_s`` after the clock's origin.

    ``clock_ms`` is the store's clock at the end of the warm-up.
    """
    admitted: dict[str, list[_Admitted]] = {each.key: [] for each in shown}
    rejected: dict[Shown, array[int]] = {each: array("q") for each in shown}
    for record in records:
        if record.key not in admitted or record.degraded is not None or record.sent_us is None:
            continue
        if record.time_ms is None:
            continue
        if failed_upstream(record):
            limits = limits_of(record) if is_decided(record) else UNKNOWN_LIMITS
            admitted[record.key].append((record.time_ms, (1, 0, 0), limits))
        elif not is_decided(record):
            continue
        elif record.status == 200:
            amounts = (1, record.prompt_tokens or 0, record.completion_tokens or 0)
            admitted[record.key].append((record.time_ms, amounts, limits_of(record)))
        elif record.status == 429 and record.exceeded is not None:
            times = rejected.get(Shown(record.key, record.exceeded))
            if times is not None:
                times.append(record.time_ms)
    rows = [row for each in admitted.values() for row in each]
    if not rows:
        return []
    spans = _Spans.between(min(rows)[0], max(clock_ms + int(until_s * 1_000), max(rows)[0] + 1), clock_ms)
    return [
        _levels(each, sorted(admitted[each.key]), spans, spans.counts(rejected[each]))
        for each in shown
        if admitted[each.key]
    ]


_Admitted = tuple[int, tuple[int, int, int], tuple[int, int, int]]
"""Store time in ms, what it counted, the limits then."""


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


def _levels(shown: Shown, rows: Sequence[_Admitted], spans: _Spans, rejected: list[int]) -> KeyWindow:
    """Play in order of time how admissions enter and leave the window; those of one instant happen at once.

    An admission at ``t`` is in every window that ends in ``[t, t + 60000)``.
    """
    place = DIMENSIONS.index(shown.dimension)
    times = array("q", (row[0] for row in rows))
    amounts = array("q", (row[1][place] for row in rows))
    limits = array("q", (row[2][place] for row in rows))
    known = next((each for each in limits if each >= 0), 0)
    highest, lowest, limit = [0] * spans.number, [0] * spans.number, [known] * spans.number
    used, worst, current = 0, (0, 0, 0), 0

    def go_to(span: int) -> None:
        """Pass spans in which nothing happens: they stay at the level and limit of now."""
        for passed in range(current + 1, span + 1):
            highest[passed] = lowest[passed] = used
            limit[passed] = limit[current]

    first = new = 0
    while first < len(times):
        leaves_ms = times[first] + WINDOW_MS
        now_ms = min(leaves_ms, times[new]) if new < len(times) else leaves_ms
        if now_ms >= spans.until_ms:
            break
        span = spans.at(now_ms)
        go_to(span)
        current = span
        while first < new and times[first] + WINDOW_MS <= now_ms:
            used -= amounts[first]
            first += 1
        announced = -1
        first_of_now = new
        while new < len(times) and times[new] == now_ms:
            used += amounts[new]
            announced = max(announced, limits[new])
            new += 1
        if new > first_of_now:
            known = announced if announced >= 0 else known
            limit[span] = known
            if share_used(used, known) > share_used(worst[0], worst[1]):
                worst = (used, known, now_ms)
        highest[span], lowest[span] = max(highest[span], used), min(lowest[span], used)
    go_to(spans.number - 1)
    return KeyWindow(shown.key, shown.dimension, spans.edges_s, highest, lowest, limit, *worst, rejected)


def _binding(use: KeyUse) -> str:
    """Return the limit that rejected most; if none did, the one of which most was used."""
    place = max(range(3), key=lambda d: (use.rejected[DIMENSIONS[d]], share_used(use.used[d], use.limits[d])))
    return DIMENSIONS[place]
