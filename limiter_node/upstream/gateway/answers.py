"""A service's response as an answer: whole, as a stream that is still to come, or as the error that it is."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from typing import Final

from aiohttp import ClientError, ClientResponse, StreamReader
from aiohttp.http_exceptions import HttpProcessingError

from limiter_node.tokens import encoding_name
from limiter_node.upstream.base import (
    Ask,
    ChatRequest,
    CompletionRequest,
    EmbeddingRequest,
    Piece,
    ResponsesRequest,
    UpstreamError,
    UpstreamRefusal,
    WholeAnswer,
)
from limiter_node.upstream.gateway.accounts import ChunkAccount, ResponseAccount
from limiter_node.upstream.gateway.events import EventReader, TooLong
from limiter_node.upstream.gateway.incoming import openai_error, passed_headers, refusal_headers
from limiter_node.upstream.gateway.outgoing import wants_usage_asked
from limiter_node.upstream.gateway.said import error_from_event, said_error
from limiter_node.upstream.gateway.service import Service
from limiter_node.upstream.gateway.usage import MOST_TOKENS
from limiter_node.upstream.gateway.whole import WholeReader
from limiter_node.upstream.openai.chunks import error_event
from limiter_node.upstream.openai.response_events import response_error_event

MAX_BODY_BYTES: Final = 256 * 1024 * 1024
"""Of a whole answer: 2,048 embeddings of 3,072 numbers are half of it."""
MAX_ERROR_BYTES: Final = 64 * 1024

_CLOSING_S: Final = 0.5

BROKEN = (ClientError, HttpProcessingError, OSError)
"""What aiohttp raises where a service breaks off, or answers something that is not HTTP."""

_KEEPS_STATUS = frozenset((502, 503, 504))
"""Others become 502: a 500 of a node is a mistake of its own."""
_OUR_FAULT = frozenset((401, 403, 407))
"""The service doesn't take our key: nothing that the caller could mend."""


async def read_body(response: ClientResponse, at_most: int) -> bytes:
    """The whole body. Raises `UpstreamError` for a longer one, and what aiohttp raises."""
    content = response.content
    body = await content.readany()
    if content.at_eof():
        return _bounded(body, at_most)
    parts, size = [body], len(body)
    while part := await content.readany():
        parts.append(part)
        size += len(part)
        if size > at_most:
            break
    return _bounded(b"".join(parts), at_most)


def _bounded(body: bytes, at_most: int) -> bytes:
    if len(body) > at_most:
        raise UpstreamError(f"answered with more than {at_most} bytes")
    return body


async def refused(response: ClientResponse, service: Service) -> UpstreamError:
    """The error that `response` is, whose status is not 200."""
    status = response.status
    if not 400 <= status < 600:
        return UpstreamError(f"answered with status {status}")
    if status in _OUR_FAULT and not service.forwards_key:
        return UpstreamError(f"does not accept this node's key (status {status})")
    try:
        said = await read_body(response, MAX_ERROR_BYTES)
    except UpstreamError:
        said = b""  # longer than anybody is told (some repeat the whole input), but what it is, its status says
    body = openai_error(status, said, service.key, response.headers.get("Content-Type", ""))
    headers = refusal_headers(status, _fields(response), service.key)
    if status < 500:
        return UpstreamRefusal(f"refused with status {status}", status=status, body=body, headers=headers)
    shown = status if status in _KEEPS_STATUS else 502
    return UpstreamError(f"failed with status {status}", status=shown, body=body, headers=headers)


async def whole_answer(response: ClientResponse, ask: Ask, service: Service) -> WholeAnswer:
    """The answer that `response` is, and what it costs. Raises `UpstreamError`, and what aiohttp raises."""
    body = await read_body(response, MAX_BODY_BYTES)
    fields, request = _fields(response), ask.request
    error = said_error(body, is_complete=True)
    if error is not None:
        raise error.to_upstream_error(service.key, fields, forwards_key=service.forwards_key)
    reader = WholeReader(
        encoding_name(request.model),
        choices=1 if isinstance(request, EmbeddingRequest) else request.reserved_choices,
        at_most=_most_counted(ask, service),
        has_output=not isinstance(request, EmbeddingRequest),
    )
    reader.feed(body)
    reader.finish()
    return WholeAnswer(body, reader.output_tokens, passed_headers(fields, service.key))


