"""A connection that is served by aiohttp's public API alone, where its private names aren't known.

Its handler is wrapped (`PublicHandler`), so that it is known when a request begins and ends. It is slower than
`fast_connection` by some µs a request. It also lacks:

- Slices: a read of tiny chunks, up to 256 KB, is parsed at once, for which all others wait some 20 ms; and too much
  framing is noticed a read later, so not in a body that is one read.
- The early 400 for a chunk that is broken: its request gets a 408 at the body's deadline.
- Letting go: an idle connection holds its last request (not its body) until the next comes, and what waits behind a
  request whose client leaves stays until the garbage collector comes by.
- A head that began while the last request was under way has its deadline from when that one was answered; one that
  began in the read that ended that request, from its next part on, and if none comes, that of idle connections.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from time import monotonic

from aiohttp import web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.streams import StreamReader

from limiter_node.http.responses import errors
from limiter_node.http.responses.whole_response import Written
from limiter_node.http.server.client_connection import MAX_PARTIAL_HEAD_BYTES, ClientConnection, Deadlines

Handler = Callable[[web.BaseRequest], Awaitable[Written]]


class PublicConnection(ClientConnection):
    """Knows by what came and what was answered in which state the connection is."""

    __slots__ = ("_came_behind", "_head_since", "_held_bytes", "_is_answered", "_request")

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin to count the client's time."""
        self._request: web.BaseRequest | None = None  # the one under way, until its response has been sent
        self._is_answered = False  # it is, or was: its response is being sent
        # Since when a head is to come; None if none is.
        self._head_since: float | None = self.loop.time()
        self._came_behind = False  # more than the request under way
        self._held_bytes = 0  # at most so much of a body hasn't been parsed
        super().connection_made(transport)

    def data_received(self, data: bytes) -> None:
        """Tell the parts of a head from the rest."""
        if self._linger_bytes:
            self._discard_more(len(data))
            return
        self.arrived_s = monotonic()
        body, request = self.body, self._request
        if data and request is not None and request.content.is_eof():
            self._came_behind = True
        is_reading = not self._is_held_back()
        super().data_received(data)
        if not data:
            return
        if request is None:
            if self._head_since is None:
                self._head_since = self.loop.time()
            self._head_bytes += len(data)
            if self._head_bytes > MAX_PARTIAL_HEAD_BYTES:
                self.loop.call_soon(self._look_at_head)  # behind aiohttp's task, which takes the head if it is whole
        elif body is not None:
            # What the parser holds back, if anything, has come since reading was paused.
            self._held_bytes = len(data) if is_reading else self._held_bytes + len(data)
            self._count_framing(body, len(data), self._held_bytes if self._is_held_back() else 0)

    def connection_lost(self, exc: BaseException | None) -> None:
        """Forget the request under way; either side may have ended the connection."""
        super().connection_lost(exc)
        self._request = None

    def _is_held_back(self) -> bool:
        """Whether nothing is read from the client, so that the parser may hold some of what came."""
        return self.transport is None or not self.transport.is_reading()

    def begin(self, request: web.BaseRequest) -> None:
        """Note that aiohttp has a whole head, and answers `request`."""
        self._request, self._is_answered, self._came_behind = request, False, False
        self._head_since, self._head_bytes = None, 0
        self._counted, self._sent_bytes = request.content, request.content.total_bytes

    def on_answered(self) -> None:
        """Note that there is a response: what is still to come of the body isn't waited for."""
        self._is_answered = True

    def end(self) -> None:
        """Note that the response has been sent. What came behind the request may be a part of the next one's head."""
        self._request = None
        if self._came_behind:
            self._head_since = self.loop.time()

    def look(self, now_s: float, deadlines: Deadlines) -> None:
        """End the connection if its client has had its time. `now_s` is the loop's."""
        request = self._request
        if self._head_since is not None:
            if now_s - self._head_since >= deadlines.header_s:
                self._head_is_late()
        elif request is not None and not self._is_answered and not request.content.is_eof():
            self._look_at_body(request, now_s, deadlines.body_s)
        else:
            self._body_of = None
            self.look_at_answer(now_s, deadlines.stalled_s)

    def _stop_parsing(self, payload: StreamReader) -> None:
        if payload.exception() is None:
            payload.read_nowait()

    def _look_at_head(self) -> None:
        if self._request is None and self._head_bytes > MAX_PARTIAL_HEAD_BYTES:
            self._say_and_close(errors.HEAD_TOO_LARGE)


class PublicHandler:
    """Calls a handler in the task that aiohttp makes for a request, and looks after what that leaves undone."""

    def __init__(self, handler: Handler) -> None:
        self._handler = handler

    async def __call__(self, request: web.BaseRequest) -> Sent:
        """Answer `request`."""
        connection = request.protocol
        assert isinstance(connection, ClientConnection)
        if connection.arrived_s == connection.begun_s:
            # It came with its predecessor. Tasks that begin at once, as from Python 3.12 on, give others no turn.
            await asyncio.sleep(0)
            connection.has_rested()
        connection.begun_s = connection.arrived_s
        response = await self._handler(request)
        if isinstance(connection, PublicConnection):
            connection.on_answered()
        return Sent(response, connection, request.content)


class Sent:
    """A response for aiohttp, which asks for the attributes here and for no other.

    Behind it, the rest of the request's body is discarded or the connection is ended.
    """

    __slots__ = ("_connection", "_payload", "_response", "keep_alive")

    def __init__(self, response: Written, connection: ClientConnection, payload: StreamReader) -> None:
        self._response, self._connection, self._payload = response, connection, payload
        self.keep_alive = False

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        """Write it. Raises `ConnectionResetError` where the client has gone."""
        return await self._response.prepare(request)

    async def write_eof(self) -> None:
        """Wait for a slow reader, and for the rest of the body."""
        connection, payload = self._connection, self._payload
        try:
            await self._response.write_eof()
            self.keep_alive = self._response.keep_alive
            del self._response  # aiohttp's loop holds this object until the next request
            if not payload.is_eof() and not (self.keep_alive and await connection.discard(payload)):
                self.keep_alive = False
                await connection.linger_to_end(payload)
        finally:
            if isinstance(connection, PublicConnection):
                connection.end()


class TaskRequest(web.BaseRequest):
    """A request that is handled in a task of its own, to be asked for by who runs there."""

    @property
    def task(self) -> asyncio.Task[None]:
        """The task that handles it."""
        task = asyncio.current_task()
        assert task is not None
        return task
