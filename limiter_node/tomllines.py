"""The line of a table or field in a TOML document, for messages: the standard library's parser doesn't tell it.

The document must have been parsed already. Headers of tables and fields are found where each has a line of its own, as
people write them. A field in an inline table of several lines is found at the line of that table, and an entry of a
list of several lines at its last line.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import islice, takewhile
from typing import Any

_NO_TABLE = ("\n",)
"""No path begins with this."""
_MAX_LIST_LINES = 200
"""Each line of a list is parsed with all before it: in longer lists an entry isn't looked for."""
_MOST_SIGNS = 8
"""A field's name may have an equals sign in it, but hardly more than some."""


def line_of(text: str, path: Sequence[str | int]) -> int | None:
    """Return the line (from 1) of what `path` names in `text`, else of the nearest table around it, else None.

    A number in `path` stands for an entry of a list, from 1; of the names behind it nothing is known. O(lines) of
    looking, and parses only lines that hold one of the names or an escape: some ms for 100,000 keys.
    """
    names = tuple(takewhile(lambda each: isinstance(each, str), path))
    lines = text.split("\n")
    line, is_found = _line_of_names(lines, tuple(map(str, names)))
    entry = path[len(names)] if len(names) < len(path) else 0
    if is_found and line is not None and isinstance(entry, int) and entry:
        return _line_of_entry(lines, line, tuple(map(str, names)), entry)
    return line


def _line_of_names(lines: Sequence[str], path: tuple[str, ...]) -> tuple[int | None, bool]:
    """Return the line, and whether it is that of all of `path`."""
    best: tuple[int, int] | None = None  # how much of the path, and where
    table: tuple[str, ...] = ()
    for number, line in enumerate(lines, 1):
        stripped = line.strip()
        is_header = stripped.startswith("[")
        if not is_header and table != path[: len(table)]:
            continue
        # Headers of other tables of the same one, as those of other keys, are most of a file.
        names = path[1:] or path if is_header and "." in stripped else path[0 if is_header else len(table) :]
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
            return best[1], True
    return None if best is None else best[1], False


def _line_of_entry(lines: Sequence[str], number: int, path: tuple[str, ...], entry: int) -> int:
    """Return the line of an entry of the list that begins in line `number`, or that line if it isn't found."""
    if lines[number - 1].strip().startswith("[["):
        headers = [
            each
            for each in range(number, len(lines) + 1)
            if lines[each - 1].strip().startswith("[[") and path in _paths(lines[each - 1].strip())
        ]
        return headers[entry - 1] if entry <= len(headers) else number
    for last in range(number, min(number + _MAX_LIST_LINES, len(lines)) + 1):
        part = "\n".join(lines[number - 1 : last]).strip()
        if _list_length(part) is not None:
            return last  # the list ends here
        if (_list_length(f"{part}\n]") or 0) >= entry:
            return last
    return number


def _list_length(text: str) -> int | None:
    """Return how many entries the list has that is the one value of `text`; None if `text` isn't whole."""
    try:
        value: Any = tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return None
    while isinstance(value, dict) and value:
        value = next(iter(value.values()))
    return len(value) if isinstance(value, list) else 0


def _paths(line: str) -> list[tuple[str, ...]]:
    """Return the paths that a line names, the longest first; none for a line that is only a part of a value."""
    for text in (line, *_beginnings(line)):
        with suppress(tomllib.TOMLDecodeError):
            return sorted(_within(tomllib.loads(text), ()), key=len, reverse=True)
    return []


def _beginnings(line: str) -> Iterator[str]:
    """Yield the fields that a line may begin whose value ends in a later one, as ``limits = [``."""
    if not line.startswith("["):
        signs = (at for at, character in enumerate(line) if character == "=")
        yield from (f"{line[:at]}= 0" for at in islice(signs, _MOST_SIGNS))


def _within(value: dict[str, Any], before: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    for name, inner in value.items():
        yield (*before, name)
        if isinstance(inner, dict):
            yield from _within(inner, (*before, name))
