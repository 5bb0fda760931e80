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
from limiter_node.http.responses_request import parse_responses, responses_need
from limiter_node.http.responses_response import response_body
from limiter_node.model import Need
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
    ask: Callable[[Upstream, Any, int], Awaitable[Any]]
    """The answer, with its `completion_tokens`, to a request that has so many output tokens reserved in all.

    Raises `UpstreamError`.
    """
    render: Callable[[Any, Any, str, int], bytes]
    """The body for a request and its answer, the request's id, and the time in seconds since the epoch."""


def _ask_chat(upstream: Upstream, request: ChatRequest, reserved: int) -> Awaitable[Completion]:
    return upstream.chat(request, reserved // request.n)


def _ask_completion(upstream: Upstream, request: CompletionRequest, reserved: int) -> Awaitable[Completion]:
    return upstream.complete(request, reserved // request.reserved_choices)


def _ask_response(upstream: Upstream, request: ResponsesRequest, reserved: int) -> Awaitable[Completion]:
    return upstream.respond(request, reserved)


def _ask_embeddings(upstream: Upstream, request: EmbeddingRequest, _reserved: int) -> Awaitable[Embeddings]:
    return upstream.embed(request)


def _render_embeddings(request: EmbeddingRequest, answer: Embeddings, _request_id: str, _created: int) -> bytes:
    return embedding_list(request, answer)


LIMITED_ROUTES = {
    "/v1/chat/completions": LimitedRoute(parse_chat, need_of, _ask_chat, chat_completion),
    "/v1/completions": LimitedRoute(parse_completion, completion_need, _ask_completion, text_completion),
    "/v1/responses": LimitedRoute(parse_responses, responses_need, _ask_response, response_body),
    "/v1/embeddings": LimitedRoute(parse_embedding, embedding_need, _ask_embeddings, _render_embeddings),
}
"""By path."""
