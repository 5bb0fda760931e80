"""The limits of one section of the keys file, as windows: ``rpm`` and the like, and the entries of ``limits``.

Limits on the same length and the same set of patterns, whatever their case, lie on one window.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from limiter_node.declarations import MAX_WINDOWS
from limiter_node.errors import ConfigError
from limiter_node.keysfile.fields import (
    NONE,
    Misdeclared,
    check_amount,
    check_fields,
    check_name,
    choice,
    section_of,
    unsupported,
)
from limiter_node.limit_names import LETTER_MS, PER_MINUTE
from limiter_node.limits import WINDOW_MS
from limiter_node.policy import (
    AUDIT,
    ENFORCE,
    UNITS,
    Limit,
    PolicyWindow,
    WindowShape,
    shape_of,
)

LIMIT_FIELDS: Final = (*PER_MINUTE, "limits")

_ENTRY_FIELDS = (*UNITS, "per", "models", "name", "mode")
_PER = re.compile(r"([1-9][0-9]{0,7})([smhd])\Z")
_MAX_PER_MS = 31 * 86_400_000
_MAX_PATTERN_LENGTH, _MAX_STARS, _MAX_PATTERNS = 128, 4, 64
_SUB_SECTION = "an entry of limits is a table of single values"
_check_mode = choice(ENFORCE, AUDIT)

MinuteAmounts = Mapping[str, int | None]
"""Amounts by field of `PER_MINUTE`; None for ``"none"``."""


class _Entry(NamedTuple):
    """A limit, the window that it lies on, and its place in the section."""

    limit: Limit
    window: PolicyWindow
    place: tuple[str | int, ...]


def minute_amounts(section: Mapping[str, object]) -> dict[str, int | None]:
    """Return the amounts of the fields of `PER_MINUTE` that a section has. Raises Misdeclared."""
    found: dict[str, int | None] = {}
    for field in PER_MINUTE:
        if field in section:
            value = section[field]
            found[field] = None if value == NONE else check_amount(field, value, f', or "{NONE}"')
    return found


def read_windows(section: Mapping[str, object], defaults: MinuteAmounts) -> tuple[PolicyWindow, ...]:
    """Return the windows of a section, that of a minute first. Raises Misdeclared.

    `defaults` count for the fields of which the section says nothing, neither as a field nor as an entry of `limits`.
    """
    entries = _entries(section)
    written = minute_amounts(section)
    named = {(entry.limit.unit, shape_of(entry.window)) for entry in entries}
    minute = PolicyWindow(WINDOW_MS)
    by_default = {
        field: amount for field, amount in defaults.items() if (PER_MINUTE[field], shape_of(minute)) not in named
    }
    amounts = {**by_default, **written}
    short = [
        _Entry(Limit(unit, amount), minute, (field,))
        for field, unit in PER_MINUTE.items()
        if (amount := amounts.get(field)) is not None
    ]
    return _to_windows([*short, *entries])


def _to_windows(entries: list[_Entry]) -> tuple[PolicyWindow, ...]:
    windows: dict[WindowShape, PolicyWindow] = {}
    for limit, window, place in entries:
        shape = shape_of(window)
        found = windows.setdefault(shape, window)
        if any(each.unit == limit.unit for each in found.limits):
            raise Misdeclared(
                f"{_place_text(place)}two limits of {UNITS[limit.unit]} on the same window: same length, same models",
                *place,
            )
        windows[shape] = found._replace(limits=(*found.limits, limit))
    if len(windows) > MAX_WINDOWS:
        raise Misdeclared(f"limits lie on {len(windows)} windows: at most {MAX_WINDOWS} are possible", "limits")
    return tuple(windows.values())


def _place_text(place: tuple[str | int, ...]) -> str:
    return f"limits, entry {place[1]}: " if len(place) > 1 and isinstance(place[1], int) else ""


def _entries(section: Mapping[str, object]) -> list[_Entry]:
    found = section.get("limits", [])
    if type(found) is not list:
        raise Misdeclared('limits must be a list, as [{ requests = 1_000, per = "1d" }]', "limits")
    entries = []
    for number, value in enumerate(found, 1):
        place = ("limits", number)
        try:
            entries.append(_Entry(*read_limit(section_of(value)), place))
        except ConfigError as error:
            raise Misdeclared(f"{_place_text(place)}{error}", *place) from None
    return entries


def read_limit(entry: Mapping[str, Any]) -> tuple[Limit, PolicyWindow]:
    """Return the limit of an entry of ``limits``, and the window that it lies on. Raises ConfigError."""
    check_fields(entry, _ENTRY_FIELDS, _SUB_SECTION)
    units = [unit for unit in UNITS if unit in entry]
    if len(units) != 1:
        raise ConfigError(f"must have exactly one of {', '.join(UNITS)}")
    (unit,) = units
    limit = Limit(
        UNITS.index(unit),
        check_amount(unit, entry[unit]),
        _check_mode("mode", entry.get("mode", ENFORCE)),
        check_name(entry.get("name", "")),
    )
    return limit, PolicyWindow(_per_ms(entry.get("per")), _models(entry))


def _per_ms(value: object) -> int:
    if value in ("day", "month"):
        raise unsupported(f'per = "{value}"')
    match = _PER.match(value) if type(value) is str else None
    per_ms = int(match[1]) * LETTER_MS[match[2]] if match else 0
    if not 0 < per_ms <= _MAX_PER_MS:
        raise ConfigError('per must be a length from "1s" to "31d", in s, m, h or d')
    return per_ms


def _models(entry: Mapping[str, object]) -> tuple[str, ...]:
    patterns = entry.get("models")
    if patterns is None:
        return ()
    if type(patterns) is not list or not 0 < len(patterns) <= _MAX_PATTERNS:
        raise ConfigError(f"models must be a list of 1 to {_MAX_PATTERNS} patterns")
    for pattern in patterns:
        if type(pattern) is not str or not 0 < len(pattern) <= _MAX_PATTERN_LENGTH or not pattern.isprintable():
            raise ConfigError(f"models: a pattern has 1 to {_MAX_PATTERN_LENGTH} printable characters")
        if pattern.count("*") > _MAX_STARS:
            raise ConfigError(f"models: a pattern may have at most {_MAX_STARS} *")
    # Of patterns that differ in case alone, the first: they make the same window.
    found: dict[str, str] = {}
    for pattern in patterns:
        found.setdefault(pattern.lower(), pattern)
    return tuple(found.values())
