"""Times and lengths of time as people type and read them: ``2027-06-30T00:00:00Z``, ``24h``."""

from __future__ import annotations

import re
from datetime import datetime
from typing import Any

import click

from limiter_node.limit_names import LETTER_MS

_LENGTH = re.compile(r"([0-9]{1,7})([smhd])\Z")
_MAX_MS = 10 * 366 * 86_400_000
_UNITS = (("day", 86_400_000), ("hour", 3_600_000), ("minute", 60_000), ("second", 1_000))

NEVER = "never"
"""Is typed instead of a time, to take an end away."""


class Length(click.ParamType[int]):
    """A length of time, such as ``24h``, converted to ms."""

    name = "length"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Return the ms of `value`."""
        if isinstance(value, int):
            return value
        match = _LENGTH.match(value)
        length_ms = int(match[1]) * LETTER_MS[match[2]] if match else -1
        if not 0 <= length_ms <= _MAX_MS:
            self.fail(f"{value!r} is not a length of time: use a number and s, m, h or d, such as 24h", param, ctx)
        return length_ms


class Time(click.ParamType[int]):
    """A time with its offset from UTC, converted to ms since the epoch; 0 for ``never`` where that is allowed."""

    name = "time"

    def __init__(self, *, or_never: bool = False) -> None:
        self._or_never = or_never

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Return the ms since the epoch of `value`."""
        if isinstance(value, int):
            return value
        if self._or_never and value == NEVER:
            return 0
        try:
            time = datetime.fromisoformat(value)
        except ValueError:
            time = None
        if time is None or time.tzinfo is None or time.year < 1971:
            never = f", or {NEVER}" if self._or_never else ""
            self.fail(
                f"{value!r} is not a time with an offset: write it as 2027-06-30T00:00:00Z or "
                f"2027-06-30T00:00:00+02:00{never}",
                param,
                ctx,
            )
        return round(time.timestamp() * 1000)


def length_text(length_ms: int) -> str:
    """Return about how long `length_ms` is: ``41.2 s``, ``90 minutes``, ``3 days``."""
    if length_ms < 120_000:
        return f"{length_ms / 1000:.1f} s"
    unit, unit_ms = next(each for each in _UNITS if length_ms >= 2 * each[1])
    return f"{length_ms // unit_ms} {unit}s"
