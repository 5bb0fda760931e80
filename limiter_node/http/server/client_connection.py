"""One connection of the node's server: what aiohttp makes of it, and the deadlines that aiohttp doesn't have.

aiohttp waits for ever for the rest of a request. Here every state of a connection in which the client is to do
something has its limit:

- a head that doesn't come: `header_s` since it began, or since the connection was opened if nothing came at all;
- a body that doesn't come: `body_s` for all of it, so that trickling doesn't help;
- an answer that isn't read: `stalled_s` in which more of it waited than the buffer is for and the client took less than
  4 KiB a second, whether more of it is still to come or not;
- a request that was answered and whose body goes on: see `linger`;
- nothing asked on a connection kept open: aiohttp's own keep-alive timer.

No request starts a timer for this: `HttpServer` looks at all connections now and then, so that a deadline is noticed up
to that much later. A connection with a request in the upstream's hands, or one waiting for the store, has no deadline
here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from http import HTTPStatus
from time import monotonic
from typing import Any, NamedTuple, cast

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError, LineTooLong
from aiohttp.http_parser import RawRequestMessage
from aiohttp.streams import StreamReader

from limiter_node.http.responses import errors
from limiter_node.http.responses.errors import ErrorResponse
from limiter_node.http.responses.headers import SERVER, SERVER_LINE
from limiter_node.http.server.raw_body import BodyTimeout, ClientLeft, UnreadableBody, forget
from limiter_node.http.server.serving import ServingConnection
from limiter_node.http.server.slices import SlicingConnection

MAX_LINE_BYTES = 8_190
"""Of a request line, and of a header field."""
MAX_HEADERS = 64
MAX_PARTIAL_HEAD_BYTES = 32_768
"""Of a head that came in pieces and isn't whole yet. What comes in one piece has the limits above."""

MIN_READ_BYTES_PER_S = 4_096
"""A client counts as reading its answer if it takes at least this many bytes a second, while there are any."""
LINGER_S, LINGER_BYTES, LINGER_PAUSE_S = 1.0, 1_048_576, 0.01
"""A connection stays open for so long behind a response that ends it while its client still sends. So much of that is
read at once, the rest a block at a time, with pauses. Clients that look for the response only once they have
sent all (httpx's asynchronous one) lose it if the connection is reset before; so do others on some systems."""

_receive = ServingConnection.data_received


class Deadlines(NamedTuple):
    """How long, in seconds, a client may take."""

    header_s: float = 10.0
    body_s: float = 30.0
    stalled_s: float = 60.0


