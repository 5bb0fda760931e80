"""A stored policy and a newly declared one, made one: what changes, and what goes on counting.

A window is the same if its subject, length and patterns are. It keeps the time since when it counts. A window that has
lost its limits stays without any until its length has passed, so that taking a limit away and back loses nothing.
Teams that are no longer declared stay as they are, as keys do.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Final

from limiter_node.declarations import MAX_WINDOWS
from limiter_node.policy import AccountPolicy, KeyPolicy, PolicyWindow, Subject, shape_of

MAX_STORED_WINDOWS: Final = MAX_WINDOWS + 8
"""The most windows of a subject, those without limits included: of these, the ones that end first go first."""


def merge_account(stored: AccountPolicy | None, declared: AccountPolicy, now_ms: int) -> AccountPolicy:
    """Return the policy to store for a declared account. `now_ms`: by the store's clock."""
    before = {each.name: each for each in stored.subjects} if stored is not None else {}
    subjects = [_merge_subject(before.pop(each.name, None), each, now_ms) for each in declared.subjects]
    # In an order of their own: the same file, loaded twice, must give the same policy.
    kept = sorted(before.values(), key=lambda each: each.name)
    key = declared.key
    if key is not None:
        key = merge_key(stored.key if stored is not None else None, key, now_ms)
    return replace(declared, subjects=(*subjects, *kept), key=key)


def merge_key(stored: KeyPolicy | None, declared: KeyPolicy, now_ms: int) -> KeyPolicy:
    """Return the policy to store for a declared key."""
    return replace(declared, windows=_merge_windows(stored.windows if stored else (), declared.windows, now_ms))


def _merge_subject(stored: Subject | None, declared: Subject, now_ms: int) -> Subject:
    return declared._replace(windows=_merge_windows(stored.windows if stored else (), declared.windows, now_ms))


def _merge_windows(
    stored: Sequence[PolicyWindow], declared: Iterable[PolicyWindow], now_ms: int
) -> tuple[PolicyWindow, ...]:
    before = {shape_of(each): each for each in stored if not 0 < each.until_ms <= now_ms}
    merged = []
    for window in declared:
        found = before.pop(shape_of(window), None)
        merged.append(window._replace(since_ms=found.since_ms if found is not None else now_ms))
    lingering = sorted((_without_limits(each, now_ms) for each in before.values()), key=_ends_last)
    return (*merged, *lingering[: MAX_STORED_WINDOWS - len(merged)])


def _without_limits(window: PolicyWindow, now_ms: int) -> PolicyWindow:
    return window._replace(limits=(), until_ms=window.until_ms or now_ms + window.per_ms)


def _ends_last(window: PolicyWindow) -> tuple[int, tuple[int, tuple[str, ...]]]:
    return -window.until_ms, shape_of(window)
