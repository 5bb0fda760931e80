"""An upstream made of a source of answers as data: it writes them out in OpenAI's formats, whole or as events."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from typing import Any, NamedTuple, cast

from limiter_node.upstream.base import (
    AnswerStream,
    Ask,
    ChatRequest,
    CompletionRequest,
    EmbeddingRequest,
    LimitedRequest,
    Piece,
    ResponsesRequest,
    TextRequest,
    WholeAnswer,
)
from limiter_node.upstream.openai.chat import chat_completion
from limiter_node.upstream.openai.chunks import ChatChunks, StreamEvents, TextChunks
from limiter_node.upstream.openai.embeddings import embedding_list
from limiter_node.upstream.openai.offered import with_offered_tools
from limiter_node.upstream.openai.response import response_body, response_object
from limiter_node.upstream.openai.response_events import ResponseEvents
from limiter_node.upstream.openai.text import text_completion
from limiter_node.upstream.source import Deltas, Embeddings, Source


class RenderedUpstream:
    """What `source` answers. It serves every model, and closes with this."""

    stops_at_once = False  # what a source makes, it makes at once; it only waits with it

    def __init__(self, source: Source) -> None:
        self._source = source

    def check(self, request: LimitedRequest, body: bytes) -> None:
        """Anything can be asked."""

    async def ask(self, ask: Ask) -> WholeAnswer | AnswerStream:
        """The answer, a stream where one is asked for. Raises what the source raises."""
        request, created = with_offered_tools(ask.request), int(time.time())
        kind = _KINDS[type(request)]
        if request.stream:
            text = cast(TextRequest, request)
            events = kind.events(text, ask.request_id, created, self._source.system_fingerprint)
            return _RenderedStream(self._source.stream(text, ask.cap_per_choice, ask.request_id), events)
        answer = await kind.make(self._source, request, ask.cap_per_choice, ask.request_id)
        return WholeAnswer(kind.render(request, answer, ask.request_id, int(time.time())), answer.completion_tokens)

    async def models(self) -> tuple[str, ...]:
        """Those of the source."""
        return await self._source.models()

    async def close(self) -> None:
        """Close the source."""
        await self._source.close()


class _RenderedStream:
    headers = ""

    def __init__(self, deltas: Deltas, events: StreamEvents) -> None:
        self._deltas, self._events = deltas, events

    async def pieces(self) -> AsyncGenerator[Piece, None]:
        events, tokens, has_begun = self._events, 0, False
        async with aclosing(self._deltas) as deltas:
            async for batch in deltas:
                data = b"" if has_begun else events.start()
                has_begun = True
                data += b"".join([events.delta(each) for each in batch])
                for each in batch:
                    tokens += each.tokens
                yield Piece(data, tokens)
        yield Piece((b"" if has_begun else events.start()) + events.finish(tokens), tokens, is_last=True)

    def error_event(self, error: bytes) -> bytes:
        return self._events.error(error)

    async def close(self) -> None:
        await self._deltas.aclose()


class _Kind(NamedTuple):
    """How one kind of request is answered. `Any` is the kind's request, and its answer."""

    make: Callable[[Source, Any, int, str], Awaitable[Any]]
    """Takes the cap per choice, and the request's id."""
    render: Callable[[Any, Any, str, int], bytes]
    """The body for a request and its answer, the request's id, and the time in seconds since the epoch."""
    events: Callable[[Any, str, int, str | None], StreamEvents]
    """What renders a streamed answer to a request with this id, at this time, of this system fingerprint."""


def _embed(source: Source, request: EmbeddingRequest, _cap: int, request_id: str) -> Awaitable[Embeddings]:
    return source.embed(request, request_id)


def _render_embeddings(request: EmbeddingRequest, answer: Embeddings, _request_id: str, _created: int) -> bytes:
    return embedding_list(request, answer)


def _no_events(*_: Any) -> StreamEvents:
    """For requests that never ask for a stream."""
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


_KINDS: dict[type[LimitedRequest], _Kind] = {
    ChatRequest: _Kind(lambda source, *asked: source.chat(*asked), chat_completion, _chat_events),
    CompletionRequest: _Kind(lambda source, *asked: source.complete(*asked), text_completion, _text_events),
    ResponsesRequest: _Kind(lambda source, *asked: source.respond(*asked), response_body, _response_events),
    EmbeddingRequest: _Kind(_embed, _render_embeddings, _no_events),
}
