"""The kinds of requests: for each, the call of a source, and the renderers of its answer, whole or as events."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

from limiter_node.upstream.openai.chat import chat_completion
from limiter_node.upstream.openai.chunks import ChatChunks, CompletionChunks
from limiter_node.upstream.openai.completions import text_completion
from limiter_node.upstream.openai.embeddings import embedding_list
from limiter_node.upstream.openai.responses_api import responses_api_body, responses_api_object
from limiter_node.upstream.openai.responses_api_events import ResponsesApiEvents
from limiter_node.upstream.openai.stream_events import StreamEvents
from limiter_node.upstream.requests import (
    ChatRequest,
    CompletionRequest,
    EmbeddingRequest,
    LimitedRequest,
    ResponsesApiRequest,
)
from limiter_node.upstream.source import Embeddings, Source


class RequestKind(NamedTuple):
    """Hold the functions that answer one kind of request. `Any` is the kind's request, and its answer."""

    make: Callable[[Source, Any, int, str], Awaitable[Any]]
    """Ask a source, with the cap per choice and the request's id."""
    render: Callable[[Any, Any, str, int], bytes]
    """Render the body for a request and its answer, the request's id, and the time in seconds since the epoch."""
    events: Callable[[Any, str, int, str | None], StreamEvents]
    """Make the renderer of a streamed answer to a request with this id, at this time, of this system fingerprint."""


def _embed(source: Source, request: EmbeddingRequest, _cap: int, request_id: str) -> Awaitable[Embeddings]:
    return source.embed(request, request_id)


def _render_embeddings(request: EmbeddingRequest, answer: Embeddings, _request_id: str, _created: int) -> bytes:
    return embedding_list(request, answer)


def _no_events(*_: Any) -> StreamEvents:
    """Fail: these requests never ask for a stream."""
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
    return CompletionChunks(
        request_id=request_id,
        created=created,
        model=request.model,
        input_tokens=request.input_tokens,
        include_usage=request.include_usage,
        system_fingerprint=fingerprint,
        echoes=[echo for echo in request.echoes for _ in range(per_prompt)],
    )


def _responses_events(
    request: ResponsesApiRequest, request_id: str, created: int, _fingerprint: str | None
) -> StreamEvents:
    return ResponsesApiEvents(
        responses_api_object(request, None, request_id, created),
        message_id=f"msg_{request_id.removeprefix('req_')}",
        input_tokens=request.input_tokens,
    )


REQUEST_KINDS: dict[type[LimitedRequest], RequestKind] = {
    ChatRequest: RequestKind(lambda source, *asked: source.chat(*asked), chat_completion, _chat_events),
    CompletionRequest: RequestKind(lambda source, *asked: source.complete(*asked), text_completion, _text_events),
    ResponsesApiRequest: RequestKind(
        lambda source, *asked: source.respond(*asked), responses_api_body, _responses_events
    ),
    EmbeddingRequest: RequestKind(_embed, _render_embeddings, _no_events),
}
