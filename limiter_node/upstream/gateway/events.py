"""Event streams while they pass: what they cost so far, whether they are whole, and the usage that wasn't asked for.

Bytes pass as they came, as soon as they came, in whole events: one that isn't complete yet waits for its end. Only what
the caller didn't ask for is taken out (a chunk with nothing but the usage), and an error, which is told in its own way.

Until a service tells its usage, an answer costs what its pieces are by the tokenizer, each for itself: exact where each
is a token, at most a little more where words are cut. What a service tells at the end takes its place.
"""

from __future__ import annotations

import re
from typing import Any, Final, Protocol

import orjson

from limiter_node.tokens import counter_of
from limiter_node.upstream.gateway.usage import MOST_TOKENS, told_tokens

MAX_EVENT_BYTES: Final = 16 * 1024 * 1024
"""Of one event that isn't whole yet."""

_ENDS: Final = re.compile(rb"\r\n\r\n|\n\n|\r\r|\n\r\n|\n\r(?=[^\n])")


class TooLong(Exception):
    """Raised when an event doesn't end."""


class Account(Protocol):
    """Understands one kind of stream."""

    is_whole: bool
    """Whether the stream has said all that it had to."""
    is_done: bool
    """Whether it has said so: nothing more is to come."""
    error: Any
    """What broke it off, as the service says; None as long as nothing did."""

    @property
    def tokens(self) -> int:
        """Of the output so far."""
        ...

    def note(self, fields: dict[str, Any]) -> bool:
        """Take in one event; False if the caller isn't to see it."""
        ...

    def note_done(self) -> None:
        """``[DONE]`` has come."""
        ...


class ChunkAccount:
    """Chunks of chats and text completions.

    `hides_usage`: the caller hasn't asked for it. `choices`: how many come. `at_most`: what a count is held to,
    which is by another tokenizer than the service's; what is told isn't.
    """

    def __init__(self, encoding: str, *, hides_usage: bool, choices: int, at_most: int = MOST_TOKENS) -> None:
        self._hides_usage, self._choices, self._at_most = hides_usage, choices, at_most
        self._count = counter_of(encoding)  # JSON that orjson reads has no lone surrogates
        self._counted = 0
        self._told: int | None = None
        self._counted_when_told = 0
        self._finished = 0
        self.is_whole = self.is_done = False
        self.error: Any = None

    @property
    def tokens(self) -> int:
        """What was told, unless pieces came since; some services tell one choice's usage for all."""
        told, counted = self._told, self._counted
        if told is None:
            return min(counted, self._at_most)
        is_final, counted = self._counted_when_told == counted, min(counted, self._at_most)
        return told if is_final and self._choices == 1 else max(told, counted)

    def note(self, fields: dict[str, Any]) -> bool:
        """Take in one chunk."""
        choices = fields.get("choices")
        if type(choices) is list:
            for choice in choices:
                if type(choice) is dict:
                    self._note_choice(choice)
        elif fields.get("error"):
            self.error = fields
            return False
        usage = fields.get("usage")
        if usage is not None and (told := told_tokens(usage)) is not None:
            self._told, self._counted_when_told = told, self._counted
            return bool(choices) or not self._hides_usage
        return True

    def note_done(self) -> None:
        """``[DONE]`` has come."""
        self.is_whole = self.is_done = True

    def _note_choice(self, choice: dict[str, Any]) -> None:
        delta = choice.get("delta")
        if type(delta) is dict:
            text = delta.get("content")
            if text and type(text) is str:
                self._counted += self._count(text)
            if len(delta) > 1 or text is None:
                self._note_others(delta)
        elif (text := choice.get("text")) and type(text) is str:
            self._counted += self._count(text)
        if choice.get("finish_reason"):  # some say "" where there is none yet
            # Some services end without a word more.
            self._finished += 1
            if self._finished >= self._choices:
                self.is_whole = True

    def _note_others(self, delta: dict[str, Any]) -> None:
        """What isn't content."""
        # Some services say the same under both names.
        for text in (delta.get("reasoning_content") or delta.get("reasoning"), delta.get("refusal")):
            if text and type(text) is str:
                self._counted += self._count(text)
        calls = delta.get("tool_calls")
        if type(calls) is list:
            for call in calls:
                self._note_call(call.get("function") or call.get("custom") if type(call) is dict else None)
        self._note_call(delta.get("function_call"))

    def _note_call(self, call: Any) -> None:
        if type(call) is dict:
            for name in ("name", "arguments", "input"):
                if (text := call.get(name)) and type(text) is str:
                    self._counted += self._count(text)


