"""The HTTP server of a node: aiohttp's low-level one, without its router, with our words in place of its own, with
deadlines and with a cap on its connections.

aiohttp answers what it cannot read as HTTP by itself, in plain text, and logs it with the line it stumbled over, which
may hold an API key. Here that is an OpenAI error and nothing in the log; see
`limiter_node.http.server.client_connection`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, cast

from aiohttp import web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.http_parser import RawRequestMessage
from aiohttp.streams import StreamReader
from aiohttp.web_protocol import RequestHandler

from limiter_node.http.responses.whole_response import Written
from limiter_node.http.server.aiohttp_private import WAY, Way, connection_count
from limiter_node.http.server.client_connection import (
    MAX_HEADERS,
    MAX_LINE_BYTES,
    ClientConnection,
    Deadlines,
)
from limiter_node.http.server.fast_connection import FastConnection, TaskConnection
from limiter_node.http.server.last_words import Refused
from limiter_node.http.server.overload import LoopLoad
from limiter_node.http.server.public_connection import PublicConnection, PublicHandler, TaskRequest
from limiter_node.http.server.slices import SliceTurns

_LOOK_S = 0.5
"""How often connections are looked at: 10,000 of them take some milliseconds."""
_READ_BYTES = 65_536
"""When twice as much of a body waits that nobody reads yet, its connection is read no further: no budget has that."""


class HttpServer(web.Server):
    """Serves `handler`, which reads bodies by `http.bodies.body`; they come as they were sent, never unpacked by
    aiohttp.

    `keepalive_s`: how long an idle connection is kept. A connection beyond `max_connections` is answered 503 at once
    and closed: to leave it waiting in the backlog would hang its client. `load` is told how many there are.
    `last_lines` are header lines of what is said to no request: that one can't be read, or is one too many.
    """

    def __init__(
        self,
        handler: Callable[[web.BaseRequest], Awaitable[Written]],
        *,
        keepalive_s: float,
        deadlines: Deadlines = Deadlines(),  # noqa: B008 - a NamedTuple of numbers
        max_connections: int = 10_000,
        load: LoopLoad | None = None,
        last_lines: str = "",
    ) -> None:
        self._options: dict[str, Any] = {
            "access_log": None,
            "keepalive_timeout": keepalive_s,
            "max_line_size": MAX_LINE_BYTES,
            "max_field_size": MAX_LINE_BYTES,
            "max_headers": MAX_HEADERS,
            "auto_decompress": False,
            "read_bufsize": _READ_BYTES,
            "lingering_time": 0.0,  # `discard` and `linger` do that
        }
        # What aiohttp asks of a response, these have.
        super().__init__(
            cast(
                Callable[[web.BaseRequest], Awaitable[web.StreamResponse]],
                handler if WAY is Way.OWN_LOOP else PublicHandler(handler),
            ),
            request_factory=self._request if WAY is Way.OWN_LOOP else self._task_request,
            **self._options,
        )
        self._deadlines = deadlines
        self._max_connections = max_connections
        self._load = load
        self._last_lines = last_lines
        self._clock = asyncio.get_running_loop()
        self._turns = SliceTurns(self._clock)
        self._look_every_s = min(_LOOK_S, min(deadlines) / 4)
        self._looking = self._clock.call_later(self._look_every_s, self._look)

    def __call__(self) -> RequestHandler:
        if connection_count(self) >= self._max_connections:
            return cast(RequestHandler, Refused(self._last_lines))
        connection: ClientConnection
        if WAY is Way.PUBLIC:
            connection = PublicConnection(self, loop=self._clock, **self._options)
        else:
            kind = FastConnection if WAY is Way.OWN_LOOP else TaskConnection
            connection = kind(self, loop=self._clock, **self._options)
            connection.turns = self._turns
        connection.loop, connection.last_lines = self._clock, self._last_lines
        return connection

    @property
    def connection_count(self) -> int:
        """The number of open connections, without those whose handshake is under way."""
        return connection_count(self)

    async def shutdown(self, timeout: float | None = None) -> None:
        """Close all connections; see aiohttp."""
        self._looking.cancel()
        await super().shutdown(timeout)

    def _look(self) -> None:
        now_s = self._clock.time()
        for connection in self.connections:
            cast(ClientConnection, connection).look(now_s, self._deadlines)
        if self._load is not None:
            self._load.connections = connection_count(self)
        self._looking = self._clock.call_later(self._look_every_s, self._look)

    def _request(
        self,
        message: RawRequestMessage,
        payload: StreamReader,
        protocol: RequestHandler,
        writer: AbstractStreamWriter,
        task: asyncio.Task[None],
    ) -> web.BaseRequest:
        cast(ClientConnection, protocol).body = payload
        return web.BaseRequest(message, payload, protocol, writer, task, self._clock)

    def _task_request(
        self,
        message: RawRequestMessage,
        payload: StreamReader,
        protocol: RequestHandler,
        writer: AbstractStreamWriter,
        task: asyncio.Task[None],
    ) -> web.BaseRequest:
        cast(ClientConnection, protocol).body = payload
        request = TaskRequest(message, payload, protocol, writer, task, self._clock)
        if isinstance(protocol, PublicConnection):
            protocol.begin(request)
        return request
