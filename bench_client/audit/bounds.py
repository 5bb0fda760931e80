"""How much of a window's limits could, and how much must, have been in use when the store decided something.

Upper bound at store time ``t``: all admissions since ``t`` less the window's length in buckets and one more, output at
its reservation until its settle has surely been applied (without an answer, the input as well); overruns; the usage
before the run (``carry_in``); and the most that requests with unknown outcomes may have counted.
Lower bound: admissions strictly within the window's length and before ``t``, at their actual usage; overruns only once
their settle has surely been applied.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from itertools import accumulate

from bench_client.audit.carry_in import EmptyBefore, carried_in
from bench_client.audit.outcomes import Possible
from bench_client.audit.units import REQUESTS, UNBOUNDED
from bench_client.audit.window_timeline import WindowTimeline
from bench_client.records.record import Record

SETTLE_GRACE_US = 1_000_000
"""A settle is surely applied when the admitted response was done this long before the other request was sent."""


class UsageBounds:
    """Hold the bounds of one window, by place of its limits.

    Ask in order of the requests' ``sent_us``, because settles are played forward.
    """

    def __init__(self, timeline: WindowTimeline, empty: EmptyBefore | None = None) -> None:
        """``empty``: the windows known to have been empty before the run; this one may be added."""
        admitted, window = timeline.admitted, timeline.window
        self.per_ms, self._life_ms = window.per_ms, window.life_ms
        units = [limit.unit for limit in window.limits]
        self._times = [a.time_ms for a in admitted]
        self._least = [_prefix_sums([a.least[unit] for a in admitted]) for unit in units]
        self._most = [_prefix_sums([a.most[unit] for a in admitted]) for unit in units]
        tokens = [(place, unit) for place, unit in enumerate(units) if unit != REQUESTS]
        self._given_back = {place: FenwickTree(len(admitted)) for place, _ in tokens}
        self._overrun = {place: FenwickTree(len(admitted)) for place, _ in tokens}
        self._by_done = sorted(
            (a.done_us, index, place, a.most[unit] - a.settled_most[unit], over)
            for index, a in enumerate(admitted)
            for place, unit in tokens
            if (over := a.settled[unit] - a.least[unit]) or a.most[unit] != a.settled_most[unit]
        )
        self._has_overruns = any(overrun for *_, overrun in self._by_done)
        self._next_settle = 0
        self._possible = PossibleUsage(timeline.possible, units, window.life_ms)
        self._carried = carried_in(timeline, empty)
        self._carry_until_ms = max((each.until_ms for each in self._carried), default=0)

    def upper(self, record: Record, later_ms: int = 0) -> list[int]:
        """Return the most that can have been in use ``later_ms`` after ``record`` was decided.

        The need of ``record`` itself is included if it was admitted.
        """
        time_ms = record.time_ms
        assert time_ms is not None
        assert record.sent_us is not None
        self._play_settles(record.sent_us)
        first = bisect_left(self._times, time_ms - self._life_ms)
        last = bisect_right(self._times, time_ms + later_ms)
        used = [sums[last] - sums[first] for sums in self._most]
        for place, given_back in self._given_back.items():
            used[place] -= given_back.sum_until(last) - given_back.sum_until(first)
        if (extra := self._possible.most(record)) is not None:
            used = [a + b for a, b in zip(used, extra, strict=True)]
        if time_ms <= self._carry_until_ms:
            used = [
                a + (b.amount if time_ms >= b.known_from_ms else UNBOUNDED)
                for a, b in zip(used, self._carried, strict=True)
            ]
        return used

    def lower(self, record: Record) -> list[int]:
        """Return the least that must have been in use right before ``record`` was decided."""
        assert record.time_ms is not None
        used = self.lower_at(record.time_ms - self.per_ms, record.time_ms)
        if self._has_overruns:
            for place, overrun in self.overrun(record).items():
                used[place] += overrun
        return used

    def overrun(self, record: Record) -> dict[int, int]:
        """Return the tokens in ``lower`` that services reported beyond the admission, by place."""
        assert record.time_ms is not None
        assert record.sent_us is not None
        if not self._has_overruns:
            return {}
        self._play_settles(record.sent_us)
        first = bisect_right(self._times, record.time_ms - self.per_ms)
        last = max(bisect_left(self._times, record.time_ms), first)
        return {place: tree.sum_until(last) - tree.sum_until(first) for place, tree in self._overrun.items()}

    def lower_at(self, after_ms: int, before_ms: int) -> list[int]:
        """Return the certain usage of admissions strictly between the two times, without their overruns."""
        first, last = bisect_right(self._times, after_ms), bisect_left(self._times, before_ms)
        if first >= last:
            return [0] * len(self._least)
        return [sums[last] - sums[first] for sums in self._least]

    def _play_settles(self, sent_us: int) -> None:
        by_done, index = self._by_done, self._next_settle
        while index < len(by_done) and by_done[index][0] + SETTLE_GRACE_US < sent_us:
            _, nth, place, given_back, overrun = by_done[index]
            self._given_back[place].add(nth, given_back)
            self._overrun[place].add(nth, overrun)
            index += 1
        self._next_settle = index


class PossibleUsage:
    """Sum the most that unknown outcomes may have counted while a given request was under way, in O(log n) each."""

    def __init__(self, possible: Sequence[Possible], units: Sequence[int], life_ms: int) -> None:
        stays_us = life_ms * 1_000
        until_us = [p.until_us + stays_us if p.is_counted else p.until_us for p in possible]
        begun = sorted(possible, key=lambda p: p.from_us)
        order = sorted(range(len(possible)), key=until_us.__getitem__)
        self._from_us = [p.from_us for p in begun]
        self._until_us = [until_us[index] for index in order]
        self._begun = [_prefix_sums([p.most[unit] for p in begun]) for unit in units]
        self._ended = [_prefix_sums([possible[index].most[unit] for index in order]) for unit in units]

    def most(self, record: Record) -> list[int] | None:
        """Sum up requests sent before ``record`` was done that may have been in the window when it was sent."""
        if not self._from_us or record.sent_us is None:
            return None
        begun, ended = bisect_right(self._from_us, record.done_us), bisect_left(self._until_us, record.sent_us)
        return [b[begun] - e[ended] for b, e in zip(self._begun, self._ended, strict=True)]


class FenwickTree:
    """Hold numbers; a sum over a prefix and a change of one number take O(log n) each."""

    def __init__(self, size: int) -> None:
        self._tree = [0] * (size + 1)

    def add(self, index: int, amount: int) -> None:
        tree, index = self._tree, index + 1
        while index < len(tree):
            tree[index] += amount
            index += index & -index

    def sum_until(self, end: int) -> int:
        """Return the sum of the elements before ``end``."""
        tree, total = self._tree, 0
        while end:
            total += tree[end]
            end &= end - 1
        return total


def later_ms(record: Record) -> int:
    """Return how long after a request was sent its response came, in whole ms, rounded up."""
    return -(((record.sent_us or 0) - record.done_us) // 1_000)


def _prefix_sums(numbers: Sequence[int]) -> list[int]:
    return list(accumulate(numbers, initial=0))
