"""Tables of text: aligned columns, and numbers that a person can read."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from unicodedata import combining, east_asian_width

NOTHING = "-"
"""Stands in a cell that has nothing to say."""


def table(header: Sequence[str], rows: Sequence[Sequence[str]], *, left: Collection[str]) -> list[str]:
    """Return the lines of a table, its header first. The columns in `left` are aligned left, the others right.

    A column in which no row has anything is left out.
    """
    kept = [
        column for column in range(len(header)) if not rows or any(row[column] not in ("", NOTHING) for row in rows)
    ]
    cells = [[row[column] for column in kept] for row in (header, *rows)]
    widths = [max(map(columns_of, column)) for column in zip(*cells, strict=True)]
    lefts = [header[column] in left for column in kept]
    return [
        "  ".join(
            cell + _space(cell, width) if is_left else _space(cell, width) + cell
            for cell, width, is_left in zip(row, widths, lefts, strict=True)
        ).rstrip()
        for row in cells
    ]


def columns_of(text: str) -> int:
    """Return how many columns of a terminal a text takes: wide characters, as Chinese ones, take two."""
    return sum(0 if combining(each) else 2 if east_asian_width(each) in "WF" else 1 for each in text)


def _space(text: str, width: int) -> str:
    return " " * (width - columns_of(text))


def number(value: int) -> str:
    """Return an integer with its thousands separated."""
    return f"{value:,}"


def count(value: int, noun: str) -> str:
    """Return a number of things: ``1 key``, ``2,000 keys``."""
    return f"{number(value)} {noun}{'' if value == 1 else 's'}"


def facts(*pairs: tuple[str, str]) -> list[str]:
    """Return a line per name and value; a name without a value is left out."""
    given = [(name, value) for name, value in pairs if value]
    width = max((len(name) for name, _ in given), default=0)
    return [f"  {name.ljust(width)}  {value}" for name, value in given]
