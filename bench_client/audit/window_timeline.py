"""Puts together all that happened in one window: from one plain key, or from all paths that lead through it."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from bench_client.audit.announced import Listed, Told
from bench_client.audit.outcomes import Admission, Possible, Rejection
from bench_client.audit.paths import RequestPath, Window
from bench_client.audit.timeline import Timeline
from bench_client.audit.units import INPUT, NEVER, NOTHING, OUTPUT, UNBOUNDED, Amounts, Needs, amounts
from bench_client.records.record import Record

Figures = tuple[int | None, ...]
"""A figure of each limit on a window, by place; None where a response doesn't tell it."""


class Decision(NamedTuple):
    """Describe a decision as this window's limits see it, with what its response announces of them."""

    time_ms: int
    record: Record
    path: RequestPath
    counted: Amounts
    """The least that the request counts: nothing if it was rejected, by whatever limit."""
    rejection: Rejection | None
    named: tuple[int, ...]
    """Places of this window's limits that may be the one that rejected."""
    limits: Figures
    remaining: Figures
    """The amounts left; of limits that can't be told apart, the most that is left of one of them."""
    remaining_least: Figures

    @property
    def is_sure(self) -> bool:
        """Return whether the response to a rejected request names one limit only."""
        return self.rejection is not None and len(self.rejection.named) == 1

    @property
    def needs(self) -> Needs:
        """Return what the request needed; None where nobody said."""
        if self.rejection is not None:
            return self.rejection.needs
        inputs, output = self.record.prompt_tokens, self.record.reserved_output
        return 1, inputs, output, None if inputs is None or output is None else inputs + output


class _View(NamedTuple):
    """Hold where a list of limits has those of this window."""

    limits: Figures
    positions: tuple[tuple[int, ...], ...]
    is_whole: bool
    """Whether the list is of this window's limits, in their order."""
    is_certain: bool
    """Whether each limit has one position at most."""


@dataclass(slots=True)
class WindowTimeline:
    """Hold what happened in one window, in order of the store's clock."""

    window: Window
    admitted: list[Admission] = field(default_factory=list)
    limits: list[Figures] = field(default_factory=list)
    """In force at each admission, by place. Where its response announces none, the larger of those announced before and
    after; if none was announced, the declared one; None if that isn't known either."""
    decisions: list[Decision] = field(default_factory=list)
    """Admissions first, then rejections by whatever limit."""
    possible: list[Possible] = field(default_factory=list)
    least_limits: list[int | None] = field(default_factory=list)
    most_limits: list[int | None] = field(default_factory=list)
    """The smallest and the largest amount announced of each limit, else the declared one."""
    has_overruns: bool = False
    is_degraded: bool = False
    """Whether some decisions were made without the store."""
    has_unknown: bool = False
    has_failed: bool = False

    @property
    def rejections(self) -> list[Decision]:
        return self.decisions[len(self.admitted) :]


def window_timeline(window: Window, parts: Sequence[Timeline], strangers: Sequence[Possible] = ()) -> WindowTimeline:
    """Return what happened in a window, from the timelines of all paths through it.

    ``strangers``: what keys that aren't judged may have counted here.
    """
    timeline = WindowTimeline(window)
    reader = _Reader(window)
    admitted = parts[0].admitted if len(parts) == 1 else sorted(_admissions(parts), key=_time_of)
    timeline.admitted = admitted
    limits, decisions = timeline.limits, timeline.decisions
    for each in admitted:
        view, remaining, least = reader.read(each.path, each.told)
        limits.append(view)
        decisions.append(Decision(each.time_ms, each.record, each.path, each.least, None, (), view, remaining, least))
    rejected = parts[0].rejected if len(parts) == 1 else sorted(_rejections(parts), key=_time_of)
    for rejection in rejected:
        named = rejection.path.places(window, rejection.named)
        figures = reader.read(rejection.path, rejection.told)
        decisions.append(
            Decision(rejection.time_ms, rejection.record, rejection.path, NOTHING, rejection, named, *figures)
        )
    _find_limits(timeline)
    timeline.possible = [possible for part in parts for possible in part.possible]
    timeline.possible += strangers
    timeline.is_degraded = any(part.degraded for part in parts)
    timeline.has_unknown = bool(strangers) or any(part.unknown for part in parts)
    timeline.has_failed = any(part.failed for part in parts)
    timeline.has_overruns = any(part.overruns for part in parts)
    _widen_unseen(timeline)
    return timeline


