"""One connection of the node's server: what aiohttp makes of it, and the deadlines that aiohttp doesn't have.

aiohttp waits for ever for the rest of a request. Here every state of a connection in which the client is to do
something has its limit:

- a head that doesn't come: `header_s` since it began, or since the connection was opened if nothing came at all;
- a body that doesn't come: `body_s` for all of it, so that trickling doesn't help;
- an answer that isn't read: see `slow_readers`;
- a request that was answered and whose body goes on: see `discard` and `linger`;
- nothing asked on a connection kept open: aiohttp's own keep-alive timer.

No request starts a timer for this: `HttpServer` looks at all connections now and then, so that a deadline is noticed up
to that much later. A connection with a request in the upstream's hands, or one waiting for the store, has no deadline
here.

`ClientConnection` is what all have in common, by aiohttp's public API. The states of a connection are known to
`fast_connection`, which asks aiohttp's private names for them, and to `public_connection`, which doesn't.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from time import monotonic
from typing import Any, Final, NamedTuple

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError, LineTooLong
from aiohttp.streams import StreamReader

from limiter_node.http.responses import errors
from limiter_node.http.responses.errors import ErrorResponse
from limiter_node.http.responses.headers import SERVER
from limiter_node.http.server.last_words import last_words
from limiter_node.http.server.raw_body import (
    MAX_DISCARDED_BYTES,
    BodyTimeout,
    ClientLeft,
    TinyChunks,
    UnreadableBody,
    next_block,
)
from limiter_node.http.server.slow_readers import PacedConnection

MAX_LINE_BYTES = 8_190
"""Of a request line, and of a header field."""
MAX_HEADERS = 64
MAX_PARTIAL_HEAD_BYTES = 32_768
"""Of a head that came in pieces and isn't whole yet. What comes in one piece has the limits above."""
MAX_FRAMING_BYTES: Final = 65_536
"""A chunked body may have so much that is not content, and more if that is no more than half of what was sent."""

DISCARD_S = 10.0
"""A body that was answered unread has so long to come, if it is small; then its connection ends."""
LINGER_S, LINGER_BYTES, LINGER_PAUSE_S = 1.0, 1_048_576, 0.01
"""A connection stays open for so long behind a response that ends it while its client still sends. So much of that is
read at once, the rest a block at a time, with pauses. Clients that look for the response only once they have
sent all (httpx's asynchronous one) lose it if the connection is reset before; so do others on some systems."""


class Deadlines(NamedTuple):
    """Hold the times, in seconds, that a client may take."""

    header_s: float = 10.0
    body_s: float = 30.0
    stalled_s: float = 60.0


