"""How much of a key's limits could, and how much must, have been in use when the store decided something.

Upper bound at store time ``t``: all admissions in ``[t - 60100, t]`` ms, output at its reservation until its settle has
surely been applied (without an answer, the input as well); overruns; the usage before the run; and the most that
requests with unknown outcomes may have counted.
Lower bound: admissions strictly within the last 60000 ms and before ``t``, at their actual usage; overruns only once
their settle has surely been applied.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from itertools import accumulate

from bench_client.audit.timeline import (
    INPUT,
    OUTPUT,
    TOLERANCE_MS,
    UNBOUNDED,
    WINDOW_MS,
    Admission,
    KeyTimeline,
    Possible,
    is_decided,
    limits_of,
    remaining_of,
)
from bench_client.records.record import Record

SETTLE_GRACE_US = 1_000_000
"""A settle is surely applied when the admitted response was done this long before the other request was sent."""


class UsageBounds:
    """Hold the bounds of one key. Ask in order of the requests' ``sent_us``, because settles are played forward."""

    def __init__(self, timeline: KeyTimeline, window_ms: int = WINDOW_MS) -> None:
        self.window_ms = window_ms
        admitted = timeline.admitted
        self._times = [a.time_ms for a in admitted]
        self._least = [_prefix_sums([a.least[d] for a in admitted]) for d in range(3)]
        self._most = [_prefix_sums([a.most[d] for a in admitted]) for d in range(3)]
        self._given_back = {dimension: FenwickTree(len(admitted)) for dimension in (INPUT, OUTPUT)}
        self._overrun = {dimension: FenwickTree(len(admitted)) for dimension in (INPUT, OUTPUT)}
        self._by_done = sorted(
            (a.done_us, index, dimension, a.most[dimension] - a.settled_most[dimension], over)
            for index, a in enumerate(admitted)
            for dimension in (INPUT, OUTPUT)
            if (over := a.settled[dimension] - a.least[dimension]) or a.most[dimension] != a.settled_most[dimension]
        )
        self._has_overruns = any(overrun for *_, overrun in self._by_done)
        self._next_settle = 0
        self._possible = PossibleUsage(timeline.possible)
        self._carry_in, self._carry_until_ms = carry_in(timeline, window_ms)

    def upper(self, record: Record, later_ms: int = 0) -> tuple[int, int, int]:
        """Return the most that can have been in use ``later_ms`` after ``record`` was decided.

        The need of ``record`` itself is included if it was admitted.
        """
        assert record.time_ms is not None
        assert record.sent_us is not None
        self._play_settles(record.sent_us)
        first = bisect_left(self._times, record.time_ms - self.window_ms - TOLERANCE_MS)
        last = bisect_right(self._times, record.time_ms + later_ms)
        used = [sums[last] - sums[first] for sums in self._most]
        for dimension, given_back in self._given_back.items():
            used[dimension] -= given_back.sum_until(last) - given_back.sum_until(first)
        for extra in (self._possible.most(record), self._carry_in if record.time_ms <= self._carry_until_ms else None):
            if extra is not None:
                used = [a + b for a, b in zip(used, extra, strict=True)]
        return used[0], used[1], used[2]

    def lower(self, record: Record) -> tuple[int, int, int]:
        """Return the least that must have been in use right before ``record`` was decided."""
        assert record.time_ms is not None
        requests, *tokens = self.lower_at(record.time_ms - self.window_ms, record.time_ms)
        inputs, outputs = (used + over for used, over in zip(tokens, self.overrun(record), strict=True))
        return requests, inputs, outputs

    def overrun(self, record: Record) -> tuple[int, int]:
        """Return the input and output in ``lower`` that services reported beyond the admission."""
        assert record.time_ms is not None
        assert record.sent_us is not None
        if not self._has_overruns:
            return 0, 0
        self._play_settles(record.sent_us)
        first = bisect_right(self._times, record.time_ms - self.window_ms)
        last = max(bisect_left(self._times, record.time_ms), first)
        inputs, outputs = (tree.sum_until(last) - tree.sum_until(first) for tree in self._overrun.values())
        return inputs, outputs

    def lower_at(self, after_ms: int, before_ms: int) -> tuple[int, int, int]:
        """Return the certain usage of admissions strictly between the two times, without their overruns."""
        first, last = bisect_right(self._times, after_ms), bisect_left(self._times, before_ms)
        if first >= last:
            return 0, 0, 0
        requests, inputs, outputs = (sums[last] - sums[first] for sums in self._least)
        return requests, inputs, outputs

    def _play_settles(self, sent_us: int) -> None:
        by_done, index = self._by_done, self._next_settle
        while index < len(by_done) and by_done[index][0] + SETTLE_GRACE_US < sent_us:
            _, place, dimension, given_back, overrun = by_done[index]
            self._given_back[dimension].add(place, given_back)
            self._overrun[dimension].add(place, overrun)
            index += 1
        self._next_settle = index