class _Reader:
    """Find the figures of one window's limits in what responses announce. Most announce one of a few lists."""

    def __init__(self, window: Window) -> None:
        self._window = window
        self._views: dict[Listed, _View] = {}
        self._nothing = (None,) * len(window.limits)

    def read(self, path: RequestPath, told: Told | None) -> tuple[Figures, Figures, Figures]:
        """Return limits, what is left at most, and what is left at least."""
        if told is None:
            return self._nothing, self._nothing, self._nothing
        view = self._views.get(told.listed)
        if view is None:
            view = self._views[told.listed] = self._view(path, told.listed)
        left = told.remaining
        if view.is_whole:
            return view.limits, left, left
        most = tuple([left[at[0]] if at else None for at in view.positions])
        if view.is_certain:
            return view.limits, most, most
        most = tuple([max([left[each] for each in at]) if at else None for at in view.positions])
        least = tuple([min([left[each] for each in at]) if at else None for at in view.positions])
        return view.limits, most, least

    def _view(self, path: RequestPath, listed: Listed) -> _View:
        positions = tuple(listed.positions.get(ordinal, ()) for ordinal in path.ordinals[self._window])
        return _View(
            tuple(listed.amounts[at[0]] if at else None for at in positions),
            positions,
            positions == tuple((position,) for position in range(len(listed.names))),
            all(len(at) <= 1 for at in positions),
        )


def _find_limits(timeline: WindowTimeline) -> None:
    """Find the limits that responses don't announce, and the bounds of those that they do."""
    distinct = set(timeline.limits) | {each.limits for each in timeline.rejections}
    for place, limit in enumerate(timeline.window.limits):
        announced = [amount for figures in distinct if (amount := figures[place]) is not None]
        timeline.least_limits.append(min(announced, default=limit.amount))
        timeline.most_limits.append(max(announced, default=limit.amount))
    if not any(None in figures for figures in timeline.limits):
        return
    columns = [_column(timeline, place) for place in range(len(timeline.window.limits))]
    timeline.limits = list(zip(*columns, strict=True))


def _column(timeline: WindowTimeline, place: int) -> list[int | None]:
    """Return the limit in force at each admission."""
    column = [figures[place] for figures in timeline.limits]
    least, most = timeline.least_limits[place], timeline.most_limits[place]
    if least == most:
        return [least] * len(column)
    known = [(each.time_ms, amount) for each in timeline.decisions if (amount := each.limits[place]) is not None]
    known.sort()
    for index, amount in enumerate(column):
        if amount is None:
            at = bisect_left(known, (timeline.admitted[index].time_ms,))
            column[index] = max(around for _, around in known[max(at - 1, 0) : at + 1])
    return column


def _widen_unseen(timeline: WindowTimeline) -> None:
    """A service that reported more than was admitted may have done so in unseen responses as well."""
    admitted = timeline.admitted
    if not any(
        each.settled_most != each.least
        and (each.settled_most[INPUT] > each.least[INPUT] or each.settled_most[OUTPUT] > each.least[OUTPUT])
        for each in admitted
    ):
        return
    most = amounts(1, UNBOUNDED, UNBOUNDED)
    timeline.admitted = [each._replace(most=most) if each.done_us == NEVER else each for each in admitted]
    timeline.possible = [possible._replace(most=most) for possible in timeline.possible]


def _admissions(parts: Iterable[Timeline]) -> Iterable[Admission]:
    return (each for part in parts for each in part.admitted)


def _rejections(parts: Iterable[Timeline]) -> Iterable[Rejection]:
    return (each for part in parts for each in part.rejected)


def _time_of(each: Admission | Rejection) -> int:
    return each.time_ms