class ClientConnection(PacedConnection):
    """A connection, as the handlers of its requests know it."""

    __slots__ = (
        "_body_of",
        "_body_since",
        "_counted",
        "_head_bytes",
        "_linger_bytes",
        "_linger_end",
        "_linger_over",
        "_on_gone",
        "_sent_bytes",
        "arrived_s",
        "begun_s",
        "body",
        "last_lines",
        "left_s",
        "loop",
    )

    loop: asyncio.AbstractEventLoop
    """The event loop of the connection; the server sets it."""
    last_lines: str
    """Header lines of what is said to no request; the server sets them."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take a new connection."""
        # Of the last request that was begun, also while the rest of it is thrown away: what comes then is no head.
        self.body: StreamReader | None = None
        self._on_gone: Callable[[], None] | None = None
        self.left_s: float | None = None  # when the client left, by the loop's time
        self._head_bytes = 0  # of a head that isn't whole
        self._body_of: web.BaseRequest | None = None
        self._body_since = 0.0
        self._linger_end: asyncio.TimerHandle | None = None
        self._linger_over: asyncio.Future[None] | None = None
        self._linger_bytes = 0
        # The body whose bytes are counted, and how many came, as they were sent, since the first look at it.
        self._counted: StreamReader | None = None
        self._sent_bytes = 0
        # When the last bytes of the request under way came, by `time.monotonic`; and of the last one that was begun in
        # a task of its own.
        self.arrived_s = self.begun_s = 0.0
        super().connection_made(transport)

    def call_when_gone(self, callback: Callable[[], None] | None) -> None:
        """Call `callback` when the client leaves, until this is called again; None to call nothing.

        One at a time: it belongs to who handles the request under way. aiohttp lets handlers run on when a connection
        ends.
        """
        self._on_gone = callback

    def has_rested(self) -> None:
        """Note that what came meanwhile has waited for no other reason."""
        self.arrived_s = monotonic()

    @property
    def has_unparsed(self) -> bool:
        """Whether something that the client sent waits to be parsed."""
        return False

    def eof_received(self) -> None:
        """Note that the client sends nothing more. The transport closes then: later writes are not sent."""
        super().eof_received()
        self.left_s = self.loop.time()
        if self._on_gone is not None:
            self._on_gone()

    def connection_lost(self, exc: BaseException | None) -> None:
        """Let go of the request under way; either side may have ended the connection."""
        super().connection_lost(exc)
        if self.left_s is None:
            self.left_s = self.loop.time()
        if self.body is not None and not self.body.is_eof() and self.body.exception() is None:
            self.body.set_exception(ClientLeft())  # aiohttp tells only who answers, not who discards the rest
        self.body = self._body_of = self._counted = None  # they know the connection
        if self._linger_end is not None:
            self._linger_end.cancel()
            self._linger_end = None
        if self._linger_over is not None and not self._linger_over.done():
            self._linger_over.set_result(None)
        if self._on_gone is not None:
            self._on_gone()

    def look(self, now_s: float, deadlines: Deadlines) -> None:
        """End the connection if its client has had its time. `now_s` is the loop's."""
        raise NotImplementedError

    async def discard(self, payload: StreamReader) -> bool:
        """Discard what the client still sends of a body that was answered without being read, as it comes.

        Return whether that was all of it, so that the connection can go on. Raises `ClientLeft`.
        """
        if self.has_unparsed:
            return False
        left = MAX_DISCARDED_BYTES
        try:
            async with asyncio.timeout(DISCARD_S):
                while not payload.is_eof() and left >= 0:
                    left -= len(await next_block(payload))
        except (TimeoutError, UnreadableBody):
            return False
        return left >= 0

    def linger(self, payload: StreamReader) -> None:
        """End the connection behind a response that was sent before the request's body came whole.

        The client is told that nothing more comes; what it still sends is discarded unread, for `LINGER_S` at most.
        """
        transport = self.transport
        if transport is None or transport.is_closing():
            return
        self._linger_bytes = LINGER_BYTES
        self._stop_parsing(payload)
        if transport.can_write_eof():  # TLS can't
            transport.write_eof()
        self._resume_reading()
        self._linger_end = self.loop.call_later(LINGER_S, self.force_close)

    async def linger_to_end(self, payload: StreamReader) -> None:
        """Do what `linger` does, and return when the connection has ended."""
        self.linger(payload)
        if self._linger_end is not None:
            self._linger_over = self.loop.create_future()
            await self._linger_over

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """The answer to what is not HTTP. Our own handler lets nothing else through."""
        response: web.StreamResponse
        if isinstance(exc, HttpProcessingError):
            reply = errors.HEAD_TOO_LARGE if isinstance(exc, LineTooLong) else errors.UNREADABLE
            response = web.Response(status=reply.status, body=reply.body, content_type="application/json")
            response.force_close()
        else:
            response = super().handle_error(request, status, exc, message)
        response.headers["Server"] = SERVER
        for line in self.last_lines.splitlines():
            name, _, value = line.partition(": ")
            response.headers[name] = value
        return response

    def log_exception(self, *args: Any, **options: Any) -> None:
        """Log errors as aiohttp does, except those that clients cause, such as a body that is no gzip but says so."""
        if not isinstance(options.get("exc_info"), HttpProcessingError | web.RequestPayloadError):
            super().log_exception(*args, **options)

    # ---- its end -----------------------------------------------------------------------------------------------------

    def _stop_parsing(self, payload: StreamReader) -> None:
        """Let go of what has come of a body; its connection lingers."""
        raise NotImplementedError

    def _discard_more(self, size: int) -> None:
        """So many bytes came while it lingers."""
        self._linger_bytes = max(self._linger_bytes - size, 1)
        if self._linger_bytes == 1 and self.transport is not None:
            self.transport.pause_reading()
            self.loop.call_later(LINGER_PAUSE_S, self._resume_reading)

    def _resume_reading(self) -> None:
        if self.transport is not None:
            with suppress(RuntimeError):  # the event loops differ in what they make of one that isn't paused
                self.transport.resume_reading()

    # ---- deadlines and limits ----------------------------------------------------------------------------------------

    def _look_at_body(self, request: web.BaseRequest, now_s: float, body_s: float) -> None:
        if request is not self._body_of:
            self._body_of, self._body_since = request, now_s
        elif now_s - self._body_since >= body_s and request.content.exception() is None:
            request.content.set_exception(BodyTimeout())

    def _count_framing(self, body: StreamReader, size: int, held_bytes: int = 0) -> None:
        """`size` more bytes came of a request; refuse its body if too few of them are content.

        Only chunks make more bytes of a body than it has: those that the parser holds back while a reader is paused
        (`held_bytes` at most) aren't counted, and otherwise it holds less than half of what came.
        """
        if body is not self._counted:
            self._counted, self._sent_bytes = body, body.total_bytes
            return
        self._sent_bytes += size
        sent_bytes = self._sent_bytes - held_bytes
        framing = sent_bytes - body.total_bytes
        if framing <= MAX_FRAMING_BYTES or framing * 2 <= sent_bytes:
            return
        if not body.is_eof() and body.exception() is None:
            body.set_exception(TinyChunks())

    def _head_is_late(self) -> None:
        if self._head_bytes:
            self._say_and_close(errors.REQUEST_TIMEOUT)
        else:
            self.force_close()  # nothing was asked, so there is nothing to answer

    def _say_and_close(self, reply: ErrorResponse) -> None:
        if self.transport is not None:
            self.transport.write(last_words(reply, self.last_lines))
        self.force_close()
