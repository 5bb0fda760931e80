"""The account of a stream of chunks, as chats and text completions send it."""

from __future__ import annotations

from typing import Any, Final

from limiter_node.upstream.gateway.cost.account import AccountBase
from limiter_node.upstream.gateway.cost.output_texts import piece_tokens, text_tokens
from limiter_node.upstream.gateway.cost.text_only_events import only_text
from limiter_node.upstream.gateway.cost.usage import MOST_TOKENS, Usage, read_usage
from limiter_node.upstream.gateway.service_errors.error_finding import find_event_error

_ENVELOPE: Final = frozenset(
    (
        *("id", "object", "created", "model", "choices", "usage", "service_tier", "system_fingerprint"),
        *("obfuscation", "provider", "type", "event_id"),
    )
)
"""Fields of a chunk without content: a chunk that has no others was sent for its usage."""
_MOST_CHOICES: Final = 2_048
"""The choices of one chunk that are read one by one; chats have 128 at most."""


class ChunkAccount(AccountBase):
    """Account for the chunks of a chat or a text completion.

    `hides_usage`: the caller hasn't asked for the usage. `choices`: how many come. `at_most`: the bound of a count,
    which is by another tokenizer than the service's; a reported usage has no bound.
    """

    def __init__(self, encoding: str, *, hides_usage: bool, choices: int, at_most: int = MOST_TOKENS) -> None:
        super().__init__(encoding, at_most)
        self._hides_usage, self._choices = hides_usage, choices
        self._usage: Usage | None = None
        self._counted_at_report = 0
        self._open: set[int] = set()
        self._finished: set[int] = set()
        self._is_first = True

    @property
    def output_tokens(self) -> int:
        """The reported usage, unless pieces came since; some services report one choice's usage for all."""
        counted, usage = min(self._counted, self._at_most), self._usage
        if usage is None or usage.output_tokens is None:
            return counted
        is_final = self._counted_at_report == self._counted and self._choices == 1
        return usage.output_tokens if is_final and usage.is_plausible(counted) else max(usage.output_tokens, counted)

    @property
    def has_usage(self) -> bool:
        """Whether the output was reported, and nothing came since."""
        usage = self._usage
        return (
            usage is not None
            and bool(usage.output_tokens)
            and self._counted_at_report == self._counted
            and usage.is_plausible(min(self._counted, self._at_most))
        )

    def note(self, fields: dict[str, Any]) -> dict[str, Any] | None:
        """Take in one chunk. Return the chunk for the caller; None for none."""
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
        """Note that ``[DONE]`` has come."""
        self.is_whole = self.is_done = self.is_finished = True

    def _is_error(self, fields: dict[str, Any]) -> bool:
        error = find_event_error(fields, is_first=self._is_first)
        if error is not None:
            self.error = error
        return error is not None

    def _note_usage(self, fields: dict[str, Any], usage: Any) -> dict[str, Any] | None:
        reported = read_usage(usage)
        if reported is None:
            return fields
        self.note_reported(reported)
        before = self._usage
        # A usage lower than an earlier one doesn't cover the pieces since.
        if before is None or (reported.output_tokens or 0) >= (before.output_tokens or 0):
            self._usage, self._counted_at_report = reported, self._counted
        if not self._hides_usage or fields.get("choices") or "usage" not in fields:
            return fields
        if any(value is not None and name not in _ENVELOPE for name, value in fields.items()):
            return {name: value for name, value in fields.items() if name != "usage"}
        return None

    def _note_choice(self, choice: dict[str, Any]) -> str | None:
        """Count a choice's text. Return it if the choice holds nothing else."""
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
        """Note the choice's index, and whether the choice has ended."""
        index = choice.get("index")
        if type(index) is not int:
            index = 0
        if choice.get("finish_reason"):  # some services send "" before there is one
            # Some services end without ``[DONE]``, and some with fewer choices than were asked for.
            self._finished.add(index)
            self._open.discard(index)
            self.is_finished = len(self._finished) >= self._choices and not self._open
            self.is_whole = self.is_done or not self._open
            return None
        if index not in self._finished and index not in self._open:
            self._open.add(index)
            self.is_whole = self.is_done
        return plain
