"""The tables of accounts and teams, and of the hottest keys: each with its tightest limit, a plain key with all three.

Pure.
"""

from __future__ import annotations

from rich.text import Text

from limiter_node.chart import Glyphs, bar, compact
from limiter_node.store.admin.limit_heat import LimitHeat
from limiter_node.store.admin.plain_heat import KeyHeat
from limiter_node.top.cells import key_name, percent, printable, shortened
from limiter_node.top.frame import Frame
from limiter_node.top.table import BAD, FAINT, GOOD, WARN, WIDE, Column, Table

_BUSY, _FULL = 0.7, 0.95
_LEAST_GAUGE = 17
"""Narrower gauges show a percentage instead of use and limit."""
_DIMENSIONS = ("requests", "input tokens", "output tokens")


def account_lines(frame: Frame, width: int, most: int, glyphs: Glyphs) -> list[Text]:
    """Return the accounts and teams with their tightest limits; no line if there are none."""
    if not frame.tightest:
        return []
    table = _limit_table("ACCOUNTS AND TEAMS", width, glyphs)
    rows = [_limit_row(table, each, printable(each.name)) for each in frame.tightest[: max(most - 1, 0)]]
    return [table.header(), *rows]


def key_lines(frame: Frame, width: int, most: int, glyphs: Glyphs) -> list[Text]:
    """Return the hottest keys with their gauges, and the searched share of the store."""
    if frame.shards is None:
        return []
    keys = frame.hottest[: max(most - 2, 0)]
    if keys and all(isinstance(key, LimitHeat) for key in frame.hottest):
        table = _limit_table("HOTTEST KEYS", width, glyphs)
    else:
        is_wide = width >= WIDE
        name, gap = (24, 2) if is_wide else (14, 1)
        each = (width - name - 3 * gap) // 3
        table = Table(
            "HOTTEST KEYS",
            [Column(title, each, title, each, is_left=True) for title in _DIMENSIONS],
            width,
            is_wide,
            glyphs,
        )
    return [table.header(), *(_key_row(table, key) for key in keys), table.note(seen(frame))]


def seen(frame: Frame) -> str:
    """Return the note on the share of the store that has been searched."""
    walk = frame.walk
    keys = f"seen {walk.seen:,} key{'' if walk.seen == 1 else 's'}"
    if walk.accounts:
        keys += f" and {walk.accounts:,} account{'' if walk.accounts == 1 else 's'}"
    keys += " in use"
    return f"{keys}, all there are" if walk.is_whole else f"{keys}, {percent(walk.share)} of the store looked through"


def _limit_table(title: str, width: int, glyphs: Glyphs) -> Table:
    is_wide = width >= WIDE
    limit, gauge = width // 4, width * 2 // 5
    columns = (
        Column("tightest limit", limit, "tightest limit", limit, is_left=True),
        Column("used", gauge, "used", gauge, is_left=True),
    )
    return Table(title, columns, width, is_wide, glyphs)


def _key_row(table: Table, key: KeyHeat | LimitHeat) -> Text:
    name = key_name(key, table.glyphs)
    if isinstance(key, LimitHeat):
        return _limit_row(table, key, name)
    each = table.columns[0].width
    return table.row(
        name,
        [_gauge(used, limit, each, table.glyphs) for used, limit in zip(key.used, key.limits, strict=True)],
    )


def _limit_row(table: Table, limit: LimitHeat, name: str) -> Text:
    """Return a row with one limit, which takes the place of all columns of the table."""
    line = table.row(name, ())
    room = max(table.width - table.name_width - 2 * table.gap, 2)
    text, gauge = (
        (room - table.columns[-1].width, table.columns[-1].width)
        if len(table.columns) == 2
        else (room // 3, room - room // 3)
    )
    shown = shortened(printable(limit.limit), max(text, 1), table.glyphs)
    line.append(" " * table.gap).append(shown.ljust(text)).append(" " * table.gap)
    return line.append_text(_gauge(limit.used, limit.amount, gauge, table.glyphs))


def _gauge(used: int, limit: int, width: int, glyphs: Glyphs) -> Text:
    share = used / limit if limit else float(used > 0)
    digits = 7 if width >= 30 else 5
    numbers = f"{compact(used, digits)}/{compact(limit, digits)}"
    if width < _LEAST_GAUGE:
        digits, numbers = 2, percent(share)
    length = max(width - 2 * digits - 2, 1)
    filled, rest = bar(share, length, glyphs)
    style = GOOD if share < _BUSY else WARN if share < _FULL else BAD
    return Text.assemble((filled, style), (rest, FAINT), " ", f"{numbers:>{2 * digits + 1}}")
