"""The HTTP server of a node: aiohttp's low-level one, without its router, and with our words in place of its own.

aiohttp answers what it cannot read as HTTP by itself, in plain text, and logs it with the line it stumbled over, which
may hold an API key. Here that is an OpenAI error and nothing in the log.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, cast

from aiohttp import web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.http_parser import RawRequestMessage
from aiohttp.streams import StreamReader
from aiohttp.web_protocol import RequestHandler

from limiter_node.http.answer import Answer
from limiter_node.http.errors import UNREADABLE


class Connection(RequestHandler):
    """One connection. aiohttp lets handlers run on when it ends, so those that want to know set `on_gone`."""

    __slots__ = ("on_gone",)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """It is open."""
        self.on_gone: Callable[[], None] | None = None
        super().connection_made(transport)

    def eof_received(self) -> None:
        """The client will send nothing more. The transport closes then: what is written from now on is not sent."""
        super().eof_received()
        if self.on_gone is not None:
            self.on_gone()

    def connection_lost(self, exc: BaseException | None) -> None:
        """It is gone, by either side."""
        super().connection_lost(exc)
        if self.on_gone is not None:
            self.on_gone()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """The answer to what is not HTTP. Our own handler lets nothing else through."""
        if not isinstance(exc, HttpProcessingError):
            return super().handle_error(request, status, exc, message)
        response = web.Response(status=status, body=UNREADABLE.body, content_type="application/json")
        response.force_close()
        return response

    def log_exception(self, *args: Any, **options: Any) -> None:
        """What aiohttp has to say, unless it is about what a client sent, as a body that is not the gzip it claims."""
        if not isinstance(options.get("exc_info"), HttpProcessingError | web.RequestPayloadError):
            super().log_exception(*args, **options)


class HttpServer(web.Server):
    """Serves `handler`; bodies above `max_body_bytes` raise `aiohttp.web.HTTPRequestEntityTooLarge` when they are read.

    `keepalive_s`: how long an idle connection is kept.
    """

    def __init__(
        self,
        handler: Callable[[web.BaseRequest], Awaitable[Answer | web.StreamResponse]],
        *,
        max_body_bytes: int,
        keepalive_s: float,
    ) -> None:
        # What aiohttp asks of a response, an `Answer` has.
        handler = cast(Callable[[web.BaseRequest], Awaitable[web.StreamResponse]], handler)
        super().__init__(handler, request_factory=self._request, access_log=None, keepalive_timeout=keepalive_s)
        self._max_body_bytes = max_body_bytes

    def __call__(self) -> RequestHandler:
        return Connection(self, loop=self._loop, **self._kwargs)

    def _request(
        self,
        message: RawRequestMessage,
        payload: StreamReader,
        protocol: RequestHandler,
        writer: AbstractStreamWriter,
        task: asyncio.Task[None],
    ) -> web.BaseRequest:
        return web.BaseRequest(
            message, payload, protocol, writer, task, self._loop, client_max_size=self._max_body_bytes
        )
