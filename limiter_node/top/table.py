"""Lines of a table: columns of fixed widths, so that nothing moves from frame to frame; the first takes what is left.

Colours are the terminal's own sixteen, and nothing is shown by colour alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.cells import cell_len, set_cell_size
from rich.text import Text

from limiter_node.chart import Glyphs
from limiter_node.top.cells import shortened

HEADER = "bold reverse"
FAINT = "dim"
GOOD, WARN, BAD = "green", "yellow", "bold red"

WIDE = 110
"""Width in characters from which on tables use their wide form."""

_LEAST_NAME = 14

Cell = str | Text


@dataclass(frozen=True, slots=True)
class Column:
    """Describe a column, with its width and title in the narrow and in the wide form."""

    title: str
    width: int
    wide_title: str
    wide: int
    is_left: bool = False
    is_spare: bool = False
    """Left out if the names would have too little room."""

    def at(self, *, is_wide: bool) -> tuple[str, int]:
        """Return its title and width."""
        return (self.wide_title, self.wide) if is_wide else (self.title, self.width)


@dataclass(frozen=True, slots=True)
class Table:
    """Lay out a table of `width` characters: a first column of names, then `columns`."""

    title: str
    columns: Sequence[Column]
    width: int
    is_wide: bool
    glyphs: Glyphs

    @property
    def gap(self) -> int:
        """Return the number of spaces between columns."""
        return 2 if self.is_wide else 1

    @property
    def shown(self) -> Sequence[Column]:
        """Return the columns that there is room for."""
        if self._room_for_names(self.columns) >= _LEAST_NAME:
            return self.columns
        return [column for column in self.columns if not column.is_spare]

    @property
    def name_width(self) -> int:
        """Return the width of the first column."""
        return max(self._room_for_names(self.shown), _LEAST_NAME // 2)

    def _room_for_names(self, columns: Sequence[Column]) -> int:
        return self.width - sum(column.at(is_wide=self.is_wide)[1] + self.gap for column in columns)

    def header(self) -> Text:
        """Return the line of titles."""
        titles = [column.at(is_wide=self.is_wide)[0] for column in self.columns]
        return Text(self._line(self.title, titles).plain.ljust(self.width)[: self.width], HEADER)

    def row(self, name: Cell, cells: Sequence[Cell]) -> Text:
        """Return the line of one row."""
        return self._line(name, cells)

    def problem(self, name: str, problem: str) -> Text:
        """Return a row for a server that could not be reached, with the reason instead of numbers."""
        line = self._line(name, ())
        line.append(" " * self.gap)
        line.append(f"down: {problem}", BAD)
        line.truncate(self.width, overflow="ellipsis" if self.glyphs.ellipsis == "…" else "crop")
        return line

    def note(self, text: str) -> Text:
        """Return a line of text below the rows."""
        return Text(text[: self.width], FAINT)

    def _line(self, name: Cell, cells: Sequence[Cell]) -> Text:
        line = Text(no_wrap=True)
        line.append_text(fitted(name, self.name_width, self.glyphs, is_left=True))
        shown = self.shown
        for column, cell in zip(self.columns, cells, strict=False):
            if column not in shown:
                continue
            line.append(" " * self.gap)
            line.append_text(fitted(cell, column.at(is_wide=self.is_wide)[1], self.glyphs, is_left=column.is_left))
        return line


def fitted(cell: Cell, width: int, glyphs: Glyphs, *, is_left: bool) -> Text:
    """Return the cell in exactly `width` columns of the terminal."""
    text, style = (cell.plain, cell) if isinstance(cell, Text) else (cell, None)
    if cell_len(text) > width:
        short = shortened(text, width, glyphs)
        # Characters of two columns: cut at the end instead.
        short = short if cell_len(short) <= width else set_cell_size(text, width)
        return Text(short, style.style if style is not None else "")
    room = " " * (width - cell_len(text))
    whole = style.copy() if style is not None else Text(text)
    return Text.assemble(whole, room) if is_left else Text.assemble(room, whole)
