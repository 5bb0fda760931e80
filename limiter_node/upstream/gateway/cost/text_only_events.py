"""Events that say one text and nothing else, as most of a stream do: they differ in nothing but that text.

Where one is as the one before was, reading its text is enough, which takes half the time of reading all of it.
"""

from __future__ import annotations

import re
from typing import Any, Final

import orjson

_MOST_MISSES = 4
"""After so many the template gives up: some streams have something new in each event."""
_NAMES: Final = ("content", "refusal", "reasoning_content", "reasoning", "arguments")
_FIELDS: Final = {name: b'"%b"' % name.encode() for name in _NAMES}
_BEGINS: Final = {name: re.compile(field + b': ?"') for name, field in _FIELDS.items()}


def only_text(delta: dict[str, Any]) -> tuple[str, str] | None:
    """Return the one text that `delta` says, after the name of its field; None where it says anything else."""
    said = [name for name, value in delta.items() if value and name != "role"]
    if len(said) != 1:
        return None
    name, value = said[0], delta[said[0]]
    if name == "tool_calls":
        name, value = "arguments", _only_arguments(value)
    return (name, value) if type(value) is str and name in _FIELDS else None


def _only_arguments(calls: Any) -> Any:
    """A piece of one call's arguments, as most pieces of calls are."""
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
        """The bytes before the text; empty while nothing is known."""
        self._after = b""
        self._misses = 0
        """How often something was learned since an event was last like it."""

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
        """Know nothing, so that the next event is read in full."""
        self.before = b""
