"""Sending answers while they are made, and accounting for them however they end.

What an upstream gives is written to the client's connection in the same turn of the event loop; no task is woken for a
piece. An answer ends in one of these ways, each of which settles its reservation, once:

- whole;
- the upstream fails: before its first piece as any error (the caller of `Streams.send` answers it and accounts for
  it), afterwards by an error event, or where the form has none by a connection that ends too early; charged what it
  produced;
- the client leaves, or reads so little that its connection is dropped (`limiter_node.http.server.client_connection`):
  noticed at once, also while the upstream is silent. The answer is read on for a moment, so that leaving is never
  cheaper than staying; where what was produced still isn't known, the reservation stands;
- the node stops: an error event, after the time that streams under way are given;
- the handler is cancelled.

A reader that is slower than the upstream holds it up: nothing more is asked of the upstream while the connection's
buffer is above its high-water mark (64 KiB), so an answer holds that and one piece at most.
"""

from __future__ import annotations

import asyncio
import enum
import logging
from functools import partial

from aiohttp import HttpVersion11, web

from limiter_node.http.responses import errors
from limiter_node.http.responses.errors import ErrorResponse
from limiter_node.http.responses.whole_response import WholeResponse, Written, head_of
from limiter_node.http.server.client_connection import ClientConnection
from limiter_node.limiter.admission import Reservation
from limiter_node.upstream.answers import AnswerStream
from limiter_node.upstream.errors import UpstreamError, UpstreamRefusal

log = logging.getLogger(__name__)

READ_ON_S = 2.0
"""How long an answer is read on for whose caller has left, by default."""


class Interruption(enum.Enum):
    """A reason from outside to end an answer."""

    LEFT = enum.auto()
    STOPPING = enum.auto()


class Streams:
    """The answers under way on one node. `read_on_s`: how long those are read on for whose callers have left."""

    def __init__(self, read_on_s: float = READ_ON_S) -> None:
        self.read_on_s = read_on_s
        self._under_way: set[_Stream] = set()

    async def send(
        self,
        request: web.BaseRequest,
        request_id: str,
        headers: str,
        answer: AnswerStream,
        reservation: Reservation,
    ) -> Written:
        """Answer `request` with `answer`; the response, begun and ended, as the answer has.

        `headers` are a decided response's; their type becomes the answer's with the first piece. Until then the status
        is open: `UpstreamError` (and any bug) is raised, the reservation untouched.
        """
        stream = _Stream(request, request_id, headers, answer, reservation, self.read_on_s)
        self._under_way.add(stream)
        try:
            return await stream.run()
        finally:
            self._under_way.discard(stream)
            await answer.close()

    def cut_off(self) -> None:
        """The node stops: end all answers now."""
        for stream in tuple(self._under_way):
            stream.interrupt(Interruption.STOPPING)


