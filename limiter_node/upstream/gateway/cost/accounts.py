"""The cost of a stream so far, and whether it is whole: accounts of chunks, and of the Responses API's events.

Until a service tells its usage, an answer costs what its pieces are by our tokenizer, each for itself: exact where each
is a token, at most a little more where words are cut. What the service tells takes its place, unless it can't be true.
"""

from __future__ import annotations

from typing import Any, Final, Protocol

from limiter_node.tokens.counting import counter_of
from limiter_node.upstream.gateway.cost.output_texts import piece_tokens, text_tokens, unread_tokens
from limiter_node.upstream.gateway.cost.text_only_events import only_text
from limiter_node.upstream.gateway.cost.usage import MOST_TOKENS, Usage, read_usage
from limiter_node.upstream.gateway.said import find_event_error

_ENVELOPE: Final = frozenset(
    (
        *("id", "object", "created", "model", "choices", "usage", "service_tier", "system_fingerprint"),
        *("obfuscation", "provider", "type", "event_id"),
    )
)
"""Fields of a chunk that say nothing of their own: one that has no others is there for its usage."""


_MOST_CHOICES: Final = 2_048
"""Of one chunk that are looked at one by one; chats have 128 at most."""


class Account(Protocol):
    """Understands one kind of stream."""

    is_whole: bool
    """Whether nothing is missing if the service closes its stream now, in order."""
    is_done: bool
    """Whether the service has said so: nothing more is to come."""
    is_finished: bool
    """Whether all output has come; the usage may still follow."""
    error: Any
    """The event that broke it off, as JSON; None as long as nothing did. See `limiter_node.upstream.gateway.said`."""
    input_tokens: int
    """The input that the service told; 0 if it told none."""
    told_reasoning: bool
    """Whether the service told reasoning tokens: its model produces output that may not be shown."""
    plain_text: str | None
    """The text that the event noted last has added, where it did nothing else; such events may come by `add_text`."""
    plain_name: str
    """The field that holds `plain_text`."""

    @property
    def output_tokens(self) -> int:
        """Of the output so far."""
        ...

    @property
    def has_usage(self) -> bool:
        """Whether the service has told what all output so far costs: nothing has to be waited for."""
        ...

    def note(self, fields: dict[str, Any]) -> dict[str, Any] | None:
        """Take in one event. Return what the caller sees: `fields`, another object in their place, None for nothing."""
        ...

    def add_text(self, text: str) -> None:
        """Take in an event that differs from the one noted last in nothing but its `plain_text`, which is `text`."""
        ...

    def note_unread(self, size: int) -> None:
        """Take in one event of `size` bytes that is no JSON object."""
        ...

    def note_named_error(self, data: Any) -> None:
        """Take in an event that is named ``error``, whatever it says."""
        ...

    def note_done(self) -> None:
        """``[DONE]`` has come."""
        ...


class _Counted:
    """The part that both accounts share. `at_most`: bound of a count by another tokenizer than the service's."""

    def __init__(self, encoding: str, at_most: int) -> None:
        self._encoding, self._at_most = encoding, at_most
        self._count = counter_of(encoding)
        self._counted = 0
        self.is_whole = self.is_done = self.is_finished = False
        self.error: Any = None
        self.input_tokens = 0
        self.told_reasoning = False
        self.plain_text: str | None = None
        self.plain_name = ""

    def add_text(self, text: str) -> None:
        """Take in an event that says nothing but `text`."""
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

    def _note_told(self, usage: Usage) -> None:
        self.input_tokens = max(self.input_tokens, usage.input_tokens)
        self.told_reasoning |= usage.told_reasoning


