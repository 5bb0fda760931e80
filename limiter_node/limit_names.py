"""The name of a limit as a field: ``rpm``, ``input_tokens/1d``, ``output_tokens/1m for gpt-5*,o3*``.

A limit per minute on all models has the short name that the keys file gives it. Any other name says the unit, the
length of its window and the window's patterns, sorted and in lower case, so that one window has one name.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any, Final

from limiter_node.limits import WINDOW_MS
from limiter_node.plans import per_text
from limiter_node.policy import (
    ENFORCE,
    INPUT_TOKENS,
    OUTPUT_TOKENS,
    REQUESTS,
    TOKENS,
    UNITS,
    Limit,
    PolicyWindow,
    WindowShape,
    shape_of,
)

PER_MINUTE: Final = {"rpm": REQUESTS, "input_tpm": INPUT_TOKENS, "output_tpm": OUTPUT_TOKENS, "tpm": TOKENS}
"""The names of limits per minute on all models, and their units."""

LETTER_MS: Final = {"s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}

_SHORT_BY_UNIT = {unit: name for name, unit in PER_MINUTE.items()}
_MINUTE: WindowShape = (WINDOW_MS, ())
_LONG_NAME = re.compile(r"([a-z_]+)/([1-9][0-9]{0,7})([smhd])(?: for (.+))?", re.DOTALL)
_PATTERN = re.compile(r'("(?:[^"\\]|\\.)*"|[^",][^,]*)(?:,|\Z)', re.DOTALL)


def limit_name(unit: int, window: PolicyWindow) -> str:
    """Return the name of the limit of a unit on a window."""
    per_ms, patterns = shape = shape_of(window)
    if shape == _MINUTE:
        return _SHORT_BY_UNIT[unit]
    models = f" for {','.join(_quoted(each) for each in patterns)}" if patterns else ""
    return f"{UNITS[unit]}/{per_text(per_ms)}{models}"


def parse_limit_name(name: str) -> tuple[int, PolicyWindow] | None:
    """Return unit and window of a limit's name; None if `name` names no limit."""
    if (unit := PER_MINUTE.get(name)) is not None:
        return unit, PolicyWindow(WINDOW_MS)
    match = _LONG_NAME.fullmatch(name)
    if match is None or match[1] not in UNITS:
        return None
    patterns: list[str] = []
    at, text = 0, match[4] or ""
    while at < len(text):
        found = _PATTERN.match(text, at)
        if found is None:
            return None
        pattern = _unquoted(found[1])
        if pattern is None or not pattern.isprintable():
            return None
        patterns.append(pattern)
        at = found.end()
    models = tuple(sorted({each.lower() for each in patterns}))
    return UNITS.index(match[1]), PolicyWindow(int(match[2]) * LETTER_MS[match[3]], models)


def limits_to_fields(windows: Iterable[PolicyWindow]) -> dict[str, Any]:
    """Return the limits on windows by name.

    The value is the amount of a limit that rejects and has no name of its own. Any other is a table of ``amount``,
    ``mode`` (unless it is ``enforce``) and ``name`` (unless it has none).
    """
    return {limit_name(limit.unit, window): _to_value(limit) for window in windows for limit in window.limits}


def windows_from_fields(fields: Mapping[str, Any]) -> tuple[PolicyWindow, ...]:
    """Return the windows with the limits that are among `fields`, always in the same order; that of a minute first."""
    windows: dict[WindowShape, PolicyWindow] = {}
    for name, value in fields.items():
        if (parsed := parse_limit_name(name)) is not None:
            unit, window = parsed
            found = windows.setdefault(shape_of(window), window)
            windows[shape_of(window)] = found._replace(limits=(*found.limits, _limit_from(unit, value)))
    return tuple(
        windows[shape]._replace(limits=tuple(sorted(windows[shape].limits)))
        for shape in sorted(windows, key=lambda shape: (shape != _MINUTE, shape))
    )


def _quoted(pattern: str) -> str:
    return json.dumps(pattern, ensure_ascii=False) if "," in pattern or pattern.startswith('"') else pattern


def _unquoted(pattern: str) -> str | None:
    """Return a pattern as it was before `_quoted`; None if it is none in quotes."""
    if not pattern.startswith('"'):
        return pattern
    try:
        return str(json.loads(pattern))
    except ValueError:
        return None


def _to_value(limit: Limit) -> int | dict[str, Any]:
    if limit.mode == ENFORCE and not limit.name:
        return limit.amount
    value: dict[str, Any] = {"amount": limit.amount}
    if limit.mode != ENFORCE:
        value["mode"] = limit.mode
    if limit.name:
        value["name"] = limit.name
    return value


def _limit_from(unit: int, value: int | Mapping[str, Any]) -> Limit:
    if isinstance(value, int):
        return Limit(unit, value)
    return Limit(unit, value["amount"], value.get("mode", ENFORCE), value.get("name", ""))
