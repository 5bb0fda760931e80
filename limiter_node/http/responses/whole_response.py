"""A complete answer, written at once: status, headers and body in one `transport.write`.

aiohttp's own `Response` is made for headers that change until the last moment; here they are rendered already, so that
what is left costs a tenth of it. aiohttp asks a response for three things only, which `WholeResponse` has: `prepare`,
`write_eof` and `keep_alive`. Answers that come in parts are written by `limiter_node.http.streaming`.
"""

from __future__ import annotations

import asyncio
import time
from email.utils import formatdate
from http import HTTPStatus

from aiohttp import HttpVersion11, web
from aiohttp.abc import AbstractStreamWriter

_STATUS_LINES = {
    (version, status.value): f"HTTP/1.{version} {status.value} {status.phrase}\r\n"
    for version in (0, 1)
    for status in HTTPStatus
}


class _DateLine:
    """The `Date` header, rendered once a second."""

    __slots__ = ("_line", "_second")

    def __init__(self) -> None:
        self._second, self._line = 0, ""

    def now(self) -> str:
        second = int(time.time())
        if second != self._second:
            self._second, self._line = second, f"Date: {formatdate(second, usegmt=True)}\r\n"
        return self._line


_DATE = _DateLine()


def head_of(status: int, headers: str, *, is_1_1: bool, keep_alive: bool) -> bytes:
    """A response's head, with the date, and what is to become of the connection where the version doesn't imply it."""
    connection = ""
    if keep_alive is not is_1_1:
        connection = "Connection: keep-alive\r\n" if keep_alive else "Connection: close\r\n"
    return f"{_STATUS_LINES[is_1_1, status]}{headers}{_DATE.now()}{connection}\r\n".encode()


class Written:
    """A response that has been written when aiohttp asks for it; whoever reads it slowly is waited for."""

    __slots__ = ("_writer", "headers", "keep_alive", "status")

    def __init__(self, headers: str = "", status: int = 200) -> None:
        self.headers, self.status = headers, status
        self.keep_alive = False
        self._writer: AbstractStreamWriter | None = None

    def force_close(self) -> None:
        """End the connection with this response."""
        self.keep_alive = False

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        """Write what is left to write. Raises `ConnectionResetError` where the client has gone."""
        transport = request.transport
        if transport is None or transport.is_closing():
            raise ConnectionResetError("the client has gone")
        self._write(request, transport)
        if request.protocol.writing_paused:
            self._writer = request.writer
        return self._writer

    async def write_eof(self) -> None:
        """Wait for a reader that is slow, so that its next request is not read before it has taken this response."""
        if self._writer is not None:
            await self._writer.drain()

    def _write(self, request: web.BaseRequest, transport: asyncio.WriteTransport) -> None:
        """Write nothing: all of it has been."""


class WholeResponse(Written):
    """`headers` is a block of lines, each with its CRLF, without those made here: date, length, connection.

    Nothing in it may come from a caller unchecked: it is written as it is.
    """

    __slots__ = ("_closes", "body")

    def __init__(self, body: bytes, headers: str, status: int = 200) -> None:
        super().__init__(headers, status)
        self.body = body
        self._closes = False

    def force_close(self) -> None:
        """End the connection with this answer."""
        self._closes = True

    def _write(self, request: web.BaseRequest, transport: asyncio.WriteTransport) -> None:
        body, is_1_1 = self.body, request.version >= HttpVersion11
        self.keep_alive = request.keep_alive and not self._closes
        head = head_of(
            self.status,
            self.headers if self.status == 204 else f"{self.headers}Content-Length: {len(body)}\r\n",
            is_1_1=is_1_1,
            keep_alive=self.keep_alive,
        )
        transport.write(head if request.method == "HEAD" else head + body)