class ChunkAccount(_Counted):
    """Chunks of chats and text completions.

    `hides_usage`: the caller hasn't asked for it. `choices`: how many come. `at_most`: what a count is held to,
    which is by another tokenizer than the service's; what is told isn't.
    """

    def __init__(self, encoding: str, *, hides_usage: bool, choices: int, at_most: int = MOST_TOKENS) -> None:
        super().__init__(encoding, at_most)
        self._hides_usage, self._choices = hides_usage, choices
        self._usage: Usage | None = None
        self._counted_when_told = 0
        self._open: set[int] = set()
        self._finished: set[int] = set()
        self._is_first = True

    @property
    def output_tokens(self) -> int:
        """Return what was told, unless pieces came since; some services tell one choice's usage for all."""
        counted, usage = min(self._counted, self._at_most), self._usage
        if usage is None or usage.output_tokens is None:
            return counted
        is_final = self._counted_when_told == self._counted and self._choices == 1
        return usage.output_tokens if is_final and usage.is_plausible(counted) else max(usage.output_tokens, counted)

    @property
    def has_usage(self) -> bool:
        """Whether output was told, and nothing came since."""
        usage = self._usage
        return (
            usage is not None
            and bool(usage.output_tokens)
            and self._counted_when_told == self._counted
            and usage.is_plausible(min(self._counted, self._at_most))
        )

    def note(self, fields: dict[str, Any]) -> dict[str, Any] | None:
        """Take in one chunk."""
        choices = fields.get("choices")
        self.plain_text = None
        if (not choices or "error" in fields) and self._is_error(fields):
            return None
        self._is_first = False
        if type(choices) is list and len(choices) <= _MOST_CHOICES:
            usage = fields.get("usage")
            for choice in choices:
                if type(choice) is dict:
                    if choice.get("error") and self._is_error(fields):
                        return None
                    text = self._note_choice(choice)
                    usage = usage or choice.get("usage")  # Moonshot's place for it
            if usage is None and len(choices) == 1 and type(choices[0]) is dict:
                self.plain_text = text
        elif choices is not None:
            self._counted += text_tokens(choices, self._encoding)
            usage = fields.get("usage")
        else:
            usage = fields.get("usage")
            if usage is None:
                self._counted += text_tokens(fields, self._encoding)
        if usage is None and type(other := fields.get("x_groq")) is dict:
            usage, self.plain_text = other.get("usage"), None
        return fields if usage is None else self._note_usage(fields, usage)

    def note_done(self) -> None:
        """``[DONE]`` has come."""
        self.is_whole = self.is_done = self.is_finished = True

    def _is_error(self, fields: dict[str, Any]) -> bool:
        error = find_event_error(fields, is_first=self._is_first)
        if error is not None:
            self.error = error
        return error is not None

    def _note_usage(self, fields: dict[str, Any], usage: Any) -> dict[str, Any] | None:
        told = read_usage(usage)
        if told is None:
            return fields
        self._note_told(told)
        before = self._usage
        # One that tells less than another before it says nothing of what came since.
        if before is None or (told.output_tokens or 0) >= (before.output_tokens or 0):
            self._usage, self._counted_when_told = told, self._counted
        if not self._hides_usage or fields.get("choices") or "usage" not in fields:
            return fields
        if any(value is not None and name not in _ENVELOPE for name, value in fields.items()):
            return {name: value for name, value in fields.items() if name != "usage"}
        return None

    def _note_choice(self, choice: dict[str, Any]) -> str | None:
        """Count a choice's text; return it if it is all that the choice says."""
        delta = choice.get("delta")
        plain: str | None = None
        if type(delta) is dict:
            text = delta.get("content")
            if type(text) is str and (len(delta) == 1 or (len(delta) == 2 and "role" in delta)):
                plain, self.plain_name = text, "content"
                if text:
                    self._counted += piece_tokens(self._count, text)
            elif delta:
                if (said := only_text(delta)) is not None:
                    self.plain_name, plain = said
                    self._counted += piece_tokens(self._count, plain)
                else:
                    self._counted += text_tokens(delta, self._encoding)
            if not text and ("text" in choice or "message" in choice):
                plain = None
                self._counted += text_tokens({"text": choice.get("text")}, self._encoding)
                if not self._counted:
                    self._counted += text_tokens(choice.get("message"), self._encoding)
        elif delta is not None:
            self._counted += text_tokens(delta, self._encoding)
        else:  # `text` of completions; a whole `message`, as some services stream it
            self._counted += text_tokens(choice, self._encoding)
        return self._note_place(choice, plain)

    def _note_place(self, choice: dict[str, Any], plain: str | None) -> str | None:
        """Note which choice it was, and whether it has ended."""
        index = choice.get("index")
        if type(index) is not int:
            index = 0
        if choice.get("finish_reason"):  # some say "" where there is none yet
            # Some services end without a word more, and some with fewer choices than were asked for.
            self._finished.add(index)
            self._open.discard(index)
            self.is_finished = len(self._finished) >= self._choices and not self._open
            self.is_whole = self.is_done or not self._open
            return None
        if index not in self._finished and index not in self._open:
            self._open.add(index)
            self.is_whole = self.is_done
        return plain


