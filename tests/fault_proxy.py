"""A TCP relay that can withhold and break what passes through it, for faults that no server shows on demand."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Callable
from typing import Any

from raw_server import RawServer


class FaultProxy:
    """Relays 127.0.0.1:`port` to a server on 127.0.0.1:`target_port`.

    `pass_requests`, `pass_replies`: what is not passed is read and thrown away, as a broken network would.
    `garbage` goes in front of the next reply. `piece_bytes`, if not 0, is how much of a reply is passed on at once.
    `delay_s` is how much later each piece of a reply is passed on.
    `replace_bulk` is called with the content of each bulk string that is a whole reply, and returns what is passed on
    instead, or None: the reply itself. Set it before the connections that it is for are made.
    `tls`: take TLS, and pass on what is in it.
    `target_port` is where the next connections lead; where nothing listens, they are broken as soon as they are made.
    """

    def __init__(self, target_port: int, tls: ssl.SSLContext | None = None) -> None:
        self.target_port = target_port
        self._server = RawServer(self._relay, tls=tls)
        self._writers: set[asyncio.StreamWriter] = set()
        self.pass_requests = True
        self.pass_replies = True
        self.delay_s = 0.0
        self.piece_bytes = 0
        self.garbage = b""
        self.replace_bulk: Callable[[bytes], bytes | None] | None = None
        self.connections = 0
        self.swallowed = asyncio.Event()

    @property
    def port(self) -> int:
        return self._server.port

    async def __aenter__(self) -> FaultProxy:
        await self._server.__aenter__()
        return self

    async def __aexit__(self, *raised: Any) -> None:
        await self._server.__aexit__(*raised)

    def reset_all(self) -> None:
        """Break every connection at once, in both directions."""
        for writer in list(self._writers):
            writer.transport.abort()

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            server_reader, server_writer = await asyncio.open_connection("127.0.0.1", self.target_port)
        except OSError:
            writer.transport.abort()
            return
        self._writers |= {writer, server_writer}
        try:
            requests = self._pump(reader, server_writer, "pass_requests")
            replies = self._pump(server_reader, writer, "pass_replies")
            await asyncio.gather(requests, replies)
        finally:
            for each in (writer, server_writer):
                self._writers.discard(each)
                each.transport.abort()

    async def _pass(self, data: bytes, writer: asyncio.StreamWriter, *, is_reply: bool) -> None:
        if is_reply and self.garbage:
            data, self.garbage = self.garbage + data, b""
        while data:
            piece = data
            if is_reply:
                if self.piece_bytes:
                    piece = data[: self.piece_bytes]
                if self.delay_s:
                    await asyncio.sleep(self.delay_s)
            writer.write(piece)
            await writer.drain()
            data = data[len(piece) :]

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, switch: str) -> None:
        is_reply = switch == "pass_replies"
        replies = _Replies(self.replace_bulk) if is_reply and self.replace_bulk else None
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(65536):
                if replies is not None:
                    data = replies.replaced(data)
                if getattr(self, switch):
                    await self._pass(data, writer, is_reply=is_reply)
                else:
                    self.swallowed.set()
        writer.transport.abort()


class _Replies:
    """A stream of replies, cut into whole ones, some of which are replaced."""

    def __init__(self, replace_bulk: Callable[[bytes], bytes | None]) -> None:
        self._replace_bulk = replace_bulk
        self._rest = b""

    def replaced(self, data: bytes) -> bytes:
        """Return what to pass on, now that `data` has come: whole replies only."""
        data = self._rest + data
        passed, begin = [], 0
        while (end := _reply_end(data, begin)) >= 0:
            reply, begin = data[begin:end], end
            if reply.startswith(b"$") and not reply.startswith(b"$-"):
                content = self._replace_bulk(reply[reply.index(b"\r\n") + 2 : -2])
                if content is not None:
                    reply = b"$%d\r\n%b\r\n" % (len(content), content)
            passed.append(reply)
        self._rest = data[begin:]
        return b"".join(passed)


def _reply_end(data: bytes, begin: int) -> int:
    """Where the reply (RESP 2 or 3) that begins there ends; -1 if not all of it is there."""
    line_end = data.find(b"\r\n", begin)
    if line_end < 0:
        return -1
    kind, end = data[begin : begin + 1], line_end + 2
    if kind in b"$=!":
        length = int(data[begin + 1 : line_end])
        end += length + 2 if length >= 0 else 0
        return end if end <= len(data) else -1
    if kind in b"*~>%":
        for _ in range(int(data[begin + 1 : line_end]) * (2 if kind == b"%" else 1)):
            end = _reply_end(data, end)
            if end < 0:
                return -1
    return end
