"""The account of a stream: its cost so far, and whether it is whole.

Until a service reports its usage, an answer costs the tokens of its pieces, each counted by itself with our tokenizer:
exact if each is a token, a little more if words are cut. The reported usage replaces the count unless it can't be true.

`chunk_account` and `responses_api_account` are the two kinds.
"""

from __future__ import annotations

from typing import Any, Protocol

from limiter_node.tokens.vocabulary import counter_of
from limiter_node.upstream.gateway.cost.output_texts import piece_tokens, unread_tokens
from limiter_node.upstream.gateway.cost.usage import Usage


class Account(Protocol):
    """Understand the events of one kind of stream, and know its cost so far."""

    is_whole: bool
    """Whether the stream is complete if the service closes it now, in order."""
    is_done: bool
    """Whether the service has marked the end of the stream."""
    is_finished: bool
    """Whether all output has come; the usage may still follow."""
    error: Any
    """The event that broke the stream off, as `find_event_error` returns it; None if none did."""
    input_tokens: int
    """The input tokens that the service reported; 0 if it reported none."""
    reported_reasoning: bool
    """Whether the service reported reasoning tokens: its model produces output that may not be shown."""
    plain_text: str | None
    """The text that the last event added, if it did nothing else; the next such events may come by `add_text`."""
    plain_name: str
    """The field that holds `plain_text`."""

    @property
    def output_tokens(self) -> int:
        """The cost of the output so far."""
        ...

    @property
    def has_usage(self) -> bool:
        """Whether the service has reported the cost of all output so far, so that nothing has to be waited for."""
        ...

    def note(self, fields: dict[str, Any]) -> dict[str, Any] | None:
        """Take in one event. Return the event for the caller: `fields`, another object in its place, or None."""
        ...

    def add_text(self, text: str) -> None:
        """Take in an event that differs from the last one in its `plain_text` only, which is `text`."""
        ...

    def note_unread(self, size: int) -> None:
        """Take in one event of `size` bytes that isn't a JSON object."""
        ...

    def note_named_error(self, data: Any) -> None:
        """Take in an event that is named ``error``, whatever it holds."""
        ...

    def note_done(self) -> None:
        """Note that ``[DONE]`` has come."""
        ...


class AccountBase:
    """Hold the state that both kinds of accounts share.

    `at_most`: the bound of the count here, by another tokenizer than the service's.
    """

    def __init__(self, encoding: str, at_most: int) -> None:
        self._encoding, self._at_most = encoding, at_most
        self._count = counter_of(encoding)
        self._counted = 0
        self.is_whole = self.is_done = self.is_finished = False
        self.error: Any = None
        self.input_tokens = 0
        self.reported_reasoning = False
        self.plain_text: str | None = None
        self.plain_name = ""

    def add_text(self, text: str) -> None:
        """Take in an event that adds only `text`."""
        self._counted += piece_tokens(self._count, text)

    def note_unread(self, size: int) -> None:
        """Take in one event of `size` bytes that is no JSON object."""
        self._counted += unread_tokens(size)

    def note_named_error(self, data: Any) -> None:
        """Take in an event that is named ``error``."""
        if type(data) is dict and type(data.get("message")) is not str:
            self.error = data
        else:
            self.error = {"error": data or "The upstream service broke off."}

    def note_reported(self, usage: Usage) -> None:
        self.input_tokens = max(self.input_tokens, usage.input_tokens)
        self.reported_reasoning |= usage.reported_reasoning
