"""One keep-alive connection to a service, on llhttp: hands the parts of an answer on to its `Exchange`.

`request_writing` writes requests on it, `connection_pool` keeps it between them.

A service's effect on the node is bounded here, whatever it sends. The size: of a head and its 1xx responses, and of
framing without a body (`MAX_HEAD_BYTES`). The time: until the head (`read_s` from the request on, however many 1xx
come), of silence within a body (`read_s`), and after an answer's end mark (`end_within`). Nothing is unpacked.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Final, Protocol, cast

import httptools

from limiter_node.upstream.gateway.wire.exchange import Broken, Exchange, Fields, Unread
from limiter_node.upstream.gateway.wire.read_turns import READ_SLICE_BYTES, ReadTurns

MAX_HEAD_BYTES: Final = 262_144
"""The bound of a head with all 1xx responses before it, and of trailers and chunk headers between parts of a body."""


class ConnectionKeeper(Protocol):
    """Keep connections: the pool's interface for a connection."""

    turns: ReadTurns
    now_s: Callable[[], float]
    """The event loop's clock."""

    def take_back(self, connection: ServiceConnection) -> None:
        """Keep a connection whose exchange has ended."""

    def forget(self, connection: ServiceConnection) -> None:
        """Drop a connection that is closed."""


class ServiceConnection(asyncio.Protocol):
    """Carry one exchange at a time. `read_s`: the seconds that the service may be silent."""

    __slots__ = (
        "_backlog",
        "_exchange",
        "_fields",
        "_framing_bytes",
        "_has_surplus",
        "_has_turn",
        "_is_closing",
        "_is_interim",
        "_is_over",
        "_is_paused",
        "_is_whole_at_eof",
        "_keeper",
        "_keeps_alive",
        "_parser",
        "_parts",
        "_read_s",
        "_refused",
        "_transport",
        "_writable",
        "deadline_s",
        "has_unsent",
        "idle_since_s",
        "was_used",
    )

    def __init__(self, keeper: ConnectionKeeper, read_s: float) -> None:
        self._keeper, self._read_s = keeper, read_s
        self._parser: httptools.HttpResponseParser | None = None
        self._transport: asyncio.Transport | None = None
        self._exchange: Exchange | None = None
        self._parts: list[bytes] = []
        self._is_paused = False
        self._has_turn = False
        self._backlog: deque[memoryview] = deque()  # received bytes that still have to be taken in
        self._writable: asyncio.Future[None] | None = None
        self.was_used = False
        self.deadline_s = 0.0
        """The time at which the pool fails the exchange, by the event loop's clock."""
        self.idle_since_s = 0.0
        self.has_unsent = False
        """Whether a part of the request was not written: then the connection can't carry another one."""

    # ---- for the pool, exchanges and writers -------------------------------------------------------------------------

    @property
    def is_open(self) -> bool:
        """Whether the connection is open, so that a request can be written."""
        return self._transport is not None and not self._transport.is_closing()

    def begin(self, now_s: float) -> Exchange:
        """Return the exchange of the next request, which begins now."""
        self._fields: Fields = []
        self._framing_bytes = 0
        self._is_interim = self._is_over = self._is_closing = self._is_whole_at_eof = False
        self._keeps_alive = self._has_surplus = self.has_unsent = False
        self._refused: str | None = None
        self.deadline_s = now_s + self._read_s
        self._exchange = exchange = Exchange(self)
        return exchange

    def carries(self, exchange: Exchange) -> bool:
        """Whether the answer of `exchange` is still to come, or to end, on this connection."""
        return exchange is self._exchange

    def write(self, data: bytes | memoryview) -> None:
        """Write a part of a request. Does nothing if the connection is closed: its exchange has failed then."""
        if self._transport is not None:
            self._transport.write(data)

    async def drained(self) -> None:
        """Return when the service has taken enough for more, at the earliest in the loop's next turn."""
        if self._writable is not None:
            await asyncio.wait([self._writable])
        else:
            await asyncio.sleep(0)

    def pause(self) -> None:
        """Read no more for the moment. The service isn't silent then: there is no deadline."""
        if not self._is_paused and self._transport is not None:
            self._is_paused = True
            self._transport.pause_reading()

    def resume(self) -> None:
        """Read on after `pause`, with a new deadline."""
        if self._is_paused and self._transport is not None:
            self._is_paused = False
            if not self._is_closing:
                self.deadline_s = self._keeper.now_s() + self._read_s
            if self._backlog:
                self._wait_for_turn()
            else:
                self._transport.resume_reading()

    def abort(self) -> None:
        """Close the connection at once."""
        if self._transport is not None:
            self._transport.abort()

    def end_within(self, seconds: float) -> None:
        """Close the connection unless the answer ends within `seconds`."""
        self._is_closing = True
        self.deadline_s = self._keeper.now_s() + seconds

    def look(self, now_s: float) -> None:
        """Fail the exchange under way if its deadline has passed."""
        if now_s >= self.deadline_s and not self._is_paused:
            self._fail(TimeoutError())

    # ---- asyncio -----------------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's doesn't inherit from it
        self._parser = httptools.HttpResponseParser(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        while self._backlog:  # received before the end
            self._take_in(bytes(self._backlog.popleft()))
        self._parser = None  # it refers to this connection: a cycle
        self.resume_writing()
        exchange, self._exchange = self._exchange, None
        self._keeper.forget(self)
        if exchange is None:
            return
        if self._is_whole_at_eof and exc is None:
            exchange.on_end()
        else:
            kind = Broken if exchange.status or self._framing_bytes else Unread
            exchange.on_end(kind("closed the connection" if exc is None else f"{type(exc).__name__}"))

    def pause_writing(self) -> None:
        self._writable = asyncio.get_running_loop().create_future()

    def resume_writing(self) -> None:
        writable, self._writable = self._writable, None
        if writable is not None and not writable.done():
            writable.set_result(None)

    def data_received(self, data: bytes) -> None:
        if len(data) <= READ_SLICE_BYTES and not self._backlog:
            self._take_in(data)
            return
        self._backlog.append(memoryview(data))
        if self._transport is not None and not self._is_paused:
            self._transport.pause_reading()
        self._wait_for_turn()

    def _wait_for_turn(self) -> None:
        if not self._has_turn:
            self._has_turn = True
            self._keeper.turns.add(self)

    def take_slice(self) -> bool:
        """Take in a slice of the received bytes. Return whether there are more that somebody waits for."""
        self._has_turn = False
        backlog = self._backlog
        if not backlog or self._is_paused:
            return False  # closed; or its reader is behind, and `resume` continues
        first = backlog[0]
        if len(first) > READ_SLICE_BYTES:
            backlog[0] = first[READ_SLICE_BYTES:]
        else:
            backlog.popleft()
        self._take_in(bytes(first[:READ_SLICE_BYTES]))
        if self._is_paused or self._transport is None:
            return False
        if not backlog:
            self._transport.resume_reading()
        self._has_turn = bool(backlog)
        return self._has_turn

    def _take_in(self, data: bytes) -> None:
        exchange = self._exchange
        parser = self._parser
        if exchange is None or parser is None:
            self.abort()  # unasked bytes must not become the next request's answer
            return
        error: str | None = None
        try:
            parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            error = "switched protocols"
        except httptools.HttpParserError:
            error = "sent something that is not HTTP"
        if self._refused is not None:
            self._fail(Broken(self._refused))
            return
        parts = self._parts
        if parts:
            body = parts[0] if len(parts) == 1 else b"".join(parts)
            parts.clear()
            self._framing_bytes = 0
            if not self._is_closing:
                self.deadline_s = self._keeper.now_s() + self._read_s
            exchange.on_body(body)
        else:
            self._framing_bytes += len(data)
            if self._framing_bytes > MAX_HEAD_BYTES:
                error = error or "sent headers without an end"
        if self._is_over:
            self._exchange = None
            if error is None and self._keeps_alive and not (self._has_surplus or self.has_unsent or self._backlog):
                self.resume()
                self._keeper.take_back(self)
            else:
                self.abort()
            exchange.on_end()
        elif error is not None:
            self._fail(Broken(error))

    # ---- llhttp ------------------------------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        if self._is_over:
            self._has_surplus = True

    def on_header(self, name: bytes, value: bytes) -> None:
        # Trailers are dropped.
        if self._exchange is not None and not self._exchange.status:
            self._fields.append((name.decode("latin-1").lower(), value.decode("latin-1")))

    def on_headers_complete(self) -> None:
        exchange, parser = self._exchange, self._parser
        if self._is_over or exchange is None or parser is None:
            return
        status = parser.get_status_code()
        self._is_interim = status < 200
        if self._is_interim:
            self._fields = []
            return
        named = dict(self._fields)
        coding = ""
        if "transfer-encoding" in named:
            codings = [value.strip() for name, value in self._fields if name == "transfer-encoding"]
            coding = ", ".join(codings).lower()
        if coding not in ("", "chunked", "identity"):
            self._refused = "packed its answer for the connection"  # it would have to be unpacked here
            return
        self._is_whole_at_eof = "content-length" not in named and coding != "chunked"
        self.deadline_s = self._keeper.now_s() + self._read_s
        exchange.on_head(status, self._fields)

    def on_body(self, data: bytes) -> None:
        if not self._is_over:
            self._parts.append(data)

    def on_message_complete(self) -> None:
        if not self._is_interim and self._parser is not None:
            self._is_over = True
            self._keeps_alive = self._parser.should_keep_alive()  # the parser forgets this once it has returned

    def _fail(self, failure: Exception) -> None:
        exchange, self._exchange = self._exchange, None
        self.abort()
        if exchange is not None:
            exchange.on_end(failure)
