"""What an upstream is asked, what it gives back, and how it fails.

The request type lives here, below `limiter_node.http` that makes it and beside the upstreams that read it, so that
imports point downward only.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from typing import Any, NamedTuple, Protocol, TypeAlias

from limiter_node.model import LimiterError


class ForcedTool(NamedTuple):
    """The tool that an answer must call."""

    kind: str
    """``function`` or ``custom``."""
    name: str
    parameters: dict[str, Any] | None
    """The JSON schema of a function's arguments, as it was sent; None where there is none."""


class AnswerForm(NamedTuple):
    """What a request says about the form of its answer beside its length. Plain prose has none of this."""

    stop: tuple[str, ...] = ()
    """The answer ends before the first of these; none is empty."""
    tool: ForcedTool | None = None
    json_schema: dict[str, Any] | None = None
    """The answer is JSON that fits this schema; ``{"type": "object"}`` for any object."""


class ChatRequest(NamedTuple):
    """One valid chat completion request. A tuple because one is made per request."""

    model: str
    n: int
    """Choices asked for, 1 to 128."""
    cap: int | None
    """The caller's cap on the tokens of each choice; None where it set none."""
    stream: bool
    include_usage: bool
    input_tokens: int
    body: dict[str, Any]
    """The request as it was sent, unknown fields included. Duplicate fields: the last one."""
    form: AnswerForm | None = None
    """None for plain prose, so that plain requests pay for no look at it."""

    @property
    def messages(self) -> list[dict[str, Any]]:
        """The conversation, checked."""
        messages: list[dict[str, Any]] = self.body["messages"]
        return messages


class CompletionRequest(NamedTuple):
    """One valid text completion request, of one or more prompts."""

    model: str
    n: int
    """Choices asked for in all: those of each prompt, prompts in order."""
    reserved_choices: int
    """Choices that may be produced in all: more than `n` where `best_of` asks for it."""
    cap: int | None
    stream: bool
    include_usage: bool
    input_tokens: int
    body: dict[str, Any]
    echoes: tuple[str, ...] = ()
    """The prompts as text, where the caller wants them back before the answers."""
    form: AnswerForm | None = None


class ResponsesRequest(NamedTuple):
    """One valid request of the Responses API."""

    model: str
    cap: int | None
    stream: bool
    input_tokens: int
    body: dict[str, Any]
    form: AnswerForm | None = None

    @property
    def n(self) -> int:
        """The Responses API answers once."""
        return 1


TextRequest: TypeAlias = ChatRequest | CompletionRequest | ResponsesRequest
"""What is answered by text, and may be streamed."""


class EmbeddingRequest(NamedTuple):
    """One valid embedding request."""

    model: str
    inputs: Sequence[str | list[int]]
    """Texts, or lists of tokens."""
    dimensions: int | None
    base64: bool
    input_tokens: int
    body: dict[str, Any]

    @property
    def stream(self) -> bool:
        """Embeddings are not streamed."""
        return False


class ToolCall(NamedTuple):
    """A call of a tool, as answered."""

    kind: str
    """``function`` or ``custom``."""
    name: str
    payload: str
    """A function's arguments, JSON; a custom tool's input, free text."""


class Completion(NamedTuple):
    """A whole answer: one content, finish reason and token count per choice, and the sum of the counts."""

    contents: tuple[str, ...]
    finish_reasons: tuple[str, ...]
    """``stop``, ``length`` where the cap cut it, or ``tool_calls``."""
    choice_tokens: tuple[int, ...]
    completion_tokens: int
    """What the reservation is settled to. Exact: tokenizing the contents, the names and the payloads gives it."""
    system_fingerprint: str
    tool_calls: tuple[tuple[ToolCall, ...], ...] = ()
    """Per choice; empty where no choice calls. The content of a choice that calls is empty."""


class Embeddings(NamedTuple):
    """The vectors for the inputs of an embedding request, in their order."""

    vectors: tuple[bytes, ...]
    """Each rendered for the response: a JSON array of numbers, or a JSON string of base64 little-endian float32."""

    @property
    def completion_tokens(self) -> int:
        """None are produced."""
        return 0


class Delta(NamedTuple):
    """The next piece of one choice of an answer that comes as a stream."""

    choice: int
    """Which choice, from 0 on."""
    text: str
    """May be empty, where only the finish reason is new."""
    tokens: int
    """What this piece adds to the output. The tokens of all pieces of all choices are what the answer is charged."""
    finish_reason: str | None
    """Set with the last piece of a choice, and only there."""
    tool_calls: tuple[ToolCall, ...] = ()
    """Come whole, with the last piece."""


Deltas = AsyncGenerator[Sequence[Delta], None]
"""An answer as it comes: each item holds the pieces that came together, so that they can be passed on in one write."""


class UpstreamError(LimiterError):
    """Raised when an upstream fails. `produced_tokens` were produced, and are to be paid for, before it did."""

    def __init__(self, message: str, *, status: int = 502, produced_tokens: int = 0) -> None:
        super().__init__(message)
        self.status = status
        """The HTTP status that says best what happened."""
        self.produced_tokens = produced_tokens


class Upstream(Protocol):
    """A service that answers what OpenAI's routes ask.

    `request_id` is the request's `x-request-id`, for the upstream's own records.
    """

    system_fingerprint: str | None
    """What streams tell about the model's configuration, in their first piece already."""

    async def chat(self, request: ChatRequest, cap_per_choice: int, request_id: str) -> Completion:
        """Answer `request`; no choice may exceed `cap_per_choice` tokens. Raises `UpstreamError`."""
        ...

    async def complete(self, request: CompletionRequest, cap_per_choice: int, request_id: str) -> Completion:
        """Answer `request`, `request.n` choices; else as `chat`."""
        ...

    async def respond(self, request: ResponsesRequest, cap: int, request_id: str) -> Completion:
        """Answer `request`, one choice; else as `chat`."""
        ...

    def stream(self, request: TextRequest, cap_per_choice: int, request_id: str) -> Deltas:
        """Answer `request` piece by piece; the pieces of a choice, joined, are what the whole answer would have been.

        The iteration raises `UpstreamError`. Whoever stops iterating before the end closes the generator, which stops
        the work behind it. The upstream is not asked for more while the caller doesn't take what came.
        """
        ...

    async def embed(self, request: EmbeddingRequest, request_id: str) -> Embeddings:
        """The vectors for `request.inputs`. Raises `UpstreamError`."""
        ...

    async def models(self) -> tuple[str, ...]:
        """The names of the models served. Raises `UpstreamError`."""
        ...

    async def close(self) -> None:
        """Let go of connections. Idempotent."""
        ...