class ResponseAccount:
    """Events of the Responses API. `at_most`: as of `ChunkAccount`."""

    def __init__(self, encoding: str, *, at_most: int = MOST_TOKENS) -> None:
        self._count, self._at_most = counter_of(encoding), at_most
        self._counted = 0
        self._told: int | None = None
        self.next_number = 0
        """Of the event that would come next."""
        self.is_whole = self.is_done = False
        self.error: Any = None

    @property
    def tokens(self) -> int:
        """What was told, at the end, else what was counted."""
        return min(self._counted, self._at_most) if self._told is None else self._told

    def note(self, fields: dict[str, Any]) -> bool:
        """Take in one event."""
        kind, number = fields.get("type"), fields.get("sequence_number")
        if type(number) is int:
            self.next_number = number + 1
        if type(kind) is not str:
            return True
        if kind.endswith(".delta"):
            delta = fields.get("delta")
            if type(delta) is str and "audio." not in kind:
                self._counted += self._count(delta)
        elif kind in ("response.completed", "response.incomplete", "response.failed"):
            self.is_whole = self.is_done = True
            response = fields.get("response")
            if type(response) is dict:
                self._told = told_tokens(response.get("usage"))
        elif kind == "error":
            self.error = {"error": fields.get("error") or fields}
            return False
        return True

    def note_done(self) -> None:
        """These streams have none; some services send it."""


class EventReader:
    """Takes a stream's bytes and gives back those that pass on; `account` knows what they mean."""

    def __init__(self, account: Account) -> None:
        self._account = account
        self._rest = b""

    def feed(self, data: bytes) -> bytes:
        """What passes on of `data` and of what had to wait. Raises `TooLong`."""
        if self._rest:
            data = self._rest + data
        elif data.endswith(b"\n\n") and data.find(b"\n\n") == len(data) - 2 and b"\r" not in data:
            return data if self._note(data) else b""  # one event, as most come
        if b"\r" in data:
            end = 0
            for found in _ENDS.finditer(data):
                end = found.end()
        else:
            end = data.rfind(b"\n\n") + 2
            if end == 1:
                end = 0
        self._rest = data[end:]
        if len(self._rest) > MAX_EVENT_BYTES:
            raise TooLong
        if not end:
            return b""
        whole = data[:end] if self._rest else data
        return self._passed(whole)

    def rest(self) -> bytes:
        """What is left at the end of the stream: an event without its empty line, which some services forget."""
        rest, self._rest = self._rest, b""
        return self._passed(rest) if rest else b""

    def _passed(self, whole: bytes) -> bytes:
        """`whole`, without what the caller isn't to see."""
        if b"\r" in whole:
            ends = [found.end() for found in _ENDS.finditer(whole)]
            if not ends or ends[-1] < len(whole):
                ends.append(len(whole))
            events = [whole[start:end] for start, end in zip([0, *ends], ends, strict=False)]
        else:
            events = [event + b"\n\n" for event in whole.split(b"\n\n") if event]
        kept = [event for event in events if self._note(event)]
        return whole if len(kept) == len(events) else b"".join(kept)

    def _note(self, event: bytes) -> bool:
        account = self._account
        if account.error is not None:
            return False  # what comes after an error is of no use to anybody
        if event.startswith(b"data:") and event.find(b"\n", 0, -2) < 0 and b"\r" not in event:
            data = event[5:]
        else:
            lines = [line[5:].strip() for line in event.splitlines() if line.startswith(b"data:")]
            if not lines:
                return True
            data = b"\n".join(lines)
        try:
            fields = orjson.loads(data)
        except orjson.JSONDecodeError:
            if data.strip() == b"[DONE]":
                account.note_done()
            return True
        return account.note(fields) if type(fields) is dict else True
