"""The upstream that renders the answers of a source in OpenAI's formats, whole or as events.

`limiter_node.upstream.source` defines sources, `limiter_node.upstream.openai` has the formats.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import aclosing
from typing import Any, cast

from limiter_node.upstream.answers import AnswerStream, Cost, Sink, WholeAnswer
from limiter_node.upstream.errors import NotServed
from limiter_node.upstream.interface import Draft, Prepared
from limiter_node.upstream.openai.offered_tools import with_offered_tools
from limiter_node.upstream.openai.request_kinds import REQUEST_KINDS
from limiter_node.upstream.openai.responses_api import REPEATED_FIELDS
from limiter_node.upstream.openai.stream_events import StreamEvents
from limiter_node.upstream.requests import (
    ChatRequest,
    CompletionRequest,
    EmbeddingRequest,
    LimitedRequest,
    ResponsesApiRequest,
    TextRequest,
)
from limiter_node.upstream.source import Deltas, Source


class RenderedUpstream:
    """Answer requests as `source` does, for every model. Closing it closes the source."""

    stops_at_once = False  # a source makes an answer at once, and only delays it

    def __init__(self, source: Source) -> None:
        self._source = source
        self.drafter = RequestDrafter()

    def prepared(self, draft: Draft) -> Prepared:
        """Return the request of `draft`, ready to be answered."""
        return _PreparedRequest(self._source, draft.content)

    async def models(self) -> tuple[str, ...]:
        """Return the names of the source's models."""
        return await self._source.models()

    async def close(self) -> None:
        """Close the source."""
        await self._source.close()


class RequestDrafter:
    """Make drafts that keep only the parts of a request that its answer repeats."""

    def extra_fields(self, _model: str) -> frozenset[str]:
        """Return none: the mock knows no fields but OpenAI's."""
        return frozenset()

    def model_names(self, model: str) -> tuple[str, ...]:
        """Return `model` alone: the mock serves every model under its own name."""
        return (model,)

    def draft(self, request: LimitedRequest, body: bytes) -> Draft:
        """Return `request` without what the mock doesn't read. Raises `NotServed` for tokens to echo as text."""
        if isinstance(request, CompletionRequest) and request.body.get("echo") is True and not request.echoes:
            raise NotServed("Invalid 'echo': prompts given as tokens cannot be echoed.", "echo", "invalid_value")
        request = with_offered_tools(request)
        if type(request) is ChatRequest:  # most requests are; `_replace` takes several times as long
            model, n, cap, stream, include_usage, input_tokens, _, form = request
            return Draft(ChatRequest(model, n, cap, stream, include_usage, input_tokens, _NOTHING, form))
        return Draft(request._replace(body=_repeated(request)))


class _PreparedRequest:
    """Hold a request until `source` answers it."""

    __slots__ = ("_request", "_source")
    is_sent = True
    is_uncertain = False

    def __init__(self, source: Source, request: LimitedRequest) -> None:
        self._source, self._request = source, request

    async def ask(
        self, reserved_tokens: int, request_id: str, headers: Mapping[str, str]
    ) -> WholeAnswer | AnswerStream:
        """Return the answer, a stream if one is asked for. Raises the source's errors."""
        source, request = self._source, self._request
        kind = REQUEST_KINDS[type(request)]
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
        """The cost of the deltas passed on; no others are made."""

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
        """Do nothing: the source makes nothing that nobody takes."""

    def error_event(self, error: bytes) -> bytes:
        return self._events.error(error)

    async def close(self) -> None:
        await self._deltas.aclose()


_NOTHING: dict[str, Any] = {}


def _repeated(request: LimitedRequest) -> dict[str, Any]:
    """Return the fields of `request` that its answer repeats."""
    if not isinstance(request, ResponsesApiRequest):
        return {}
    return {name: value for name, value in request.body.items() if name in REPEATED_FIELDS}
