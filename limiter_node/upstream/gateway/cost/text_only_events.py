"""Events that hold one text and nothing else new, as most of a stream: they differ in that text only.

If an event is like the one before, reading its text is enough, and takes half the time of reading all of it.
"""

from __future__ import annotations

import re
from typing import Any, Final

import orjson

_MOST_MISSES = 4
"""The template gives up after so many misses: some streams have something new in each event."""
_NAMES: Final = ("content", "refusal", "reasoning_content", "reasoning", "arguments")
_FIELDS: Final = {name: b'"%b"' % name.encode() for name in _NAMES}
_BEGINS: Final = {name: re.compile(field + b': ?"') for name, field in _FIELDS.items()}


def only_text(delta: dict[str, Any]) -> tuple[str, str] | None:
    """Return the name of the one text field of `delta`, and the text; None if `delta` holds anything else."""
    said = [name for name, value in delta.items() if value and name != "role"]
    if len(said) != 1:
        return None
    name, value = said[0], delta[said[0]]
    if name == "tool_calls":
        name, value = "arguments", _only_arguments(value)
    return (name, value) if type(value) is str and name in _FIELDS else None


def _only_arguments(calls: Any) -> Any:
    """Return the text of a piece of one call's arguments, as most pieces of calls are."""
    if type(calls) is list and len(calls) == 1 and type(call := calls[0]) is dict and "custom" not in call:
        function = call.get("function")
        if type(function) is dict and not function.get("name"):
            return function.get("arguments")
    return None


class EventTemplate:
    """Hold the bytes around the text of the last event: events with the same bytes differ in their text only."""

    __slots__ = ("_after", "_misses", "before")

    def __init__(self) -> None:
        self.before = b""
        """The bytes before the text; empty before the first event is learned."""
        self._after = b""
        self._misses = 0
        """The number of events learned since one last matched."""

    def text_of(self, data: bytes) -> str | None:
        """Return the text if `data`, which begins with `before`, is exactly one event like the template, else None."""
        before, after = self.before, self._after
        said = data[len(before) : -len(after)]
        if not data.endswith(after) or b'"' in said or b"\n" in said or b"\r" in said:
            return None
        if len(data) < len(before) + len(after):
            return None
        try:
            text: str = orjson.loads(b'"%b"' % said) if b"\\" in said else said.decode()
        except ValueError:
            return None
        self._misses = 0
        return text

    def learn(self, event: bytes, name: str, text: str) -> None:
        """Remember the bytes around `text` in `event`, if they are beyond doubt; `name` is the field that holds it."""
        self.before = b""
        if self._misses == _MOST_MISSES or event.count(_FIELDS[name]) != 1 or not event.endswith(b"\n\n"):
            return
        found = _BEGINS[name].search(event)
        if found is None:
            return
        start, end = found.end(), event.find(b'"', found.end())
        if event[start:end] == text.encode("utf-8", "replace"):
            self.before, self._after = event[:start], event[end:]
            self._misses += 1

    def forget(self) -> None:
        """Forget the last event, so that the next one is read in full."""
        self.before = b""
