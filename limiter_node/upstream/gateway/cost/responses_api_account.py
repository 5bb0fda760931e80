"""The account of a stream of the Responses API's events."""

from __future__ import annotations

from typing import Any

from limiter_node.upstream.gateway.cost.account import AccountBase
from limiter_node.upstream.gateway.cost.output_texts import piece_tokens, text_tokens
from limiter_node.upstream.gateway.cost.usage import MOST_TOKENS, Usage, read_usage
from limiter_node.upstream.gateway.service_errors.error_finding import find_event_error

_ENDED = frozenset(("response.completed", "response.incomplete", "response.failed"))
_TEXT_DONE = {
    "response.output_text.done": "text",
    "response.refusal.done": "refusal",
    "response.function_call_arguments.done": "arguments",
    "response.custom_tool_call_input.done": "input",
}
"""Events that repeat a text that came in pieces, and the field that holds it."""
_SAID = frozenset(("message", "function_call", "custom_tool_call"))


class ResponsesApiAccount(AccountBase):
    """Account for the events of one answer of the Responses API. `at_most`: as of `ChunkAccount`."""

    def __init__(self, encoding: str, *, at_most: int = MOST_TOKENS) -> None:
        super().__init__(encoding, at_most)
        self._usage: Usage | None = None
        self._is_first = True
        self._counted_items: set[int] = set()
        """The items whose text has come, by their index."""
        self._has_nameless_deltas = False
        """Whether text came without the index of its item."""
        self.next_number = 0
        """The `sequence_number` of the event that would come next."""

    @property
    def output_tokens(self) -> int:
        """The tokens reported at the end, else those counted."""
        counted, usage = min(self._counted, self._at_most), self._usage
        if usage is None or usage.output_tokens is None:
            return counted
        return usage.output_tokens if usage.is_plausible(counted) else max(usage.output_tokens, counted)

    @property
    def has_usage(self) -> bool:
        """Whether the output was reported."""
        return self._usage is not None and bool(self._usage.output_tokens)

    def note(self, fields: dict[str, Any]) -> dict[str, Any] | None:
        """Take in one event. Return the event for the caller; None for none."""
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
        """Ignore ``[DONE]``: these streams have none, but some services send it."""

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
        """Count a repeated text of which no piece came, less the `counted` tokens."""
        index = fields.get("output_index")
        if type(index) is int and index not in self._counted_items and not self._has_nameless_deltas:
            self._counted_items.add(index)
            self._counted += max(0, text_tokens(said, self._encoding) - counted)

    def _note_item(self, fields: dict[str, Any], *, is_done: bool) -> None:
        """Count an item's name when it begins. Its text comes in pieces, or, from some services, when it is done."""
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
            self.note_reported(self._usage)
        else:
            said = text_tokens({"output": response.get("output")}, self._encoding)
            self._counted = max(self._counted, said)