class Connection(SlicingConnection):
    """aiohttp lets handlers run on when a connection ends; those that want to know set `on_gone`."""

    __slots__ = (
        "_behind_at",
        "_behind_s",
        "_body_of",
        "_body_since",
        "_head_bytes",
        "_head_of",
        "_head_since",
        "_linger_bytes",
        "_linger_end",
        "_taken_bytes",
        "_unsent_bytes",
        "arrived_s",
        "last_lines",
        "left_s",
        "on_gone",
    )

    last_lines: str
    """Header lines of what is said to no request; the server sets them."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """It is open."""
        self.on_gone: Callable[[], None] | None = None
        self.left_s: float | None = None  # when the client left, by the loop's time
        # The part of a head: of the request after so many, since when, and its size so far.
        self._head_of = 0
        self._head_since = self._loop.time()
        self._head_bytes = 0
        self._body_of: web.BaseRequest | None = None
        self._body_since = 0.0
        # Of the answer: how long more of it has waited than the buffer is for, the bytes taken in that time; when that
        # was last so, 0 if the last look saw no such thing; what was unsent then.
        self._behind_s = self._behind_at = 0.0
        self._taken_bytes = self._unsent_bytes = 0
        self._linger_end: asyncio.TimerHandle | None = None
        self._linger_bytes = 0
        self.arrived_s = 0.0  # when the last bytes of the request under way came, by `time.monotonic`
        super().connection_made(transport)

    def data_received(self, data: bytes) -> None:
        """Every request comes this way: nothing here but what tells a whole one, the usual case, from the others."""
        if len(data) > self._whole_bytes and self._takes_in_slices(data):
            return
        self.arrived_s = monotonic()  # the loop's time stands still within a turn
        _receive(self, data)  # `super` costs 0.1 µs, which every request would pay
        waiter = self._waiter
        if waiter is None:
            if self.body is None and not self._messages:
                self._part_of_head_came(len(data))  # before aiohttp's task waits for it
            else:
                self._more_came(len(data))
        elif waiter.done():
            if len(self._messages) > 1:
                self._more_came(len(data))
        elif data:
            self._part_of_head_came(len(data))

    def has_rested(self) -> None:
        """What came meanwhile has waited for no other reason."""
        self.arrived_s = monotonic()

    def eof_received(self) -> None:
        """The client will send nothing more. The transport closes then: what is written from now on is not sent."""
        super().eof_received()
        self.left_s = self._loop.time()
        if self.on_gone is not None:
            self.on_gone()

    def connection_lost(self, exc: BaseException | None) -> None:
        """It is gone, by either side."""
        super().connection_lost(exc)
        if self.left_s is None:
            self.left_s = self._loop.time()
        if self.body is not None and not self.body.is_eof() and self.body.exception() is None:
            self.body.set_exception(ClientLeft())  # aiohttp tells only who answers, not who discards the rest
        self.body = self._body_of = None  # they know the connection, as do those that wait behind the request under way
        self._messages.clear()
        if self._linger_end is not None:
            self._linger_end.cancel()
            self._linger_end = None
        if self.on_gone is not None:
            self.on_gone()

    def pause_writing(self) -> None:
        """The client reads more slowly than it is written to."""
        super().pause_writing()
        if self.transport is not None:
            self._unsent_bytes = self.transport.get_write_buffer_size()

    def resume_writing(self) -> None:
        """The client has taken most of what waited."""
        if self.transport is not None:
            self._count_taken(self.transport.get_write_buffer_size())
        super().resume_writing()

    def linger(self, payload: StreamReader) -> None:
        """End the connection behind a response that was sent before the request's body came whole.

        The client is told that nothing more comes; what it still sends is discarded unread, for `LINGER_S` at most.
        """
        transport = self.transport
        if transport is None or transport.is_closing():
            return
        self._linger_bytes = LINGER_BYTES
        self._close = True  # from here on, aiohttp leaves what comes alone
        if payload.exception() is None:
            forget(payload)  # else it stays in memory until the end
        self._parser = None  # as well as what it holds
        self._drop_unparsed()
        if transport.can_write_eof():  # TLS can't
            transport.write_eof()
        self._resume_transport_reading()
        self._linger_end = self._loop.call_later(LINGER_S, self.force_close)

    def look(self, now_s: float, transport: asyncio.Transport, deadlines: Deadlines) -> None:
        """End the connection if its client has had its time. `now_s` is the loop's."""
        waiter = self._waiter
        if waiter is not None:
            if self._head_of == self._request_count and now_s - self._head_since >= deadlines.header_s:
                self._head_is_late()
            return
        request = self._current_request
        if request is not None and not request.content.is_eof():
            if request is not self._body_of:
                self._body_of, self._body_since = request, now_s
            elif now_s - self._body_since >= deadlines.body_s and request.content.exception() is None:
                request.content.set_exception(BodyTimeout())
            return
        self._body_of = None
        if self._paused or transport.is_closing():
            self._look_at_reader(now_s, transport, deadlines.stalled_s)
        else:
            self._behind_at = 0.0  # what is written now isn't known here, so this time doesn't count
            if not transport.get_write_buffer_size():
                self._behind_s, self._taken_bytes = 0.0, 0

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
        """What aiohttp has to say, unless it is about what a client sent, as a body that is not the gzip it claims."""
        if not isinstance(options.get("exc_info"), HttpProcessingError | web.RequestPayloadError):
            super().log_exception(*args, **options)

    # ---- what is not usual -----------------------------------------------------------------------------------------

    def _more_came(self, size: int) -> None:
        """The rest of a body, or a request before the last one was answered.

        aiohttp queues the error that a broken chunk is behind the request whose body it broke, which would wait for
        the rest for ever; here that is told.
        """
        if self._linger_bytes:
            self._linger_bytes = max(self._linger_bytes - size, 1)
            if self._linger_bytes == 1:
                self._pause_transport_reading()
                self._loop.call_later(LINGER_PAUSE_S, self._resume_transport_reading)
            return
        if self._unparsed:
            self._parse_soon()  # whoever reads a body has taken what there was
        if size and self.body is not None:
            self._count_framing(self.body, size)
        if not self._messages or isinstance(self._messages[-1][0], RawRequestMessage):
            return
        payloads = [payload for _, payload in self._messages]
        if self.body is not None:
            payloads.append(self.body)
        for payload in payloads:
            if not payload.is_eof() and payload.exception() is None:
                payload.set_exception(UnreadableBody("broken framing"))

    def _part_of_head_came(self, size: int) -> None:
        if self._head_of != self._request_count:
            self._head_of, self._head_since, self._head_bytes = self._request_count, self._loop.time(), 0
        self._head_bytes += size
        if self._head_bytes > MAX_PARTIAL_HEAD_BYTES:
            self._say_and_close(errors.HEAD_TOO_LARGE)

    def _head_is_late(self) -> None:
        if self._head_bytes:
            self._say_and_close(errors.REQUEST_TIMEOUT)
        else:
            self.force_close()  # nothing was asked, so there is nothing to answer

    def _look_at_reader(self, now_s: float, transport: asyncio.Transport, stalled_s: float) -> None:
        unsent_bytes = transport.get_write_buffer_size()
        if not self._behind_at:
            self._behind_at, self._unsent_bytes = now_s, unsent_bytes
            return
        self._count_taken(unsent_bytes)
        self._behind_s += now_s - self._behind_at
        self._behind_at = now_s
        if self._taken_bytes >= stalled_s * MIN_READ_BYTES_PER_S:
            self._behind_s, self._taken_bytes = 0.0, 0
        elif self._behind_s >= stalled_s:
            transport.abort()

    def _count_taken(self, unsent_bytes: int) -> None:
        """Count what the client took: by so much fewer bytes are unsent. New ones only hide some of that."""
        self._taken_bytes += max(self._unsent_bytes - unsent_bytes, 0)
        self._unsent_bytes = unsent_bytes

    def _say_and_close(self, reply: ErrorResponse) -> None:
        if self.transport is not None:
            self.transport.write(last_words(reply, self.last_lines))
        self.force_close()


class Refused(asyncio.Protocol):
    """A connection too many: it gets a 503 without having asked, and its end.

    A client that sent its request already finds both; so does one that sends it too late.
    """

    def __init__(self, last_lines: str = "") -> None:
        self._last_lines = last_lines

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """It is open, for the moment."""
        refused = cast(asyncio.Transport, transport)  # uvloop's doesn't inherit from it
        refused.write(last_words(errors.OVERLOADED, _RETRY + self._last_lines))
        refused.close()


def last_words(reply: ErrorResponse, fields: str = "") -> bytes:
    """An answer to no request in particular, after which the connection is closed."""
    head = (
        f"HTTP/1.1 {reply.status} {HTTPStatus(reply.status).phrase}\r\n{SERVER_LINE}"
        f"Content-Type: application/json\r\n{fields}Content-Length: {len(reply.body)}\r\nConnection: close\r\n\r\n"
    )
    return head.encode() + reply.body


_RETRY = "retry-after-ms: 1000\r\nretry-after: 1\r\n"
