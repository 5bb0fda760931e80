"""A connection that is served by aiohttp's private names: what came is told apart at once, and nothing is wrapped."""

from __future__ import annotations

import asyncio
import sys
from time import monotonic

from aiohttp.http_parser import RawRequestMessage
from aiohttp.streams import StreamReader
from aiohttp.web_protocol import RequestHandler

from limiter_node.http.responses import errors
from limiter_node.http.server.aiohttp_private import forget
from limiter_node.http.server.client_connection import MAX_PARTIAL_HEAD_BYTES, Deadlines
from limiter_node.http.server.raw_body import UnreadableBody
from limiter_node.http.server.slices import SlicingConnection

_receive = RequestHandler.data_received


class FastConnection(SlicingConnection):
    """Reads the connection's state from aiohttp's private attributes."""

    __slots__ = ("_head_of", "_head_since")

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin to count the client's time."""
        # The part of a head: of the request after so many, and since when.
        self._head_of = 0
        self._head_since = self.loop.time()
        super().connection_made(transport)

    def data_received(self, data: bytes) -> None:
        """Every request comes this way: nothing here but what tells a whole one, the usual case, from the others."""
        if len(data) > self._whole_bytes and self._takes_in_slices(data):
            return
        self.arrived_s = monotonic()  # the loop's time stands still within a turn
        _receive(self, data)  # `super` costs 0.1 µs, which every request would pay
        waiter = self.waiter
        if waiter is None:
            if self.body is None and not self.queue:
                self._part_of_head_came(len(data))  # before aiohttp's task waits for it
            else:
                self._more_came(len(data))
        elif waiter.done():
            if len(self.queue) > 1:
                self._more_came(len(data))
        elif data:
            self._part_of_head_came(len(data))

    def connection_lost(self, exc: BaseException | None) -> None:
        """Forget the requests that wait; either side may have ended the connection."""
        super().connection_lost(exc)
        self.queue.clear()  # those that wait behind the request under way know the connection

    def look(self, now_s: float, deadlines: Deadlines) -> None:
        """End the connection if its client has had its time. `now_s` is the loop's."""
        if self.waiter is not None:
            if self._head_of == self.parsed_requests and now_s - self._head_since >= deadlines.header_s:
                self._head_is_late()
            return
        request = self.current_request
        if request is not None and not request.content.is_eof():
            self._look_at_body(request, now_s, deadlines.body_s)
        else:
            self._body_of = None
            self.look_at_answer(now_s, deadlines.stalled_s)

    # ---- what is not usual -----------------------------------------------------------------------------------------

    def _more_came(self, size: int) -> None:
        """The rest of a body, or a request before the last one was answered.

        aiohttp queues the error that a broken chunk is behind the request whose body it broke, which would wait for
        the rest for ever; here that is told.
        """
        if self._linger_bytes:
            self._discard_more(size)
            return
        if self._unparsed:
            self._parse_soon()  # whoever reads a body has taken what there was
        if size and self.body is not None:
            self._count_framing(self.body, size, sys.maxsize if self.is_reading_paused else 0)
        if not self.queue or isinstance(self.queue[-1][0], RawRequestMessage):
            return
        payloads = [payload for _, payload in self.queue]
        if self.body is not None:
            payloads.append(self.body)
        for payload in payloads:
            if not payload.is_eof() and payload.exception() is None:
                payload.set_exception(UnreadableBody("broken framing"))

    def _stop_parsing(self, payload: StreamReader) -> None:
        self.is_last = True  # from here on, aiohttp leaves what comes alone
        if payload.exception() is None:
            forget(payload)  # else it stays in memory until the end
        self.parser = None  # as well as what it holds
        self._drop_unparsed()

    def _part_of_head_came(self, size: int) -> None:
        if self._head_of != self.parsed_requests:
            self._head_of, self._head_since, self._head_bytes = self.parsed_requests, self.loop.time(), 0
        self._head_bytes += size
        if self._head_bytes > MAX_PARTIAL_HEAD_BYTES:
            self._say_and_close(errors.HEAD_TOO_LARGE)


class TaskConnection(FastConnection):
    """A `FastConnection` that leaves the loop over its requests to aiohttp, which makes a task for each."""

    __slots__ = ()

    start = RequestHandler.start
