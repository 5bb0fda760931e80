"""The usage from before the run: how much of it may still count in a window, by the first figures that were announced.

What is told to be in use, less what the run itself has counted, was there before. Until the first figures of a limit
come, and if none come (audited limits, hidden ones), anything may have been: unless the window had counted no request
before, or a window that contains it hadn't. For that the audit takes it that limits weren't added right before the run.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from bench_client.audit.paths import Window
from bench_client.audit.units import NEVER, REQUESTS, UNBOUNDED
from bench_client.audit.window_timeline import Decision, WindowTimeline


class CarriedIn(NamedTuple):
    """Hold how much of one limit usage from before the run may take, by the store's clock."""

    amount: int
    known_from_ms: int
    """Before that it may be any amount."""
    until_ms: int


class EmptyBefore:
    """Remember the windows that had counted nothing before the run."""

    def __init__(self) -> None:
        self._since: list[tuple[Window, int]] = []

    def add(self, window: Window, since_ms: int) -> None:
        self._since.append((window, since_ms))

    def since_ms(self, window: Window) -> int:
        """Return since when ``window`` is known to have nothing in it from before the run; ``NEVER`` if it isn't."""
        return min((since_ms for each, since_ms in self._since if each.contains(window)), default=NEVER)


def carried_in(timeline: WindowTimeline, empty: EmptyBefore | None = None) -> list[CarriedIn]:
    """Return the usage from before the run by place.

    If several decisions share the first millisecond, the largest figure is taken. What decisions without figures
    counted is then in the first figures, and counted twice.
    """
    first_ms = min((each.time_ms for each in _firsts(timeline)), default=0)
    until_ms = first_ms + timeline.window.life_ms
    found = [_by_first_figures(timeline, place, until_ms) for place in range(len(timeline.window.limits))]
    for limit, carried in zip(timeline.window.limits, found, strict=True):
        if limit.unit == REQUESTS and carried is not None and carried.amount <= 0 and empty is not None:
            empty.add(timeline.window, carried.known_from_ms)
    if None not in found:
        return found  # type: ignore[return-value]
    since_ms = empty.since_ms(timeline.window) if empty is not None else NEVER
    return [CarriedIn(0, since_ms, until_ms) if carried is None else carried for carried in found]


def _by_first_figures(timeline: WindowTimeline, place: int, until_ms: int) -> CarriedIn | None:
    """Return what the first figures of a limit leave; None if there are none."""
    firsts = [
        next((each for each in decisions if each.remaining_least[place] is not None), None)
        for decisions in (_admitted(timeline), timeline.rejections)
    ]
    known_ms = min((each.time_ms for each in firsts if each is not None), default=None)
    if known_ms is None:
        return None
    unit = timeline.window.limits[place].unit
    amount = 0
    for decisions in (_admitted(timeline), timeline.rejections):
        for each in decisions:
            if each.time_ms > known_ms:
                break
            limit, left = each.limits[place], each.remaining_least[place]
            if limit is None or left is None or each.time_ms < known_ms:
                continue
            own = each.needs[unit] or 0 if each.rejection is None else 0
            used = limit - left - own
            if left <= 0 and each.rejection is not None:
                used = UNBOUNDED  # after a limit was lowered, "none left" may mean that more than the limit is in use
            amount = max(amount, used)
    return CarriedIn(amount, known_ms, until_ms)


def _admitted(timeline: WindowTimeline) -> Iterable[Decision]:
    return timeline.decisions[: len(timeline.admitted)]


def _firsts(timeline: WindowTimeline) -> Iterable[Decision]:
    yield from timeline.decisions[:1]
    yield from timeline.rejections[:1]
