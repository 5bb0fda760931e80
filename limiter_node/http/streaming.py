"""Sending answers while they are made, and accounting for them however they end.

What is charged is what was written to the connection, token for token. A stream ends in one of these ways, each of
which settles its reservation, once:

- whole;
- the upstream fails: before its first piece as any error (the caller of `Streams.send` answers it and accounts for
  it), afterwards by an error event, charged what it produced;
- the client leaves: noticed at once, also while the upstream is silent;
- the client reads nothing for `STALLED_S`: the connection is dropped;
- the node stops: an error event, after the time that streams under way are given;
- the handler is cancelled.

A reader that is slower than the upstream holds it up: nothing more is asked of the upstream while the connection's
buffer is above its high-water mark (64 KiB), so a stream holds that and one piece at most.
"""

from __future__ import annotations

import asyncio
import enum
import logging
from collections.abc import AsyncGenerator, Awaitable
from contextlib import aclosing, suppress
from functools import partial

from aiohttp import web
from aiohttp.http_writer import StreamWriter

from limiter_node.http import errors
from limiter_node.http.answer import Answer
from limiter_node.http.connection import Connection
from limiter_node.http.errors import ErrorReply
from limiter_node.http.headers import header_fields
from limiter_node.limiter.limiter import Reservation
from limiter_node.upstream.base import AnswerStream, Piece, UpstreamError, UpstreamRefusal

log = logging.getLogger(__name__)

_EVENT_STREAM = "text/event-stream"
STALLED_S = 60.0
"""A client that has read nothing for so long is taken for gone; by then its reservation has left the window."""


class Interruption(enum.Enum):
    """What ends a stream from outside."""

    LEFT = enum.auto()
    STALLED = enum.auto()
    STOPPING = enum.auto()


class Streams:
    """The streams under way on one node."""

    def __init__(self, stalled_s: float = STALLED_S) -> None:
        self._stalled_s = stalled_s
        self._under_way: set[_Stream] = set()

    async def send(
        self,
        request: web.BaseRequest,
        request_id: str,
        headers: str,
        answer: AnswerStream,
        reservation: Reservation,
    ) -> web.StreamResponse | Answer:
        """Answer `request` with `answer`; the response, begun and ended, as the answer has.

        `headers` are a decided response's; they become an event stream's with the first piece. Until then the status
        is open: `UpstreamError` (and any bug) is raised, the reservation untouched.
        """
        stream = _Stream(request, request_id, headers, answer, reservation, self._stalled_s)
        self._under_way.add(stream)
        try:
            return await stream.run()
        finally:
            self._under_way.discard(stream)
            await answer.close()

    def cut_off(self) -> None:
        """The node stops: end all streams now."""
        for stream in tuple(self._under_way):
            stream.interrupt(Interruption.STOPPING)


class _Response(web.StreamResponse):
    # Headers leave with the first events, in one write. (aiohttp's own `Response` sets this, too.)
    _send_headers_immediately = False


