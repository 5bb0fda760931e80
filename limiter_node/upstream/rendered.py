"""An upstream made of a source of answers as data: it writes them out in OpenAI's formats, whole or as events."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import aclosing
from typing import Any, NamedTuple, cast

from limiter_node.upstream.answers import AnswerStream, Cost, Sink, WholeAnswer
from limiter_node.upstream.errors import NotServed
from limiter_node.upstream.interface import Draft, Prepared
from limiter_node.upstream.openai.chat import chat_completion
from limiter_node.upstream.openai.chunks import ChatChunks, CompletionChunks
from limiter_node.upstream.openai.completions import text_completion
from limiter_node.upstream.openai.embeddings import embedding_list
from limiter_node.upstream.openai.offered_tools import with_offered_tools
from limiter_node.upstream.openai.responses_api import REPEATED_FIELDS, responses_api_body, responses_api_object
from limiter_node.upstream.openai.responses_api_events import ResponsesApiEvents
from limiter_node.upstream.openai.stream_events import StreamEvents
from limiter_node.upstream.requests import (
    ChatRequest,
    CompletionRequest,
    EmbeddingRequest,
    LimitedRequest,
    ResponsesApiRequest,
    TextRequest,
)
from limiter_node.upstream.source import Deltas, Embeddings, Source


class RenderedUpstream:
    """What `source` answers. It serves every model, and closes with this."""

    stops_at_once = False  # what a source makes, it makes at once; it only waits with it

    def __init__(self, source: Source) -> None:
        self._source = source
        self.drafter = RequestDrafter()

    def prepared(self, draft: Draft) -> Prepared:
        """A request of which `drafter` made a draft."""
        return _PreparedRequest(self._source, draft.content)

    async def models(self) -> tuple[str, ...]:
        """Those of the source."""
        return await self._source.models()

    async def close(self) -> None:
        """Close the source."""
        await self._source.close()


class RequestDrafter:
    """Nearly anything can be asked. Of what was sent, only what the answer repeats is kept."""

    def extra_fields(self, _model: str) -> frozenset[str]:
        """None."""
        return frozenset()

    def draft(self, request: LimitedRequest, body: bytes) -> Draft:
        """`request` without what the mock doesn't read. Raises `NotServed` for tokens that are to be echoed as text."""
        if isinstance(request, CompletionRequest) and request.body.get("echo") is True and not request.echoes:
            raise NotServed("Invalid 'echo': prompts given as tokens cannot be echoed.", "echo", "invalid_value")
        request = with_offered_tools(request)
        if type(request) is ChatRequest:  # most are; `_replace` takes several times as long
            model, n, cap, stream, include_usage, input_tokens, _, form = request
            return Draft(ChatRequest(model, n, cap, stream, include_usage, input_tokens, _NOTHING, form))
        return Draft(request._replace(body=_repeated(request)))


class _PreparedRequest:
    """`request`, to be answered by `source`."""

    __slots__ = ("_request", "_source")
    is_sent = True
    is_uncertain = False

    def __init__(self, source: Source, request: LimitedRequest) -> None:
        self._source, self._request = source, request

    async def ask(
        self, reserved_tokens: int, request_id: str, headers: Mapping[str, str]
    ) -> WholeAnswer | AnswerStream:
        """The answer, a stream where one is asked for. Raises what the source raises."""
        source, request = self._source, self._request
        kind = _KINDS[type(request)]
        cap = 0 if isinstance(request, EmbeddingRequest) else reserved_tokens // request.reserved_choices
        if request.stream:
            text = cast(TextRequest, request)
            events = kind.events(text, request_id, int(time.time()), source.system_fingerprint)
            return _RenderedStream(source.stream(text, cap, request_id), events)
        answer = await kind.make(source, request, cap, request_id)
        return WholeAnswer(kind.render(request, answer, request_id, int(time.time())), Cost(answer.completion_tokens))


class _RenderedStream:
    headers = ""
    content_type = "text/event-stream"
    length = None
    is_uncertain = False

    def __init__(self, deltas: Deltas, events: StreamEvents) -> None:
        self._deltas, self._events = deltas, events
        self.cost = Cost(0)
        """Of what was passed on: nothing is made beyond it."""

    async def deliver(self, sink: Sink) -> None:
        events, tokens, has_begun = self._events, 0, False
        async with aclosing(self._deltas) as deltas:
            async for batch in deltas:
                data = b"" if has_begun else events.start()
                has_begun = True
                data += b"".join([events.delta(each) for each in batch])
                if not sink.write(data):
                    return
                for each in batch:
                    tokens += each.tokens
                self.cost = Cost(tokens)
                if sink.is_full:
                    await sink.drained()
        sink.write((b"" if has_begun else events.start()) + events.finish(tokens), is_last=True)

    async def read_on(self, seconds: float) -> None:
        """It makes nothing that nobody takes."""

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


_NOTHING: dict[str, Any] = {}


def _repeated(request: LimitedRequest) -> dict[str, Any]:
    """The fields of `request` that its answer shows again."""
    if not isinstance(request, ResponsesApiRequest):
        return {}
    return {name: value for name, value in request.body.items() if name in REPEATED_FIELDS}


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
    return CompletionChunks(
        request_id=request_id,
        created=created,
        model=request.model,
        input_tokens=request.input_tokens,
        include_usage=request.include_usage,
        system_fingerprint=fingerprint,
        echoes=[echo for echo in request.echoes for _ in range(per_prompt)],
    )


def _response_events(
    request: ResponsesApiRequest, request_id: str, created: int, _fingerprint: str | None
) -> StreamEvents:
    return ResponsesApiEvents(
        responses_api_object(request, None, request_id, created),
        message_id=f"msg_{request_id.removeprefix('req_')}",
        input_tokens=request.input_tokens,
    )


_KINDS: dict[type[LimitedRequest], _Kind] = {
    ChatRequest: _Kind(lambda source, *asked: source.chat(*asked), chat_completion, _chat_events),
    CompletionRequest: _Kind(lambda source, *asked: source.complete(*asked), text_completion, _text_events),
    ResponsesApiRequest: _Kind(lambda source, *asked: source.respond(*asked), responses_api_body, _response_events),
    EmbeddingRequest: _Kind(_embed, _render_embeddings, _no_events),
}
