"""The windows of a stored policy and those that it shall have, made one: what changes, and what goes on counting.

A window is the same if its subject, length and patterns are. It keeps the time since when it counts. A window that has
lost its limits stays without any until its length has passed, so that taking a limit away and back loses nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from limiter_node.declarations import MAX_WINDOWS
from limiter_node.policy import PolicyWindow, shape_of

MAX_STORED_WINDOWS: Final = MAX_WINDOWS + 8
"""The most windows of a subject, those without limits included: of these, the ones that end first go first."""


def merge_windows(
    stored: Sequence[PolicyWindow], wanted: Iterable[PolicyWindow], now_ms: int
) -> tuple[PolicyWindow, ...]:
    """Return the windows to store. `now_ms`: by the store's clock."""
    before = {shape_of(each): each for each in stored if not 0 < each.until_ms <= now_ms}
    merged = []
    for window in wanted:
        found = before.pop(shape_of(window), None)
        merged.append(window._replace(since_ms=found.since_ms if found is not None else now_ms))
    lingering = sorted((_without_limits(each, now_ms) for each in before.values()), key=_ends_last)
    return (*merged, *lingering[: MAX_STORED_WINDOWS - len(merged)])


def _without_limits(window: PolicyWindow, now_ms: int) -> PolicyWindow:
    return window._replace(limits=(), until_ms=window.until_ms or now_ms + window.per_ms)


def _ends_last(window: PolicyWindow) -> tuple[int, tuple[int, tuple[str, ...]]]:
    return -window.until_ms, shape_of(window)
