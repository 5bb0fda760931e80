"""One keep-alive connection to a target: writes a request, frames the response, hands its raw bytes on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import httptools

from bench_client.clock import clock_ns
from bench_client.records.spool import CLOSED, OK, PROTOCOL, RESET
from bench_client.sending.request_log import RequestLog

IDLE = -1


class TargetConnection(asyncio.Protocol):
    """Carry one request at a time; ``index`` is the request's place in the workload, or ``IDLE``.

    The HTTP parser is given no header callbacks: it only finds where the response ends, which makes it several times
    as cheap; headers are read from the raw bytes after the run.
    """

    __slots__ = (
        "_is_complete",
        "_is_kept_alive",
        "_on_closed",
        "_on_idle",
        "_on_response",
        "_parser",
        "_parts",
        "_requests",
        "_transport",
        "deadline_ns",
        "index",
        "sent_ns",
    )

    _transport: asyncio.Transport

    def __init__(
        self,
        requests: RequestLog,
        *,
        on_idle: Callable[[TargetConnection], None],
        on_closed: Callable[[TargetConnection], None],
        on_response: Callable[[int], None],
    ) -> None:
        """``on_idle``: the connection can carry the next request. ``on_closed``: it never will again; may be called
        more than once. ``on_response`` gets the time of each complete response, in ``clock_ns``, after ``on_idle``."""
        self._requests = requests
        self._on_idle = on_idle
        self._on_closed = on_closed
        self._on_response = on_response
        self._parser = httptools.HttpResponseParser(self)
        self._parts: list[bytes] = []
        self._is_complete = False
        self._is_kept_alive = False
        self.index = IDLE
        self.sent_ns = 0
        self.deadline_ns = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]

    def send(self, index: int, request: bytes, sent_ns: int, deadline_ns: int) -> None:
        """Write a request; only on an idle connection."""
        self.index = index
        self.sent_ns = sent_ns
        self.deadline_ns = deadline_ns
        self._transport.write(request)

    def on_message_complete(self) -> None:
        self._is_complete = True
        self._is_kept_alive = self._parser.should_keep_alive()  # the parser can't tell any more when it has returned

    def data_received(self, data: bytes) -> None:
        done_ns = clock_ns()
        index = self.index
        if index == IDLE:  # nobody asked: whatever it is, it must not become the next request's answer
            self.abort()
            return
        parser = self._parser
        try:
            parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):  # a 101: not one of the others
            self._finish(done_ns, PROTOCOL, data)
            self.abort()
            return
        if not self._is_complete:
            self._parts.append(data)
            return
        self._is_complete = False
        if self._parts:
            self._parts.append(data)
            data = b"".join(self._parts)
            self._parts.clear()
        self.index = IDLE
        self._requests.finish(index, self.sent_ns, done_ns, OK, data, parser.get_status_code())
        if self._is_kept_alive:
            self._on_idle(self)
        else:
            self.abort()
        self._on_response(done_ns)

    def connection_lost(self, exc: Exception | None) -> None:
        self._on_closed(self)
        if self.index != IDLE:
            self._finish(clock_ns(), RESET if exc is not None else CLOSED, b"")

    def fail(self, now_ns: int, error: int) -> None:
        """Give up on the request under way, if any, and on the connection."""
        if self.index != IDLE:
            self._finish(now_ns, error, b"")
        self.abort()

    def abort(self) -> None:
        """Close the connection at once."""
        self._on_closed(self)
        self._transport.abort()

    def _finish(self, done_ns: int, error: int, data: bytes) -> None:
        """End the request; keep what came of the response, because its head may tell that the request was admitted."""
        index, self.index = self.index, IDLE
        self._parts.append(data)
        self._requests.finish(index, self.sent_ns, done_ns, error, b"".join(self._parts), 0)
        self._parts.clear()
