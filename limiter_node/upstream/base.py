"""What an upstream is asked, what it gives back, and how it fails: bytes in OpenAI's format, and what they cost.

Requests live here, below `limiter_node.http` that makes them and beside the upstreams that read them, so that imports
point downward only. There are two upstreams: `rendered`, which writes out what a model in this process answers (the
mock), and `gateway`, which passes on what a service answers over HTTP.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
    """The prompts as text, where the caller wants them back before the answers. None where they came as tokens."""
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


class Cost(NamedTuple):
    """The cost of an answer, in tokens."""

    output_tokens: int
    input_tokens: int = 0
    """As the upstream tells it; 0 where it tells nothing."""


class WholeAnswer(NamedTuple):
    """An answer that isn't streamed, and all of it."""

    body: bytes
    cost: Cost
    """What the reservation is settled to."""
    headers: str = ""
    """Lines beyond those of every decided response, each with its CRLF: checked, and safe to send."""


class Sink(Protocol):
    """Takes an answer while it comes."""

    @property
    def is_full(self) -> bool:
        """Whether more should wait until it has `drained`."""
        ...

    def write(self, data: bytes, *, is_last: bool = False) -> bool:
        """Pass on the next part of the answer at once; False where nobody takes it any more.

        The first call decides for the answer: until then an error can take its place. `is_last`: nothing follows.
        """
        ...

    async def drained(self) -> None:
        """Return when there is room again."""
        ...


class AnswerStream(Protocol):
    """An answer that is still to come. Whoever has it closes it, begun or not, whole or not."""

    @property
    def headers(self) -> str:
        """As `WholeAnswer.headers`, the type of the content not among them."""
        ...

    @property
    def content_type(self) -> str:
        """As a header says it."""
        ...

    @property
    def length(self) -> int | None:
        """Of its body, in bytes; None where that isn't known before it ends."""
        ...

    @property
    def cost(self) -> Cost:
        """The cost of the answer if it ends here."""
        ...

    @property
    def is_uncertain(self) -> bool:
        """Whether the upstream may have produced more by now than anybody can tell: the reservation stands then."""
        ...

    async def deliver(self, sink: Sink) -> None:
        """Give all of the answer to `sink` as it comes; to be called once. Nothing more is asked for while it is full.

        Raises `UpstreamError` where it breaks off.
        """
        ...

    async def read_on(self, seconds: float) -> None:
        """The caller has left: take what comes for nobody, until its cost is known, for so many seconds at most."""
        ...

    def error_event(self, error: bytes) -> bytes:
        """Return the event that tells a reader why this stream ends here. `error`: the body of such a response.

        Empty where the form of the answer has no room for it.
        """
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

    def __init__(self, message: str, param: str | None, code: str | None) -> None:
        super().__init__(message)
        self.param, self.code = param, code


class UnknownModel(NotServed):
    """Raised for a model that no service has."""

    status = 404

    def __init__(self, model: str) -> None:
        super().__init__("there is no such model", "model", "model_not_found")
        self.model = model


class Draft(NamedTuple):
    """All that an upstream needs of a request, without what it was read from: that needn't be kept while it waits."""

    content: Any
    """The upstream's own; small, and can be pickled."""
    body: bytes | bytearray = b""
    """The bytes to send, if they are many. If they are sent as they came, this is the very object that came."""


class Drafter(Protocol):
    """Makes drafts of requests before they are admitted. Pure, and can be pickled: another process may do it."""

    def extra_fields(self, model: str) -> frozenset[str]:
        """The fields that requests for `model` may have though nobody knows them: they count for nothing."""
        ...

    def draft(self, request: LimitedRequest, body: bytes) -> Draft:
        """All that is needed to ask `request`, which `body` was read as. O(length).

        Raises `NotServed` for one that can't be asked, so that it counts for nothing.
        """
        ...


class Prepared(Protocol):
    """A request that can be asked once it is admitted."""

    @property
    def is_sent(self) -> bool:
        """Whether the upstream may be at work on it."""
        ...

    @property
    def is_uncertain(self) -> bool:
        """Whether a request whose answer never began may have cost more than its input: the reservation stands then."""
        ...

    async def ask(
        self, reserved_tokens: int, request_id: str, headers: Mapping[str, str]
    ) -> WholeAnswer | AnswerStream:
        """The answer; to be asked for once. Not every request that asks for a stream gets one. Raises `UpstreamError`.

        Args:
            reserved_tokens: output tokens that are reserved in all: more may not be produced.
            request_id: the `x-request-id`, for the upstream's own records.
            headers: the caller's, unchecked but for being HTTP.
        """
        ...


class Upstream(Protocol):
    """A service that answers what OpenAI's routes ask."""

    stops_at_once: bool
    """Whether a request that nobody waits for can be stopped before it is answered, so that it costs nothing."""

    @property
    def drafter(self) -> Drafter:
        """The maker of the drafts for `prepared`."""
        ...

    def prepared(self, draft: Draft) -> Prepared:
        """The request that `draft` was made of, ready to be asked."""
        ...

    async def models(self) -> tuple[str, ...]:
        """The names of the models served. Raises `UpstreamError`."""
        ...

    async def close(self) -> None:
        """Let go of connections. Idempotent."""
        ...