class _Stream:
    """One stream and what may interrupt it.

    An interruption cancels the task that runs the stream and is taken back there, as `asyncio.timeout` does it: that
    reaches it wherever it waits, for the upstream or for the reader, and costs nothing per token.
    """

    def __init__(
        self,
        request: web.BaseRequest,
        request_id: str,
        headers: str,
        answer: AnswerStream,
        reservation: Reservation,
        stalled_s: float,
    ) -> None:
        task, connection = asyncio.current_task(), request.protocol
        assert task is not None
        assert isinstance(connection, Connection)
        self._task = task
        self._cancelling = task.cancelling()
        self._connection = connection
        self._request, self._request_id = request, request_id
        self._headers = headers
        self._response = _Response(headers=header_fields(headers + answer.headers))
        self._writer: StreamWriter | None = None
        self._answer = answer
        self._reservation = reservation
        self._stalled_s = stalled_s
        self._sent_tokens = 0
        self._interruption: Interruption | None = None

    def interrupt(self, why: Interruption) -> None:
        """End the stream soon; the first reason counts."""
        if self._interruption is None:
            self._interruption = why
            self._task.cancel()

    async def run(self) -> web.StreamResponse | Answer:
        """Send everything; see `Streams.send`."""
        self._connection.on_gone = partial(self.interrupt, Interruption.LEFT)
        try:
            if self._connection.transport is None or self._connection.transport.is_closing():
                return self._gone()
            async with aclosing(self._answer.pieces()) as pieces:
                await self._deliver(pieces)
        except asyncio.CancelledError:
            if self._interruption is None or self._task.uncancel() > self._cancelling:
                raise  # somebody else wants the task to end
            return await self._interrupted()
        except ConnectionError:
            return self._gone()
        finally:
            self._connection.on_gone = None
            if self._writer is not None:
                self._reservation.settle(self._sent_tokens)
        return self._response

    async def _deliver(self, pieces: AsyncGenerator[Piece, None]) -> None:
        """From the first piece to the end, which may be the upstream's failure."""
        connection, last = self._connection, b""
        try:
            async for data, output_tokens, is_last in pieces:
                if self._writer is None:
                    await self._begin()
                    assert self._writer is not None
                if is_last:
                    self._sent_tokens, last = output_tokens, data
                    break
                if data:
                    # Raises before anything is written, or writes all of it. Not to wait here lets it be counted first.
                    await self._writer.write(data, drain=False)
                self._sent_tokens = output_tokens
                if connection.writing_paused:
                    await self._patiently(self._writer.drain())
            if self._writer is None:
                await self._begin()
        except ConnectionError:
            raise
        except UpstreamError as error:
            if self._writer is None:
                raise
            log_upstream_failure(self._request_id, error, "the upstream failed in the middle of a stream")
            self._reservation.settle(max(self._sent_tokens, error.produced_tokens))
            last = self._answer.error_event(errors.upstream_failed(error).body)
        except Exception:
            if self._writer is None:
                raise
            event = {"event": "request_failed", "request_id": self._request_id}
            log.exception("request %s: a stream failed", self._request_id, extra=event)
            last = self._answer.error_event(errors.INTERNAL.body)
        # Settled before the reader has taken the rest, which may be long.
        self._reservation.settle(self._sent_tokens)
        await self._patiently(self._response.write_eof(last))

    async def _begin(self) -> None:
        """Decide for a stream."""
        self._response.headers["content-type"] = _EVENT_STREAM
        self._response.headers["cache-control"] = "no-cache"
        writer = await self._response.prepare(self._request)
        assert isinstance(writer, StreamWriter)
        self._writer = writer

    async def _patiently(self, written: Awaitable[None]) -> None:
        """Wait for the reader, but not for ever."""
        timer = self._task.get_loop().call_later(self._stalled_s, self.interrupt, Interruption.STALLED)
        try:
            await written
        finally:
            timer.cancel()

    def _gone(self) -> web.StreamResponse:
        """The client has left: it pays for what was sent to it."""
        self._reservation.settle(self._sent_tokens)
        return self._response

    async def _interrupted(self) -> web.StreamResponse | Answer:
        if self._interruption is Interruption.LEFT:
            return self._gone()
        if self._writer is None:
            self._reservation.refund()
            return Answer(errors.STOPPING.body, self._headers, errors.STOPPING.status)
        self._reservation.settle(self._sent_tokens)
        await self._break_off(errors.STOPPING)
        return self._response

    async def _break_off(self, reply: ErrorReply) -> None:
        """Tell a client that still reads why there is no more; drop one that doesn't."""
        if self._connection.writing_paused:
            if self._connection.transport is not None:
                self._connection.transport.abort()
            return
        self._response.force_close()
        with suppress(ConnectionError):  # it may have left in the meantime
            await self._response.write_eof(self._answer.error_event(reply.body))


def log_upstream_failure(request_id: str, error: UpstreamError, what: str = "the upstream failed") -> None:
    """One line, with the id by which the upstream knows the request; none for what callers can bring about."""
    if isinstance(error, UpstreamRefusal):
        return
    event = {"event": "upstream_failed", "request_id": request_id, "status": error.status}
    log.warning("request %s: %s: %s", request_id, what, error, extra=event)