def _fields(response: ClientResponse) -> list[tuple[str, str]]:
    return [(name.lower(), value) for name, value in response.headers.items()]


def _most_counted(ask: Ask, service: Service) -> int:
    """What a count by our tokenizer is held to: a service that has a cap keeps to it, by its own."""
    is_capped = service.enforces_cap or getattr(ask.request, "cap", None) is not None
    return ask.reserved_tokens if is_capped else MOST_TOKENS


async def _at_the_end(content: StreamReader) -> bytes:
    """What still comes of a stream that has said that it ends: nothing, and soon, so that its connection is kept."""
    try:
        async with asyncio.timeout(_CLOSING_S):
            return await content.readany()
    except TimeoutError:
        return b""


class PassingStream:
    """An event stream that passes. `who` sends it, for our log.

    `ended` is told how it went: one of `limiter_node.telemetry.UPSTREAM_OUTCOMES`, and what happened.
    """

    def __init__(
        self, response: ClientResponse, ask: Ask, service: Service, who: str, ended: Callable[[str, str], None]
    ) -> None:
        request = ask.request
        encoding = encoding_name(request.model)
        self.headers = passed_headers(_fields(response), service.key)
        self._response, self._service, self._who, self._ended = response, service, who, ended
        at_most = _most_counted(ask, service)
        self._has_begun = False
        self._account: ChunkAccount | ResponseAccount
        if isinstance(request, ResponsesRequest):
            self._account = ResponseAccount(encoding, at_most=at_most)
        else:
            assert isinstance(request, ChatRequest | CompletionRequest)
            hides_usage = service.asks_usage and wants_usage_asked(request)
            self._account = ChunkAccount(encoding, hides_usage=hides_usage, choices=request.n, at_most=at_most)

    async def pieces(self) -> AsyncGenerator[Piece, None]:
        """What comes, as it comes."""
        account, reader, content = self._account, EventReader(self._account), self._response.content
        try:
            while data := await (_at_the_end(content) if account.is_done else content.readany()):
                passed = reader.feed(data)
                # An error that comes first is to be a response of its own.
                if passed or self._has_begun:
                    self._has_begun = True
                    yield Piece(passed, account.output_tokens)
                if account.error is not None:
                    raise self._said_error()
            passed = reader.rest()
            if account.error is not None:
                raise self._said_error()
        except TimeoutError:
            if not account.is_whole:
                raise self._broken("timeout", "fell silent in the middle of a stream", 504) from None
            passed = b""
        except TooLong:
            raise self._broken("broken", "sent an event without an end") from None
        except BROKEN as error:
            if not account.is_whole:
                raise self._broken("broken", f"broke off a stream ({type(error).__name__})") from None
            passed = b""
        if not account.is_whole:
            if passed:
                yield Piece(passed, account.output_tokens)
            raise self._broken("broken", "ended a stream before it was whole")
        self._ended("ok", "")
        yield Piece(passed, account.output_tokens, is_last=True)

    def error_event(self, error: bytes) -> bytes:
        """In the form of the route."""
        if isinstance(self._account, ResponseAccount):
            return response_error_event(error, self._account.next_number)
        return error_event(error)

    async def close(self) -> None:
        """Nothing more is wanted: the service notices at once, by its connection. One that is whole goes on."""
        self._ended("ok" if self._account.is_whole else "gone", "")
        self._response.close()

    def _said_error(self) -> UpstreamError:
        said = error_from_event(self._account.error)
        assert said is not None
        produced = self._account.output_tokens
        error = said.to_upstream_error(
            self._service.key,
            _fields(self._response),
            forwards_key=self._service.forwards_key,
            produced_tokens=produced,
            has_begun=self._has_begun,
        )
        self._ended(said.outcome, "" if said.is_callers_own else "broke off a stream with an error")
        return error

    def _broken(self, outcome: str, what: str, status: int = 502, body: bytes | None = None) -> UpstreamError:
        self._ended(outcome, what)
        return UpstreamError(
            f"{self._who} {what}", status=status, produced_tokens=self._account.output_tokens, body=body
        )
