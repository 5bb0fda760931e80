"""The requests that upstreams answer: one type per limited route, checked, with its count of input tokens.

`limiter_node.http.requests` reads them from bodies; `answers` has the answers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias


class CallableTool(NamedTuple):
    """Hold a tool that an answer must or may call (see `AnswerForm`)."""

    kind: str
    """``function`` or ``custom``."""
    name: str
    parameters: dict[str, Any] | None
    """The JSON schema of a function's arguments, as it was sent; None where there is none."""


class AnswerForm(NamedTuple):
    """Hold a request's wishes for the form of its answer beside the length. Plain prose has none."""

    stop: tuple[str, ...] = ()
    """The answer ends before the first of these; none is empty."""
    tool: CallableTool | None = None
    json_schema: dict[str, Any] | None = None
    """The answer is JSON that fits this schema; ``{"type": "object"}`` for any object."""
    offered: tuple[CallableTool, ...] = ()
    """The tools that the answer may call, if it must call none (`limiter_node.upstream.openai.offered_tools`)."""


class ChatRequest(NamedTuple):
    """Hold one valid chat completion request. A tuple because one is made per request."""

    model: str
    n: int
    """Choices asked for, 1 to 128."""
    cap: int | None
    """The caller's cap on the tokens of each choice; None if it set none."""
    stream: bool
    include_usage: bool
    input_tokens: int
    body: dict[str, Any]
    """The request as it was sent, unknown fields included. Duplicate fields: the last one."""
    form: AnswerForm | None = None
    """None for plain prose, so that plain requests don't pay for it."""

    @property
    def reserved_choices(self) -> int:
        """Choices that may be produced: `n`."""
        return self.n


class CompletionRequest(NamedTuple):
    """Hold one valid text completion request, of one or more prompts."""

    model: str
    n: int
    """Choices asked for in all: those of each prompt, prompts in order."""
    reserved_choices: int
    """Choices that may be produced in all: more than `n` if `best_of` asks for it."""
    cap: int | None
    stream: bool
    include_usage: bool
    input_tokens: int
    body: dict[str, Any]
    echoes: tuple[str, ...] = ()
    """The prompts as text, where the caller wants them back before the answers. None where they came as tokens."""
    form: AnswerForm | None = None


class ResponsesApiRequest(NamedTuple):
    """Hold one valid request of the Responses API."""

    model: str
    cap: int | None
    stream: bool
    input_tokens: int
    body: dict[str, Any]
    form: AnswerForm | None = None

    @property
    def n(self) -> int:
        """Choices asked for: the Responses API answers once."""
        return 1

    @property
    def reserved_choices(self) -> int:
        """Choices that may be produced: 1."""
        return 1


TextRequest: TypeAlias = ChatRequest | CompletionRequest | ResponsesApiRequest
"""The requests that are answered with text, which may be streamed."""


class EmbeddingRequest(NamedTuple):
    """Hold one valid embedding request."""

    model: str
    inputs: Sequence[str | list[int]]
    """Texts, or lists of tokens."""
    dimensions: int | None
    base64: bool
    input_tokens: int
    body: dict[str, Any]

    @property
    def stream(self) -> bool:
        """Whether to stream the answer: never, for embeddings."""
        return False


LimitedRequest: TypeAlias = TextRequest | EmbeddingRequest
"""The requests that the limited routes read."""
