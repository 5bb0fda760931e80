"""What an upstream is asked, what it gives back, and how it fails: bytes in OpenAI's format, and what they cost.

Requests live here, below `limiter_node.http` that makes them and beside the upstreams that read them, so that imports
point downward only. There are two upstreams: `rendered`, which writes out what a model in this process answers (the
mock), and `gateway`, which passes on what a service answers over HTTP.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, TypeAlias

from limiter_node.model import LimiterError


class ForcedTool(NamedTuple):
    """A tool that an answer calls: it must, or it may (`AnswerForm`)."""

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
    offered: tuple[ForcedTool, ...] = ()
    """The tools that the answer may call, where it must call none (`limiter_node.upstream.openai.offered`)."""


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
    def reserved_choices(self) -> int:
        """Choices that may be produced: `n`."""
        return self.n

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

    @property
    def reserved_choices(self) -> int:
        """Choices that may be produced: 1."""
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


LimitedRequest: TypeAlias = TextRequest | EmbeddingRequest
"""What the limited routes read."""


class Ask(NamedTuple):
    """An admitted request, as an upstream is asked it."""

    request: LimitedRequest
    body: bytes
    """As the caller sent it, unpacked; `request` is what it says."""
    reserved_tokens: int
    """Output tokens that are reserved in all: more may not be produced."""
    request_id: str
    """The `x-request-id`, for the upstream's own records."""
    headers: Mapping[str, str]
    """The caller's, unchecked but for being HTTP."""

    @property
    def cap_per_choice(self) -> int:
        """What each choice may have of what is reserved."""
        request = self.request
        return 0 if isinstance(request, EmbeddingRequest) else self.reserved_tokens // request.reserved_choices


class WholeAnswer(NamedTuple):
    """An answer that isn't streamed."""

    body: bytes
    output_tokens: int
    """What the reservation is settled to."""
    headers: str = ""
    """Lines beyond those of every decided response, each with its CRLF: checked, and safe to send."""


class Piece(NamedTuple):
    """The next part of a streamed answer."""

    data: bytes
    """Whole events, or none: what came can be for accounting only."""
    output_tokens: int
    """Of the answer so far, this piece included: what it costs if it ends here."""
    is_last: bool = False
    """Nothing follows, not even another empty piece. An answer may end without saying so."""


class AnswerStream(Protocol):
    """A streamed answer, still to come. Whoever has it closes it, begun or not, whole or not."""

    @property
    def headers(self) -> str:
        """As `WholeAnswer.headers`, the type of the content not among them."""
        ...

    def pieces(self) -> AsyncGenerator[Piece, None]:
        """The answer as it comes; to be asked for once. The upstream isn't asked for more while nobody takes it.

        The iteration raises `UpstreamError`.
        """
        ...

    def error_event(self, error: bytes) -> bytes:
        """What tells a reader of this stream that it ends here, and why: `error` is the body of such a response."""
        ...

    async def close(self) -> None:
        """Stop the work behind it, at once. Idempotent."""
        ...


class UpstreamError(LimiterError):
    """Raised when an upstream fails. `produced_tokens` were produced, and are to be paid for, before it did."""

    def __init__(
        self,
        message: str,
        *,
        status: int = 502,
        produced_tokens: int = 0,
        body: bytes | None = None,
        headers: str = "",
    ) -> None:
        super().__init__(message)
        self.status = status
        """The HTTP status that says best what happened."""
        self.produced_tokens = produced_tokens
        self.body = body
        """What the caller is told, an OpenAI error; None for no more than that the upstream failed."""
        self.headers = headers
        """As `WholeAnswer.headers`; those of the same name are left out of the response."""


class UpstreamRefusal(UpstreamError):
    """Raised when an upstream says that it won't answer this request, which says nothing about its health."""


class NotServed(LimiterError):
    """Raised for a request that no upstream can be asked, before it is admitted."""

    status = 400

    def __init__(self, message: str, param: str, code: str) -> None:
        super().__init__(message)
        self.param, self.code = param, code


class UnknownModel(NotServed):
    """Raised for a model that no service has."""

    status = 404

    def __init__(self, model: str) -> None:
        super().__init__("there is no such model", "model", "model_not_found")
        self.model = model


class Upstream(Protocol):
    """A service that answers what OpenAI's routes ask."""

    stops_at_once: bool
    """Whether a request that nobody waits for can be stopped before it is answered, so that it costs nothing."""

    def check(self, request: LimitedRequest, body: bytes) -> None:
        """Raise `NotServed` unless `request` can be asked, which `body` was read as.

        Before it is admitted, so that it counts for nothing.
        """
        ...

    async def ask(self, ask: Ask) -> WholeAnswer | AnswerStream:
        """The answer. Not every request that asks for a stream gets one. Raises `UpstreamError`."""
        ...

    async def models(self) -> tuple[str, ...]:
        """The names of the models served. Raises `UpstreamError`."""
        ...

    async def close(self) -> None:
        """Let go of connections. Idempotent."""
        ...
