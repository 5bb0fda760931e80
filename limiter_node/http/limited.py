"""The limited routes, as data: how each reads a request, what it needs, whom it asks, and how the answer is written."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from limiter_node.http.completion_request import completion_need, parse_completion
from limiter_node.http.completion_response import text_completion
from limiter_node.http.embedding_request import embedding_need, parse_embedding
from limiter_node.http.embedding_response import embedding_list
from limiter_node.http.openai_request import need_of, parse_chat
from limiter_node.http.openai_response import chat_completion
from limiter_node.http.response_events import ResponseEvents
from limiter_node.http.responses_request import parse_responses, responses_need
from limiter_node.http.responses_response import response_body, response_object
from limiter_node.http.sse import ChatChunks, StreamEvents, TextChunks
from limiter_node.http.totals import Total
from limiter_node.model import Need
from limiter_node.token_process import INLINE_CHARS, TokenCounting
from limiter_node.upstream.base import (
    ChatRequest,
    Completion,
    CompletionRequest,
    EmbeddingRequest,
    Embeddings,
    ResponsesRequest,
    Upstream,
)


@dataclass(frozen=True, slots=True)
class LimitedRoute:
    """One kind of request that is decided. `Any` is the kind's request, and its answer."""

    parse: Callable[..., Any]
    """Takes the body and, optionally, a `Count`. Raises `InvalidRequest` and nothing else."""
    need: Callable[[Any], Need]
    ask: Callable[[Upstream, Any, int, str], Awaitable[Any]]
    """The answer, with its `completion_tokens`, to a request that has so many output tokens reserved in all, and an id.

    Raises `UpstreamError`.
    """
    render: Callable[[Any, Any, str, int], bytes]
    """The body for a request and its answer, the request's id, and the time in seconds since the epoch."""
    cap_per_choice: Callable[[Any, int], int] = lambda _request, reserved: reserved
    """What each choice of a streamed answer may have of the output tokens reserved in all."""
    events: Callable[[Any, str, int, str | None], StreamEvents] = lambda *_: _no_events()
    """What renders a streamed answer to a request with this id, at this time, of this system fingerprint."""

    async def read(self, body: bytes, counting: TokenCounting) -> Any:
        """`parse` for a body of any size: the tokens of a large one are counted apart.

        Raises `InvalidRequest`, and what `TokenCounting.count` raises.
        """
        # A body has no fewer bytes than its texts have characters.
        if len(body) <= INLINE_CHARS:
            return self.parse(body)
        later: list[tuple[str, Total]] = []

        def postpone(model: str, total: Total) -> int:
            later.append((model, total))
            return 0

        asked = self.parse(body, postpone)
        model, total = later.pop()
        return asked._replace(input_tokens=await counting.count(model, total))


def _ask_chat(upstream: Upstream, request: ChatRequest, reserved: int, request_id: str) -> Awaitable[Completion]:
    return upstream.chat(request, reserved // request.n, request_id)


def _ask_completion(
    upstream: Upstream, request: CompletionRequest, reserved: int, request_id: str
) -> Awaitable[Completion]:
    return upstream.complete(request, reserved // request.reserved_choices, request_id)


def _ask_response(
    upstream: Upstream, request: ResponsesRequest, reserved: int, request_id: str
) -> Awaitable[Completion]:
    return upstream.respond(request, reserved, request_id)


def _ask_embeddings(
    upstream: Upstream, request: EmbeddingRequest, _reserved: int, request_id: str
) -> Awaitable[Embeddings]:
    return upstream.embed(request, request_id)


def _render_embeddings(request: EmbeddingRequest, answer: Embeddings, _request_id: str, _created: int) -> bytes:
    return embedding_list(request, answer)


def _no_events() -> StreamEvents:
    """For routes whose requests never ask for a stream."""
    raise NotImplementedError


def _chat_events(request: ChatRequest, request_id: str, created: int, fingerprint: str | None) -> StreamEvents:
    return ChatChunks(
        request_id=request_id,
        created=created,
        model=request.model,
        n=request.n,
        input_tokens=request.input_tokens,
        include_usage=request.include_usage,
        system_fingerprint=fingerprint,
    )


def _text_events(request: CompletionRequest, request_id: str, created: int, fingerprint: str | None) -> StreamEvents:
    per_prompt = request.n // max(1, len(request.echoes))
    return TextChunks(
        request_id=request_id,
        created=created,
        model=request.model,
        input_tokens=request.input_tokens,
        include_usage=request.include_usage,
        system_fingerprint=fingerprint,
        echoes=[echo for echo in request.echoes for _ in range(per_prompt)],
    )


def _response_events(
    request: ResponsesRequest, request_id: str, created: int, _fingerprint: str | None
) -> StreamEvents:
    return ResponseEvents(
        response_object(request, None, request_id, created),
        message_id=f"msg_{request_id.removeprefix('req_')}",
        input_tokens=request.input_tokens,
    )


LIMITED_ROUTES = {
    "/v1/chat/completions": LimitedRoute(
        parse_chat,
        need_of,
        _ask_chat,
        chat_completion,
        lambda request, reserved: reserved // request.n,
        _chat_events,
    ),
    "/v1/completions": LimitedRoute(
        parse_completion,
        completion_need,
        _ask_completion,
        text_completion,
        lambda request, reserved: reserved // request.reserved_choices,
        _text_events,
    ),
    "/v1/responses": LimitedRoute(
        parse_responses,
        responses_need,
        _ask_response,
        response_body,
        lambda _request, reserved: reserved,
        _response_events,
    ),
    "/v1/embeddings": LimitedRoute(parse_embedding, embedding_need, _ask_embeddings, _render_embeddings),
}
"""By path."""
