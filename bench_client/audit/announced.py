"""Reads which limits a response announces, and what is left of them.

Limits are found by their names in `RateLimit-Policy`. Those that differ in their models only have the same name, and
are told apart by their amounts; if these are equal, too, each may be any of them.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import accumulate
from typing import NamedTuple

from bench_client.audit.paths import FLAT_NAMES, MINUTE_MS, RequestPath, WindowLimit
from bench_client.audit.units import DIMENSIONS
from bench_client.records.record import Record

_MAX_LISTED, _MAX_LIST_CHARS = 16, 4_096
"""Limits in one header, and its characters, at most."""
_FIGURES_CHARS = len('"";q=;w=') + 15 + len("2678400")
"""The most that an item of `RateLimit-Policy` adds to the limit's name."""
_SEPARATOR_CHARS = 3
_CACHED_MAX = 10_000
_POLICY = re.compile(r'"([^"]*)";q=(\d+)(?:;w=(\d+))?')
_STATE = re.compile(r'"([^"]*)";r=(\d+)')

_LIMITS = slice(Record._fields.index("limit_requests"), Record._fields.index("limit_output") + 1)
_REMAINING = slice(Record._fields.index("remaining_requests"), Record._fields.index("remaining_output") + 1)


class UndeclaredError(Exception):
    """Raised when a response announces other limits than the keys file declares. The message follows "keys"."""


@dataclass(frozen=True, slots=True, eq=False)
class Listed:
    """Hold a list of limits on a path, as responses announce it."""

    names: tuple[str, ...]
    amounts: tuple[int, ...]
    positions: dict[int, tuple[int, ...]]
    """By ordinal of a limit on the path: its position in the list, or all that it may be at."""
    per_minute: tuple[tuple[int, ...], ...] = ()
    """Positions of the limits of exactly one minute, by unit; empty if some limits are not in the list."""
    changed: tuple[WindowLimit, ...] = ()
    """Limits that have another amount than the keys file declares."""


class Told(NamedTuple):
    """Hold what one response announces. ``remaining`` is in the order of the list."""

    listed: Listed
    remaining: tuple[int, ...]


_PLAIN_POSITIONS: dict[int, tuple[int, ...]] = {ordinal: (ordinal,) for ordinal in range(3)}


class Announcements:
    """Read responses' limits. Lists are kept, because most responses repeat one of a few."""

    def __init__(self) -> None:
        self._plain: dict[tuple[int, ...], Listed] = {}
        self._on_paths: dict[tuple[RequestPath, str | tuple[int, ...]], Listed] = {}
        self.changed: set[WindowLimit] = set()

    def read(self, path: RequestPath, record: Record) -> Told | None:
        """Return what a decision announces; None if its figures are missing or contradict themselves.

        Raises UndeclaredError if these are not the limits that the keys file declares.
        """
        if path.is_plain:
            limits, remaining = limits_of(record), remaining_of(record)
            if None in limits or None in remaining:
                return None
            listed = self._plain.get(limits)
            if listed is None:
                listed = self._plain[limits] = Listed(FLAT_NAMES, limits, _PLAIN_POSITIONS)
            return Told(listed, remaining)
        if record.policies is None and not record.has_other_limits:  # a flat key's three, and audited ones beside them
            limits, remaining = limits_of(record), remaining_of(record)
            if None not in limits and None not in remaining:
                items = list(zip(FLAT_NAMES, limits, (60, 60, 60), strict=True))
                return Told(self._listed(path, limits, items), remaining)
        policies = record.policies or ""
        listed = self._on_paths.get((path, policies))
        if listed is None:
            listed = self._listed(
                path, policies, [(name, int(q), int(w or 0)) for name, q, w in _POLICY.findall(policies)]
            )
        states = _STATE.findall(record.states or "")
        if tuple([name for name, _ in states]) != listed.names:
            return None
        return Told(listed, tuple([int(left) for _, left in states]))

    def _listed(self, path: RequestPath, announced: str | tuple[int, ...], items: list[tuple[str, int, int]]) -> Listed:
        if len(self._on_paths) >= _CACHED_MAX:
            self._on_paths.clear()
        listed = self._on_paths.get((path, announced))
        if listed is None:
            listed = self._on_paths[path, announced] = _matched(path, items)
            self.changed.update(listed.changed)
        return listed


