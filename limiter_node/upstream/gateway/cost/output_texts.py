"""The strings of an answer that are output: one rule for whole answers and for the pieces of streams.

Output is the text of a message (a string or a list of parts), a refusal, reasoning, the transcript of audio, and the
calls of tools with their names. Services that show reasoning often show it under several names; it counts once. Fields
that only describe an answer (ids, annotations, citations, log probabilities, encrypted reasoning) aren't output.
"""

from __future__ import annotations

from typing import Any, Final

from limiter_node.tokens.vocabulary import TokenCounter, counter_of, well_formed
from limiter_node.upstream.gateway.lenient_json import write_json

BYTES_PER_TOKEN: Final = 4
"""Bytes per token of data that can't be read: English has some four; of JSON, a part is quotes."""

_TEXT, _CONTAINER, _BOTH, _REASONING, _CALLED, _ARGUMENTS, _CALLS, _NAME = range(8)
_KINDS: Final = {
    **dict.fromkeys(("text", "refusal", "transcript", "code", "query"), _TEXT),
    **dict.fromkeys(
        ("message", "delta", "choices", "output", "executed_tools", "audio", "action", "queries"), _CONTAINER
    ),
    **dict.fromkeys(("content", "summary"), _BOTH),
    **dict.fromkeys(("reasoning_content", "reasoning", "thinking", "reasoning_details", "thinking_blocks"), _REASONING),
    **dict.fromkeys(("function", "custom", "function_call"), _CALLED),
    **dict.fromkeys(("arguments", "input"), _ARGUMENTS),
    "tool_calls": _CALLS,
    "name": _NAME,
}
"""The content of an answer's field: a text, other fields, or either; reasoning, as a text or a list of parts (several
names hold the same reasoning, so the longest text counts, else the first list); a call of a tool."""
_REASONING_TEXTS: Final = ("reasoning_content", "reasoning", "thinking")
_NO_TEXT_OF_CALLS: Final = frozenset(("id", "type", "index", "status", *_KINDS))


MAX_COUNTED_CHARS: Final = 65_536
"""The most characters to count of a text, or of all texts of one answer; the rest is extrapolated.
Counting holds the event loop, some 2 ms for these, at worst 6."""
_CHARS_PER_TEXT: Final = 16
"""Characters that take as long to count as a text of one: there may be 200,000 such texts."""


def unread_tokens(size: int) -> int:
    """Return the tokens of `size` bytes that cannot be read: one per `BYTES_PER_TOKEN`, rounded up."""
    return -(-size // BYTES_PER_TOKEN)


def text_tokens(answer: Any, encoding: str) -> int:
    """Return the output tokens of `answer`, a whole answer or any part of one; any JSON has a count. O(length)."""
    count = _BoundedCounter(counter_of(encoding))
    tokens = _walk(answer, count)
    return tokens + count.extrapolated_tokens()


def piece_tokens(counter: TokenCounter, text: str) -> int:
    """Return the tokens of `text`, which may hold lone surrogates, and may be long."""
    if len(text) > MAX_COUNTED_CHARS:
        counted = piece_tokens(counter, text[:MAX_COUNTED_CHARS])
        return -(-counted * len(text) // MAX_COUNTED_CHARS)
    try:
        return counter(text)
    except UnicodeEncodeError:
        return counter(well_formed(text))


class _BoundedCounter:
    """Count up to `MAX_COUNTED_CHARS` in all, and extrapolate the rest."""

    __slots__ = ("_chars", "_counter", "_room", "_tokens", "_uncounted")

    def __init__(self, counter: TokenCounter) -> None:
        self._counter = counter
        self._room = MAX_COUNTED_CHARS
        self._chars = self._tokens = self._uncounted = 0

    def __call__(self, text: str) -> int:
        room = self._room
        if room <= 0:
            self._uncounted += len(text)
            return 0
        if len(text) > room:
            self._uncounted += len(text) - room
            text = text[:room]
        self._chars += len(text)
        self._room = room - len(text) - _CHARS_PER_TEXT
        try:
            tokens = self._counter(text)
        except UnicodeEncodeError:
            tokens = self._counter(well_formed(text))
        self._tokens += tokens
        return tokens

    def extrapolated_tokens(self) -> int:
        """The estimated tokens of the characters not counted."""
        return -(-self._uncounted * self._tokens // self._chars) if self._uncounted else 0


def _walk(answer: Any, count: TokenCounter) -> int:
    """Return the tokens of `answer`. Not recursive: services may nest as deeply as they like."""
    if type(answer) is dict:
        waiting: list[Any] = []
        tokens = _fields_tokens(answer, count, waiting)
    else:
        waiting, tokens = [answer], 0
    while waiting:
        part = waiting.pop()
        if type(part) is dict:
            tokens += _fields_tokens(part, count, waiting)
        elif type(part) is list:
            waiting += part
        elif part and type(part) is str:
            tokens += count(part)
    return tokens


def _fields_tokens(part: dict[str, Any], count: TokenCounter, waiting: list[Any]) -> int:
    """Count the texts of `part`; put values that hold others into `waiting`."""
    tokens = 0
    called, reasoning, has_reasoning = "", "", False
    for name, value in part.items():
        if not value or (kind := _KINDS.get(name)) is None:
            continue
        if type(value) is str:
            if kind in (_TEXT, _BOTH, _ARGUMENTS):
                tokens += count(value)
            elif kind == _REASONING:
                reasoning = max(reasoning, value, key=len)
            elif kind == _NAME:
                called = value
        elif type(value) is list or type(value) is dict:
            if kind in (_CONTAINER, _BOTH):
                waiting.append(value)
            elif kind == _CALLED:
                waiting.append(value)
                tokens += _bare_name_tokens(value, count)
            elif kind == _CALLS:
                tokens += _calls_tokens(value, count, waiting)
            elif kind == _ARGUMENTS and type(part.get("name")) is str:
                tokens += _json_tokens(value, count)
            elif kind == _REASONING and type(value) is list and not has_reasoning:
                has_reasoning = not any(part.get(other) and type(part[other]) is str for other in _REASONING_TEXTS)
                if has_reasoning:
                    waiting.append(value)
    if reasoning:
        tokens += count(reasoning)
    if called and ("arguments" in part or "input" in part):
        tokens += count(called)
    return tokens


def _bare_name_tokens(call: Any, count: TokenCounter) -> int:
    """Return the tokens of a call that is only a name, as in a stream's first piece of a call."""
    if type(call) is not dict or "arguments" in call or "input" in call:
        return 0
    name = call.get("name")
    return count(name) if name and type(name) is str else 0


def _calls_tokens(calls: Any, count: TokenCounter, waiting: list[Any]) -> int:
    """Put calls into `waiting`; count calls of unknown kinds.

    For example ``{"type": "web_search", "web_search": {"query": …}}``: its unknown fields are counted as JSON.
    """
    tokens = 0
    waiting.append(calls)
    for call in calls if type(calls) is list else ():
        if type(call) is dict and "function" not in call and "custom" not in call:
            for name, value in call.items():
                if value and name not in _NO_TEXT_OF_CALLS:
                    if type(value) is str:
                        tokens += count(value)
                    elif type(value) is dict or type(value) is list:
                        tokens += _json_tokens(value, count)
    return tokens


def _json_tokens(value: Any, count: TokenCounter) -> int:
    try:
        return count(write_json(value).decode())
    except ValueError:  # nested too deeply
        return 1
