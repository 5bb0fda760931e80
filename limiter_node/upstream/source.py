"""Answers as data, and their sources: models that know nothing of OpenAI's formats, for example the mock.

`limiter_node.upstream.rendered` makes an upstream of a source.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from typing import NamedTuple, Protocol

from limiter_node.upstream.requests import (
    ChatRequest,
    CompletionRequest,
    EmbeddingRequest,
    ResponsesApiRequest,
    TextRequest,
)


class ToolCall(NamedTuple):
    """Hold an answer's call of a tool."""

    kind: str
    """``function`` or ``custom``."""
    name: str
    payload: str
    """A function's arguments, JSON; a custom tool's input, free text."""


class Completion(NamedTuple):
    """Hold a whole answer: one content, finish reason and token count per choice, and the sum of the counts."""

    contents: tuple[str, ...]
    finish_reasons: tuple[str, ...]
    """``stop``, ``length`` where the cap cut it, or ``tool_calls``."""
    choice_tokens: tuple[int, ...]
    completion_tokens: int
    """The tokens that the reservation is settled to. Exact: tokenizing contents, names and payloads gives them."""
    system_fingerprint: str
    tool_calls: tuple[tuple[ToolCall, ...], ...] = ()
    """Per choice; empty where no choice calls. The content of a choice that calls is empty."""


class Embeddings(NamedTuple):
    """Hold the vectors for the inputs of an embedding request, in their order."""

    vectors: tuple[bytes, ...]
    """Each rendered for the response: a JSON array of numbers, or a JSON string of base64 little-endian float32."""

    @property
    def completion_tokens(self) -> int:
        """The output tokens: 0 for embeddings."""
        return 0


class Delta(NamedTuple):
    """Hold the next piece of one choice of an answer that comes as a stream."""

    choice: int
    """The choice's index, from 0."""
    text: str
    """The text; may be empty if only the finish reason is new."""
    tokens: int
    """The tokens of this piece. The answer is charged the sum over all pieces of all choices."""
    finish_reason: str | None
    """The finish reason, in the last piece of a choice only."""
    tool_calls: tuple[ToolCall, ...] = ()
    """Whole calls, in the last piece of a choice only."""


Deltas = AsyncGenerator[Sequence[Delta], None]
"""A streamed answer: each item holds the pieces that came together, so that they can be passed on in one write."""


class Source(Protocol):
    """Make answers to the requests of OpenAI's routes. `request_id` is the request's `x-request-id`."""

    system_fingerprint: str | None
    """The fingerprint of the model's configuration, which streams send from their first piece on."""

    async def chat(self, request: ChatRequest, cap_per_choice: int, request_id: str) -> Completion:
        """Answer `request`; no choice may exceed `cap_per_choice` tokens. Raises `UpstreamError`."""
        ...

    async def complete(self, request: CompletionRequest, cap_per_choice: int, request_id: str) -> Completion:
        """Answer `request`, `request.n` choices; else as `chat`."""
        ...

    async def respond(self, request: ResponsesApiRequest, cap: int, request_id: str) -> Completion:
        """Answer `request`, one choice; else as `chat`."""
        ...

    def stream(self, request: TextRequest, cap_per_choice: int, request_id: str) -> Deltas:
        """Answer `request` piece by piece; the joined pieces of a choice are the same text as in a whole answer.

        The iteration raises `UpstreamError`. A caller that stops iterating before the end closes the generator, which
        stops the work behind it. Nothing more is made while the caller doesn't take the pieces.
        """
        ...

    async def embed(self, request: EmbeddingRequest, request_id: str) -> Embeddings:
        """Return the vectors for `request.inputs`. Raises `UpstreamError`."""
        ...

    async def models(self) -> tuple[str, ...]:
        """Return the names of the models served. Raises `UpstreamError`."""
        ...

    async def close(self) -> None:
        """Let go of connections. Idempotent."""
        ...