class _Stream:
    """One answer on its way to its client (a `Sink`), and what may interrupt it.

    An interruption cancels the task that runs the answer and is taken back there, as `asyncio.timeout` does it: that
    reaches it wherever it waits, for the upstream or for the reader, and costs nothing per token.
    """

    def __init__(
        self,
        request: web.BaseRequest,
        request_id: str,
        headers: str,
        answer: AnswerStream,
        reservation: Reservation,
        read_on_s: float,
    ) -> None:
        connection = request.protocol
        assert isinstance(connection, ClientConnection)
        self._task = request.task  # of the handler
        self._cancelling = self._task.cancelling()
        self._connection = connection
        self._request, self._request_id = request, request_id
        self._headers = headers
        self._response = Written()
        self._answer = answer
        self._reservation = reservation
        self._read_on_s = read_on_s
        self._has_begun = self._has_ended = self._is_chunked = False
        self._interruption: Interruption | None = None

    # ---- as a sink -------------------------------------------------------------------------------------------------

    @property
    def is_full(self) -> bool:
        """Whether the client has more to take than its connection is to hold."""
        return self._connection.writing_paused

    def write(self, data: bytes, *, is_last: bool = False) -> bool:
        """Write the next part at once, the head before the first and the end behind the last; see `Sink`."""
        transport = self._connection.transport
        if transport is None or transport.is_closing() or self._has_ended:
            return False
        if not self._has_begun:
            head = self._begin()
        elif not data and not is_last:
            return True
        else:
            head = b""
        self._has_ended = is_last
        if not self._is_chunked:
            transport.write(head + data if head else data)
        elif not is_last:
            transport.write(b"%b%x\r\n%b\r\n" % (head, len(data), data) if data else head)
        elif data:
            transport.write(b"%b%x\r\n%b\r\n0\r\n\r\n" % (head, len(data), data))
        else:
            transport.write(head + b"0\r\n\r\n")
        return True

    async def drained(self) -> None:
        """Return when the client has taken most of it."""
        await self._request.writer.drain()

    # ---- the way of an answer ----------------------------------------------------------------------------------------

    def interrupt(self, why: Interruption) -> None:
        """End the answer soon; the first reason counts."""
        if self._interruption is None:
            self._interruption = why
            self._task.cancel()

    async def run(self) -> Written:
        """Send everything; see `Streams.send`."""
        self._connection.call_when_gone(partial(self.interrupt, Interruption.LEFT))
        try:
            if self._is_gone():
                await self._left()
            else:
                await self._deliver()
        except asyncio.CancelledError:
            self._connection.call_when_gone(None)
            if self._interruption is None or self._task.uncancel() > self._cancelling:
                raise  # somebody else wants the task to end
            if self._interruption is Interruption.STOPPING:
                return self._stopped()
            await self._left()
        finally:
            self._connection.call_when_gone(None)
            if self._has_begun:
                self._settle(self._answer.cost.output_tokens)
        return self._response

    async def _deliver(self) -> None:
        """From the first piece to the end, which may be the upstream's failure."""
        try:
            await self._answer.deliver(self)
        except UpstreamError as error:
            if not self._has_begun:
                raise
            log_upstream_failure(self._request_id, error, "failed in the middle of its answer")
            self._settle(max(self._answer.cost.output_tokens, error.produced_tokens))
            self._break_off(errors.upstream_failed(error))
        except Exception:
            if not self._has_begun:
                raise
            event = {"event": "request_failed", "request_id": self._request_id}
            log.exception("request %s: a stream failed", self._request_id, extra=event)
            self._break_off(errors.INTERNAL)
        else:
            # Settled before the reader has taken the rest, which may be long.
            self._settle_surely()
            if not self._has_ended:
                self.write(b"", is_last=True)

    def _begin(self) -> bytes:
        """Decide for this answer: its head."""
        self._has_begun = True
        answer, request, response = self._answer, self._request, self._response
        is_1_1 = request.version >= HttpVersion11
        length = answer.length
        self._is_chunked = is_1_1 and length is None
        # Without a length HTTP/1.0 knows an answer's end by that of the connection.
        response.keep_alive = request.keep_alive and (is_1_1 or length is not None)
        framing = "Transfer-Encoding: chunked\r\n" if self._is_chunked else ""
        if length is not None:
            framing = f"Content-Length: {length}\r\n"
        headers = self._headers.replace(
            "Content-Type: application/json\r\n", f"Content-Type: {answer.content_type}\r\n", 1
        )
        return head_of(
            response.status,
            f"{headers}{answer.headers}cache-control: no-cache\r\n{framing}",
            is_1_1=is_1_1,
            keep_alive=response.keep_alive,
        )

    def _is_gone(self) -> bool:
        transport = self._connection.transport
        return transport is None or transport.is_closing()

    async def _left(self) -> None:
        """The client has left: find out what its answer costs."""
        answer = self._answer
        self._response.keep_alive = False
        try:
            await answer.read_on(self._left_to_read_on_s())
        finally:
            self._settle_surely()  # also where the task is cancelled meanwhile

    def _left_to_read_on_s(self) -> float:
        """Return the seconds left to read on; the client may have left long before its answer began."""
        left_s = self._connection.left_s
        return self._read_on_s if left_s is None else max(0.0, left_s + self._read_on_s - self._task.get_loop().time())

    def _settle_surely(self) -> None:
        """Charge what the answer has cost, or what was reserved where nobody can tell."""
        output_tokens = self._answer.cost.output_tokens
        if self._answer.is_uncertain:
            output_tokens = max(output_tokens, self._reservation.output_tokens)
        self._settle(output_tokens)

    def _settle(self, output_tokens: int) -> None:
        self._reservation.settle(output_tokens, self._answer.cost.input_tokens)

    def _stopped(self) -> Written:
        if not self._has_begun:
            self._reservation.refund()
            return WholeResponse(errors.STOPPING.body, self._headers, errors.STOPPING.status)
        self._settle(self._answer.cost.output_tokens)
        self._break_off(errors.STOPPING)
        return self._response

    def _break_off(self, reply: ErrorResponse) -> None:
        """Tell a client that still reads why there is no more; drop one that doesn't, or that can't be told."""
        transport = self._connection.transport
        self._response.keep_alive = False
        event = self._answer.error_event(reply.body)
        if transport is None:
            return
        if self._connection.writing_paused:
            transport.abort()
        elif event:
            self.write(event, is_last=True)
        else:
            transport.close()  # without the end that was announced, so that nobody takes it for whole


def log_upstream_failure(request_id: str, error: UpstreamError, what: str = "failed") -> None:
    """One line, with the id by which the upstream knows the request; none for what callers can bring about."""
    if isinstance(error, UpstreamRefusal):
        return
    event = {"event": "upstream_failed", "request_id": request_id, "status": error.status}
    log.warning("request %s %s: %s", request_id, what, error, extra=event)
