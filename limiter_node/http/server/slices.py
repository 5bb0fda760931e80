"""A connection that is sent many tiny pieces, as chunks of a byte, and parses them a few at a time.

aiohttp's parser calls back for each chunk of a body, and one read brings up to 256 KB: 43,000 chunks of a byte, for
which all others would wait. What is full of line ends is therefore parsed in slices: the first when it comes, then one
per turn of the event loop, of all connections. The next slice of a body is parsed only when what came before was read,
so that a body nobody wants costs one slice. Nothing is read from the client meanwhile, and what it sent stays in its
order.

The hold on reading is aiohttp's own, for buffers that can't be emptied yet (`holds_reading`): whatever else resumes
reading respects it.
"""

from __future__ import annotations

import asyncio
import sys
from collections import deque
from typing import Final

from aiohttp import hdrs
from aiohttp.http_parser import RawRequestMessage

from limiter_node.http.server.aiohttp_private import OpenConnection, has_unread
from limiter_node.http.server.client_connection import ClientConnection

WHOLE_BYTES: Final = 8_192
"""So much is parsed at once, whatever it is: at most half a millisecond's work."""
SLICE_BYTES: Final = 2_048
"""Smaller, because a request of others has several turns, each of which may be behind a slice."""
DENSE_BYTES: Final = 16
"""Data with more than one line end in so many bytes is parsed in slices. A chunk has two."""


class SliceTurns:
    """The order in which connections parse their slices: one slice in each turn of the event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._queue: deque[SlicingConnection] = deque()

    def add(self, connection: SlicingConnection) -> None:
        """`take_turn` of `connection` is called when all that came before it have had theirs."""
        self._queue.append(connection)
        if len(self._queue) == 1:
            self._loop.call_soon(self._give)

    def _give(self) -> None:
        try:
            self._queue[0].take_turn()  # it is in the queue until then, so that one that is added doesn't begin another
        finally:
            self._queue.popleft()
            if self._queue:
                self._loop.call_soon(self._give)


class SlicingConnection(ClientConnection, OpenConnection):
    """Its `data_received` hands over what is longer than `_whole_bytes` to `_takes_in_slices`."""

    __slots__ = ("_is_queued", "_parsed_bytes", "_unparsed", "_whole_bytes", "turns")

    turns: SliceTurns
    """Of all connections; the server sets it."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take a new connection, of which nothing waits."""
        self._whole_bytes = WHOLE_BYTES
        self._unparsed = b""  # what waits for its turn, from `_parsed_bytes` on
        self._parsed_bytes = 0
        self._is_queued = False
        super().connection_made(transport)

    def connection_lost(self, exc: BaseException | None) -> None:
        """Drop the bytes that wait; either side may have ended the connection."""
        super().connection_lost(exc)
        self._drop_unparsed()

    @property
    def has_unparsed(self) -> bool:
        """Whether something that the client sent waits to be parsed."""
        return bool(self._unparsed)

    def _takes_in_slices(self, data: bytes) -> bool:
        """Whether `data` is dealt with here; the first slice of it has been, then."""
        if self._unparsed:
            self._unparsed += data  # reading has ended, but a transport may have had it already
            return True
        # One byte is found far sooner than two are.
        if self._ends or self.is_upgraded or data.count(b"\n") * DENSE_BYTES <= len(data):
            return False
        self._unparsed, self._parsed_bytes = bytes(data), 0
        self.hold_reading()
        self._parse_slice()
        return True

    def _parse_soon(self) -> None:
        """Parse a slice in the connection's next turn, if one waits and may be parsed then."""
        if self._unparsed and not self._is_queued:
            self._is_queued = True
            self.turns.add(self)

    def take_turn(self) -> None:
        """Parse a slice, if one still waits; `SliceTurns` calls this."""
        self._is_queued = False
        if self._unparsed:
            self._parse_slice()

    def _drop_unparsed(self) -> None:
        """Forget what waits; reading goes on only when it is resumed."""
        self._unparsed, self._whole_bytes, self.holds_reading = b"", WHOLE_BYTES, False

    def resume_if_drained(self) -> None:
        """Read on unless something waits; what waits is parsed first."""
        if not self._unparsed:
            super().resume_if_drained()
            return
        self.data_received(b"")  # what the parser kept while the queue was full comes first
        self._parse_soon()

    @property
    def _ends(self) -> bool:
        return self.parser is None or self.is_last or self.is_ended

    def _parse_slice(self) -> None:
        if self._ends:
            self._drop_unparsed()
            return
        if self._must_wait():
            return  # whoever takes something from the queue, or reads the body, calls `_parse_soon`
        self._feed(SLICE_BYTES)
        if self._unparsed and (size := self._rest_of_length()):
            self._feed(size)
        if self.queue and not isinstance(self.queue[-1][0], RawRequestMessage):
            self._drop_unparsed()  # nothing can be read after what is not HTTP
            self.release_reading()
        elif self._unparsed:
            self._parse_soon()
        else:
            super().resume_if_drained()

    def _feed(self, size: int) -> None:
        end = self._parsed_bytes + size
        part = self._unparsed[self._parsed_bytes : end]
        self._parsed_bytes = end
        if end >= len(self._unparsed):
            self._unparsed = b""
        self._whole_bytes = sys.maxsize
        try:
            self.data_received(part)
        finally:
            self._whole_bytes = 0 if self._unparsed else WHOLE_BYTES

    def _must_wait(self) -> bool:
        """Whether the queue of requests is full, or the body under way has something that nobody has read yet."""
        queue = self.queue
        if len(queue) >= self.queue_limit:
            return True
        body = queue[-1][1] if queue else self.body
        if body is None or body.is_eof():
            return False
        return body.exception() is not None or has_unread(body)

    def _rest_of_length(self) -> int:
        """Return how many bytes of a body with a declared length are still to come: the parser takes those in one
        piece.
        """
        if self.queue:
            message, body = self.queue[-1]
            headers = message.headers if isinstance(message, RawRequestMessage) else {}
        elif (request := self.current_request) is not None:
            headers, body = request.headers, request.content
        else:
            return 0
        length = headers.get(hdrs.CONTENT_LENGTH)
        return 0 if length is None or body.is_eof() else int(length) - body.total_bytes