_ENDED = frozenset(("response.completed", "response.incomplete", "response.failed"))
_TEXT_DONE = {
    "response.output_text.done": "text",
    "response.refusal.done": "refusal",
    "response.function_call_arguments.done": "arguments",
    "response.custom_tool_call_input.done": "input",
}
"""Events that repeat what came in pieces, and the field that has it."""
_SAID = frozenset(("message", "function_call", "custom_tool_call"))


class ResponseAccount(_Counted):
    """Events of the Responses API. `at_most`: as of `ChunkAccount`."""

    def __init__(self, encoding: str, *, at_most: int = MOST_TOKENS) -> None:
        super().__init__(encoding, at_most)
        self._usage: Usage | None = None
        self._is_first = True
        self._counted_items: set[int] = set()
        """Items whose text has come."""
        self._has_nameless_deltas = False
        """Whether text came that says of no item that it is its."""
        self.next_number = 0
        """Of the event that would come next."""

    @property
    def output_tokens(self) -> int:
        """Return the tokens told at the end, else those counted."""
        counted, usage = min(self._counted, self._at_most), self._usage
        if usage is None or usage.output_tokens is None:
            return counted
        return usage.output_tokens if usage.is_plausible(counted) else max(usage.output_tokens, counted)

    @property
    def has_usage(self) -> bool:
        """Whether output was told."""
        return self._usage is not None and bool(self._usage.output_tokens)

    def note(self, fields: dict[str, Any]) -> dict[str, Any] | None:
        """Take in one event."""
        kind, number = fields.get("type"), fields.get("sequence_number")
        if type(number) is int:
            self.next_number = number + 1
        if type(kind) is not str:
            error = find_event_error(fields, is_first=self._is_first)
            if error is not None:
                self.error = error
                return None
        elif kind.endswith(".delta"):
            self._note_delta(kind, fields)
        elif kind in ("error", "response.error"):
            self.error = {"error": fields.get("error") or fields}
            return None
        elif kind in _ENDED:
            self._note_end(fields.get("response"))
        elif kind in _TEXT_DONE:
            self._note_repeated(fields, fields.get(_TEXT_DONE[kind]))
            self.is_finished = True
        elif kind in ("response.output_item.added", "response.output_item.done"):
            self._note_item(fields, is_done=kind.endswith("done"))
        self._is_first = False
        return fields

    def note_done(self) -> None:
        """These streams have none; some services send it."""

    def _note_delta(self, kind: str, fields: dict[str, Any]) -> None:
        if "audio." in kind and "transcript" not in kind:
            return  # its bytes
        delta, index = fields.get("delta"), fields.get("output_index")
        if type(delta) is str:
            self._counted += piece_tokens(self._count, delta)
        else:
            self._counted += text_tokens(delta, self._encoding)
        if type(index) is int:
            self._counted_items.add(index)
        else:
            self._has_nameless_deltas = True
        self.is_finished = False

    def _note_repeated(self, fields: dict[str, Any], said: Any, counted: int = 0) -> None:
        """Count what is repeated where no piece of it came, as from some services; `counted` tokens of it are."""
        index = fields.get("output_index")
        if type(index) is int and index not in self._counted_items and not self._has_nameless_deltas:
            self._counted_items.add(index)
            self._counted += max(0, text_tokens(said, self._encoding) - counted)

    def _note_item(self, fields: dict[str, Any], *, is_done: bool) -> None:
        """An item tells its name when it begins; its text comes in pieces, or, from some services, when it is done."""
        item = fields.get("item")
        if type(item) is not dict:
            return
        name = item.get("name")
        named = text_tokens({"name": name, "arguments": ""}, self._encoding) if type(name) is str else 0
        if not is_done:
            self._counted += named
            self.is_finished = False
            return
        self.is_finished = item.get("type") in _SAID
        self._note_repeated(fields, item, named)

    def _note_end(self, response: Any) -> None:
        self.is_whole = self.is_done = self.is_finished = True
        if type(response) is not dict:
            return
        self._usage = read_usage(response.get("usage"))
        if self._usage is not None:
            self._note_told(self._usage)
        else:
            said = text_tokens({"output": response.get("output")}, self._encoding)
            self._counted = max(self._counted, said)
