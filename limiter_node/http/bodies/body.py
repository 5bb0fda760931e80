"""Reading the body of a request whose key is known: bounded in size, within the node's budget, and unpacked.

A body that arrived whole with its head, as most do, is taken as it is. Any other body is held block by block, each
counted when it arrives: a client that declares a length and sends nothing takes no room from others. But a declared
length that can't fit is rejected at once.
"""

from __future__ import annotations

import asyncio

from aiohttp import HttpVersion11, hdrs, web

from limiter_node.held import SMALL_BYTES, Hold
from limiter_node.http.bodies.body_turns import BodyTurns
from limiter_node.http.bodies.unpacking import ENCODINGS, Unpacker
from limiter_node.http.server.raw_body import first_block, next_block

_IDENTITY = ("", "identity")


class BodyTooLarge(Exception):
    """Raised when a body exceeds the largest size, as it was sent or after unpacking."""


class UnsupportedEncoding(Exception):
    """Raised for a ``Content-Encoding`` that isn't supported: br, zstd, several in one."""


class BodyReader:
    """Read bodies of up to `max_bytes` for one node."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self._unpacking = asyncio.Lock()
        self._turns = BodyTurns()

    def read_at_once(self, request: web.BaseRequest, hold: Hold) -> bytes | None:
        """Return a body that has arrived whole, held by `hold`; None for any other. Raises as `read` does."""
        content = request.content
        if not content.is_eof() or hdrs.CONTENT_ENCODING in request.headers:
            return None
        body = first_block(content)
        if len(body) > self.max_bytes:
            raise BodyTooLarge
        hold.take(len(body))
        return body

    async def read(self, request: web.BaseRequest, hold: Hold) -> bytes | bytearray:
        """Return the whole body, held by `hold`. Send ``100 Continue`` to a client that waits for it.

        Raises:
            BodyTooLarge, UnsupportedEncoding: raised before reading, if the headers show it.
            Overloaded: the node's budget has no room for the body.
            UnreadableBody: the framing or the encoding is broken.
            BodyTimeout, ClientLeft: the body didn't arrive.
        """
        encoding = request.headers.get(hdrs.CONTENT_ENCODING, "").strip().lower()
        if encoding not in _IDENTITY and (encoding not in ENCODINGS or self._has_several(request)):
            raise UnsupportedEncoding
        declared = request.content_length or 0
        if declared > self.max_bytes:
            raise BodyTooLarge
        hold.expect(declared)
        # An HTTP/1.0 client doesn't know interim responses (RFC 9110, 10.1.1): it would take one for the final one.
        if not request.content.is_eof() and hdrs.EXPECT in request.headers and request.version >= HttpVersion11:
            await _tell_to_continue(request)
        if encoding in _IDENTITY:
            return await self._read_plain(request, hold)
        return await self._read_packed(request, hold, encoding)

    async def _read_plain(self, request: web.BaseRequest, hold: Hold) -> bytes | bytearray:
        content = request.content
        # One growing block, because the heap of thousands of small blocks isn't given back to the system.
        body = bytearray()
        while block := await next_block(content):
            if len(body) + len(block) > self.max_bytes:
                raise BodyTooLarge
            hold.take(len(block))
            body += block
            if len(body) > SMALL_BYTES:
                await self._turns.wait()
        # A large body isn't copied again: that would hold up the loop for some milliseconds.
        return body if len(body) > SMALL_BYTES else bytes(body)

    async def _read_packed(self, request: web.BaseRequest, hold: Hold, encoding: str) -> bytes:
        unpacked_bytes = packed_bytes = 0

        def keep(size: int) -> None:
            nonlocal unpacked_bytes
            unpacked_bytes += size
            if unpacked_bytes > self.max_bytes:
                raise BodyTooLarge
            hold.take(size)

        unpacker = Unpacker(encoding, self._unpacking, keep)
        while block := await next_block(request.content):
            packed_bytes += len(block)
            if packed_bytes > self.max_bytes:
                raise BodyTooLarge
            hold.take(len(block))
            await unpacker.feed(block)
            hold.give(len(block))
        return unpacker.finish()

    @staticmethod
    def _has_several(request: web.BaseRequest) -> bool:
        return len(request.headers.getall(hdrs.CONTENT_ENCODING)) > 1


async def _tell_to_continue(request: web.BaseRequest) -> None:
    """Send ``100 Continue`` to a client that waits for it before it sends its body, as curl does."""
    await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    request.writer.output_size = 0  # nothing of the response itself has been sent
