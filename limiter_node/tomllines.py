"""The line of a table or field in a TOML document, for messages: the standard library's parser doesn't tell it.

The document must have been parsed already. Headers of tables and fields are found where each has a line of its own, as
people write them. A field in an inline table of several lines is found at the line of that table.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from typing import Any

_NO_TABLE = ("\n",)
"""No path begins with this."""


def line_of(text: str, path: tuple[str, ...]) -> int | None:
    """Return the line (from 1) of what `path` names in `text`, else of the nearest table around it, else None.

    O(lines) of looking, and parses only lines that hold one of the names or an escape: some ms for 100,000 keys.
    """
    best: tuple[int, int] | None = None  # how much of the path, and where
    table: tuple[str, ...] = ()
    for number, line in enumerate(text.split("\n"), 1):
        stripped = line.strip()
        is_header = stripped.startswith("[")
        if not is_header and table != path[: len(table)]:
            continue
        # Headers of other tables of the same one, as those of other keys, are most of a file.
        names = path[1:] if is_header and "." in stripped else path[0 if is_header else len(table) :]
        if not any(name in stripped for name in names) and "\\" not in stripped:
            table = _NO_TABLE if is_header else table
            continue
        found = _paths(stripped)
        for each in found:
            full = each if is_header else (*table, *each)
            if full == path[: len(full)] and (best is None or len(full) > best[0]):
                best = len(full), number
        if is_header:
            table = found[0] if found else _NO_TABLE
        if best is not None and best[0] == len(path):
            break
    return None if best is None else best[1]


def _paths(line: str) -> list[tuple[str, ...]]:
    """Return the paths that a line names, the longest first; none for a line that is only a part of a value."""
    try:
        document = tomllib.loads(line)
    except tomllib.TOMLDecodeError:
        return []
    return sorted(_within(document, ()), key=len, reverse=True)


def _within(value: dict[str, Any], before: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    for name, inner in value.items():
        yield (*before, name)
        if isinstance(inner, dict):
            yield from _within(inner, (*before, name))
