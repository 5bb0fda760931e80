"""The cost of a whole answer, known at its end; only as much of the answer is kept as can be read."""

from __future__ import annotations

import re
from collections import deque
from typing import Any, Final

from limiter_node.errors import Overloaded
from limiter_node.held import Hold
from limiter_node.upstream.gateway.cost.output_texts import text_tokens, unread_tokens
from limiter_node.upstream.gateway.cost.usage import MOST_TOKENS, Usage, read_usage
from limiter_node.upstream.gateway.lenient_json import object_at, read_json, to_text

MAX_READ_BYTES: Final = 1024 * 1024
"""A longer answer isn't read: 1 MiB of JSON holds the event loop for some 10 ms. Chats that long hold pictures, audio
or log probabilities; 100 MB of embeddings are no output."""
EDGE_BYTES: Final = 64 * 1024
"""The bytes at the beginning and at the end of a longer answer that are searched for its usage."""

_ENVELOPE_BYTES = 512
_BYTES_PER_REPORTED = 24
"""Up to so many bytes per reported token, an answer has no text for which its usage would be implausible."""
_MOST_USAGES = 8
_USAGE = re.compile(r'"usage"\s*:\s*(?=\{)')


class WholeReader:
    """Learn the cost of a whole answer: `feed` its parts, then `finish`.

    `has_output`: false for embeddings, which cost input only. `choices`: how many come. `at_most`: the bound of a
    count, which is by another tokenizer than the service's; a reported usage has no bound.

    An answer beyond `MAX_READ_BYTES` is charged its reported usage. An answer that can't be read and reports none, or
    for which `hold` has no room, is charged a token per four bytes, up to `at_most`.
    """

    def __init__(
        self,
        encoding: str,
        *,
        choices: int = 1,
        at_most: int = MOST_TOKENS,
        has_output: bool = True,
        hold: Hold | None = None,
    ) -> None:
        self._hold = hold
        self._encoding, self._choices, self._at_most, self._has_output = encoding, choices, at_most, has_output
        self._parts: list[bytes] = []
        self._size = 0
        self._head = b""
        """The beginning of an answer that is too long to be read."""
        self._tail: deque[bytes] = deque()
        self._tail_size = 0
        self._is_long = False
        self._output_tokens: int | None = None
        self.input_tokens = 0
        """The input tokens that the service reported; 0 if it reported none."""
        self.reported_reasoning = False
        self.has_usage = False
        """Whether the service reported the cost of the output (of embeddings: the input)."""

    @property
    def output_tokens(self) -> int:
        """The output tokens of the answer; until it is finished, an estimate by its bytes."""
        return self._unread() if self._output_tokens is None else self._output_tokens

    def feed(self, data: bytes) -> None:
        """Take in the next part of the answer."""
        self._size += len(data)
        if not self._is_long:
            self._parts.append(data)
            if self._size <= MAX_READ_BYTES and self._has_room(len(data)):
                return
            self._is_long = True
            if self._hold is not None:
                self._hold.release()
            data = b"".join(self._parts)
            self._parts.clear()
            self._head, data = data[:EDGE_BYTES], data[EDGE_BYTES:]
        data = data[-EDGE_BYTES:]
        self._tail.append(data)
        self._tail_size += len(data)
        while self._tail_size - len(self._tail[0]) >= EDGE_BYTES:
            self._tail_size -= len(self._tail.popleft())

    def _has_room(self, size: int) -> bool:
        try:
            if self._hold is not None:
                self._hold.take(size)
        except Overloaded:
            return False
        return True

    def finish(self) -> None:
        """Read the parts: the answer has ended, in order or not."""
        body = b"".join(self._parts)
        self._parts.clear()
        fields: Any = None
        if not self._is_long:
            try:
                fields = read_json(body)
            except ValueError:
                self._head = body
        if type(fields) is dict:
            usage = _usage_of(fields)
        else:
            usage = _last_usage(b"".join(self._tail)) or _last_usage(self._head)
        if usage is not None:
            self.input_tokens, self.reported_reasoning = usage.input_tokens, usage.reported_reasoning
        self._output_tokens = self._cost(usage, fields, len(body)) if self._has_output else 0
        if usage is not None:
            self.has_usage = not self._has_output or bool(usage.output_tokens)
        self._head = b""
        self._tail.clear()

    def _cost(self, usage: Usage | None, fields: Any, size: int) -> int:
        reported = None if usage is None else usage.output_tokens
        if type(fields) is not dict:
            return reported or self._unread()
        # Some services report one choice's usage for all.
        if reported and self._choices == 1 and size <= _ENVELOPE_BYTES + reported * _BYTES_PER_REPORTED:
            return reported  # counting takes longer than all the rest
        counted = min(text_tokens(fields, self._encoding), self._at_most)
        if usage is not None and reported is not None and self._choices == 1 and usage.is_plausible(counted):
            return reported
        return max(reported or 0, counted)

    def _unread(self) -> int:
        return min(unread_tokens(self._size), self._at_most) if self._has_output else 0


def _usage_of(fields: dict[str, Any]) -> Usage | None:
    usage = fields.get("usage")
    if usage is None and type(choices := fields.get("choices")) is list:
        usage = next((each["usage"] for each in choices if type(each) is dict and each.get("usage")), None)
    return read_usage(usage)


def _last_usage(edge: bytes) -> Usage | None:
    """Return the last usage in a part of an answer. Quotes in strings are escaped, so no text looks like a usage."""
    text, last = to_text(edge), None
    for found in deque(_USAGE.finditer(text), _MOST_USAGES):
        try:
            usage = read_usage(object_at(text, found.end()))
        except ValueError:
            continue
        last = usage or last
    return last