class PossibleUsage:
    """Sum the most that unknown outcomes may have counted while a given request was under way, in O(log n) each."""

    def __init__(self, possible: Sequence[Possible]) -> None:
        begun = sorted(possible, key=lambda p: p.from_us)
        ended = sorted(possible, key=lambda p: p.until_us)
        self._from_us = [p.from_us for p in begun]
        self._until_us = [p.until_us for p in ended]
        self._begun = [_prefix_sums([p.most[d] for p in begun]) for d in range(3)]
        self._ended = [_prefix_sums([p.most[d] for p in ended]) for d in range(3)]

    def most(self, record: Record) -> tuple[int, int, int] | None:
        """Sum up requests sent before ``record`` was done that may have been in the window when it was sent."""
        if not self._from_us or record.sent_us is None:
            return None
        begun, ended = bisect_right(self._from_us, record.done_us), bisect_left(self._until_us, record.sent_us)
        requests, inputs, outputs = (b[begun] - e[ended] for b, e in zip(self._begun, self._ended, strict=True))
        return requests, inputs, outputs


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


def carry_in(timeline: KeyTimeline, window_ms: int) -> tuple[tuple[int, int, int], int]:
    """Return the usage before the run, from the first decision's figures, and until when it may count (store ms).

    If several decisions share the first millisecond, the largest figure is taken. Decisions without figures are passed
    over; their usage is then in the first figures, and counted twice.
    """
    admitted, rejected = [a for a in timeline.admitted if is_decided(a.record)], timeline.rejected
    times = [a.time_ms for a in admitted[:1]] + [r.time_ms or 0 for r in rejected[:1]]
    if not times:
        return (0, 0, 0), 0
    first_ms = min(times)
    carried = [0, 0, 0]
    for admission in admitted:
        if admission.time_ms > first_ms:
            break
        _carry(carried, admission.record, _own_need(admission))
    for record in rejected:
        if record.time_ms != first_ms:
            break
        _carry(carried, record, (0, 0, 0))
    return (carried[0], carried[1], carried[2]), first_ms + window_ms + TOLERANCE_MS


def _carry(carried: list[int], record: Record, own: tuple[int, int, int]) -> None:
    limits, remaining = limits_of(record), remaining_of(record)
    for dimension in range(3):
        used = limits[dimension] - remaining[dimension] - own[dimension]
        if remaining[dimension] <= 0 and not any(own):
            used = UNBOUNDED  # after a limit was lowered, "none left" may mean that more than the limit is in use
        carried[dimension] = max(carried[dimension], used)


def _own_need(admission: Admission) -> tuple[int, int, int]:
    record = admission.record
    return 1, record.prompt_tokens or 0, record.reserved_output or 0


def _prefix_sums(numbers: Sequence[int]) -> list[int]:
    return list(accumulate(numbers, initial=0))