def limits_of(record: Record) -> tuple[int, int, int]:
    """Return the limits announced with a plain key's decision."""
    return record[_LIMITS]  # type: ignore[return-value]


def remaining_of(record: Record) -> tuple[int, int, int]:
    return record[_REMAINING]  # type: ignore[return-value]


def shown_at_least(lengths: Iterable[int]) -> int:
    """Return how many items of these lengths a header has at least: any so many of them are short enough for it."""
    chars = accumulate(length + _SEPARATOR_CHARS for length in sorted(lengths, reverse=True)[:_MAX_LISTED])
    return sum(each <= _MAX_LIST_CHARS for each in chars)


def _least_listed(path: RequestPath) -> int:
    return shown_at_least(len(each.listed_as) + _FIGURES_CHARS for each in path.limits if each.listed_as)


def _matched(path: RequestPath, items: list[tuple[str, int, int]]) -> Listed:
    """Match the items of `RateLimit-Policy` (name, amount, seconds) with the limits on the path."""
    declared: dict[tuple[str, int], list[int]] = {}
    for ordinal, limit in enumerate(path.limits):
        if limit.listed_as:
            declared.setdefault((limit.listed_as, -(-limit.window.per_ms // 1_000)), []).append(ordinal)
    found: dict[tuple[str, int], list[int]] = {}
    for position, (name, _, seconds) in enumerate(items):
        if (name, seconds) not in declared:
            raise UndeclaredError(f"whose responses announce {name}, which the keys file doesn't declare")
        found.setdefault((name, seconds), []).append(position)
    listed = sum(map(len, declared.values()))
    if len(items) < min(listed, _least_listed(path)):
        missing, _ = next(name for name in declared if len(found.get(name, ())) < len(declared[name]))
        raise UndeclaredError(f"whose responses don't announce {missing}, which the keys file declares")
    positions: dict[int, tuple[int, ...]] = {}
    for named, places in found.items():
        if len(places) > len(declared[named]):
            raise UndeclaredError(f"whose responses announce more limits {named[0]} than the keys file declares")
        positions.update(_told_apart(path, declared[named], places, items))
    changed = tuple(
        path.limits[ordinal].limit
        for ordinal, (first, *_) in positions.items()
        if items[first][1] != path.limits[ordinal].limit.amount
    )
    minutes = [
        (path.limits[declared[name, seconds][0]].limit.unit, position)
        for position, (name, _, seconds) in enumerate(items)
        if path.limits[declared[name, seconds][0]].window.per_ms == MINUTE_MS
    ]
    names, amounts, _ = zip(*items, strict=True) if items else ((), (), ())
    per_minute = tuple(tuple(each for unit_of, each in minutes if unit_of == unit) for unit in range(len(DIMENSIONS)))
    return Listed(names, amounts, positions, per_minute if len(items) == listed else (), changed)


def _told_apart(
    path: RequestPath, ordinals: list[int], places: list[int], items: list[tuple[str, int, int]]
) -> dict[int, tuple[int, ...]]:
    """Return the positions of limits that share a name."""
    if len(ordinals) == 1:
        return {ordinals[0]: tuple(places)}
    announced = Counter(items[place][1] for place in places)
    declared = Counter([path.limits[ordinal].limit.amount or 0 for ordinal in ordinals])
    if announced - declared:
        raise UndeclaredError(
            f"whose limits {items[places[0]][0]} differ in their models only, and have other amounts than declared"
        )
    return {
        ordinal: tuple(place for place in places if items[place][1] == amount)
        for ordinal in ordinals
        if announced[amount := path.limits[ordinal].limit.amount or 0] == declared[amount]
    }
