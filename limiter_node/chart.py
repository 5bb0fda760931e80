"""Bars and columns of characters, in block characters or, where the output can't show these, in plain ASCII.

Pure functions from numbers to text; `limiter_node.commands.usage_chart` and `limiter_node.top` draw with them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Glyphs:
    """Hold the characters of a chart."""

    bars: str
    """A bar's last character, from the least part of it to all of it."""
    columns: str
    """A column's highest character, likewise."""
    empty: str
    """The rest of a bar, beyond what it shows."""
    side: str
    """The axis to the left of columns, and its ends: `top`, `corner`."""
    top: str
    corner: str
    line: str
    """The axis below them."""
    ellipsis: str


BLOCKS = Glyphs("▏▎▍▌▋▊▉█", "▁▂▃▄▅▆▇█", "░", "│", "┤", "└", "─", "…")
ASCII = Glyphs("#", ".:#", ".", "|", "|", "+", "-", "~")


_UNITS = "kMGT"


def glyphs_for(encoding: str | None) -> Glyphs:
    """Return block characters where `encoding` has them, else ASCII. Whether the font has them, nobody can tell."""
    try:
        "".join((BLOCKS.bars, BLOCKS.columns, BLOCKS.empty, BLOCKS.side, BLOCKS.ellipsis)).encode(encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return ASCII
    return BLOCKS


def bar(fraction: float, width: int, glyphs: Glyphs) -> tuple[str, str]:
    """Return a bar of `width` characters in two parts: the filled one, and the rest.

    The least use shows, and only all of it fills the bar: what is nearly full isn't drawn as full.
    """
    steps = len(glyphs.bars)
    filled = _steps(fraction, width * steps)
    whole, part = divmod(filled, steps)
    text = glyphs.bars[-1] * whole + (glyphs.bars[part - 1] if part else "")
    return text, glyphs.empty * (width - len(text))


def columns(values: Sequence[float], height: int, glyphs: Glyphs) -> list[str]:
    """Return one column per value, in `height` lines, the upper first. The greatest value is as high as the chart."""
    steps, most = len(glyphs.columns), max(values, default=0)
    heights = [_steps(value / most, height * steps) if most else 0 for value in values]
    lines = []
    for line in reversed(range(height)):
        here = (min(max(each - line * steps, 0), steps) for each in heights)
        lines.append("".join(glyphs.columns[part - 1] if part else " " for part in here))
    return lines


def _steps(fraction: float, steps: int) -> int:
    if fraction <= 0:
        return 0
    return steps if fraction >= 1 else min(max(round(fraction * steps), 1), steps - 1) if steps > 1 else 0


def compact(number: float, width: int) -> str:
    """Return a count in at most `width` characters (5 or more): 98,200 if that fits, else as 98.2k, 1.23M, 4.00G."""
    whole = f"{round(number):,}"
    if len(whole) <= width:
        return whole
    units = iter(_UNITS)
    unit = next(units)
    number /= 1000
    while number >= 999.5 and unit != _UNITS[-1]:
        number, unit = number / 1000, next(units)
    digits = 2 if number < 9.995 else 1 if number < 99.95 else 0
    return f"{number:.{digits}f}{unit}"
