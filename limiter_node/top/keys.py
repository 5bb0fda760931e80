"""The table of the hottest plain keys: three gauges each. Keys of accounts have no three limits to compare them by.

Pure.
"""

from __future__ import annotations

from rich.text import Text

from limiter_node.chart import Glyphs, bar, compact
from limiter_node.store.admin.hottest import KeyHeat
from limiter_node.top.cells import key_name, percent
from limiter_node.top.frame import Frame
from limiter_node.top.table import BAD, FAINT, GOOD, WARN, WIDE, Column, Table

_BUSY, _FULL = 0.7, 0.95
_LEAST_GAUGE = 17
"""Narrower gauges show a percentage instead of use and limit."""


def key_lines(frame: Frame, width: int, most: int, glyphs: Glyphs) -> list[Text]:
    """Return the hottest keys with their three gauges, and the searched share of the store."""
    if frame.shards is None:
        return []
    is_wide = width >= WIDE
    name, gap = (24, 2) if is_wide else (14, 1)
    each = (width - name - 3 * gap) // 3
    titles = ("requests", "input tokens", "output tokens")
    table = Table(
        "HOTTEST KEYS", [Column(title, each, title, each, is_left=True) for title in titles], width, is_wide, glyphs
    )
    lines = [table.header()]
    lines += [
        table.row(key_name(key, glyphs), [_gauge(key, dimension, each, glyphs) for dimension in range(3)])
        for key in frame.hottest[: max(most - 2, 0)]
    ]
    lines.append(table.note(seen(frame)))
    return lines


def seen(frame: Frame) -> str:
    """Return the note on the share of the store that has been searched for the hottest keys."""
    walk = frame.walk
    keys = f"seen {walk.seen:,} plain key{'' if walk.seen == 1 else 's'}"
    return f"{keys}, all there are" if walk.is_whole else f"{keys}, {percent(walk.share)} of the store looked through"


def _gauge(key: KeyHeat, dimension: int, width: int, glyphs: Glyphs) -> Text:
    used, limit = key.used[dimension], key.limits[dimension]
    share = used / limit if limit else float(used > 0)
    digits = 7 if width >= 30 else 5
    numbers = f"{compact(used, digits)}/{compact(limit, digits)}"
    if width < _LEAST_GAUGE:
        digits, numbers = 2, percent(share)
    length = max(width - 2 * digits - 2, 1)
    filled, rest = bar(share, length, glyphs)
    style = GOOD if share < _BUSY else WARN if share < _FULL else BAD
    return Text.assemble((filled, style), (rest, FAINT), " ", f"{numbers:>{2 * digits + 1}}")
