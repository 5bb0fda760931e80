"""Bytes full of line ends, as bodies in tiny chunks are: a slice of them is parsed per turn, if it is read."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import pairwise

import pytest
from aiohttp import web
from aiohttp_ways import needs_slices

from limiter_node.http.responses.whole_response import WholeResponse
from limiter_node.http.server import fast_connection
from limiter_node.http.server.fast_connection import FastConnection
from limiter_node.http.server.http_server import HttpServer
from limiter_node.http.server.raw_body import ClientLeft, next_block
from limiter_node.http.server.slices import SLICE_BYTES

pytestmark = needs_slices
CHUNKED = b"POST /chunked HTTP/1.1\r\nHost: n\r\nTransfer-Encoding: chunked\r\n\r\n"
GET = b"GET /plain HTTP/1.1\r\nHost: n\r\n\r\n"
CONTENT = bytes(range(256)) * 40
Handler = Callable[[web.BaseRequest], Awaitable[WholeResponse]]


def in_chunks(body: bytes, size: int, end: bytes = b"0\r\n\r\n") -> bytes:
    chunks = (body[begin : begin + size] for begin in range(0, len(body), size))
    return b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks) + end


@dataclass
class Open:
    """A connection of the server, and its client's end."""

    connection: FastConnection
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    parsed: list[int] = field(default_factory=list)
    """The sizes of what the parser was given, with a 0 for each turn of the event loop."""

    @property
    def slices(self) -> list[int]:
        return [size for size in self.parsed if size]

    async def answers(self, count: int) -> list[bytes]:
        """The bodies of so many."""
        bodies = []
        for _ in range(count):
            head = (await self.reader.readuntil(b"\r\n\r\n")).lower()
            length = int(head.partition(b"content-length: ")[2].partition(b"\r\n")[0])
            bodies.append(await self.reader.readexactly(length))
        return bodies


@asynccontextmanager
async def opened(handler: Handler, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Open]:
    server = HttpServer(handler, keepalive_s=75)
    runner = web.ServerRunner(server, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    reader, writer = await asyncio.open_connection("127.0.0.1", runner.addresses[0][1])
    loop, receive = asyncio.get_running_loop(), fast_connection._receive
    try:
        async with asyncio.timeout(20):
            while not server.connections:
                await asyncio.sleep(0)
            (connection,) = server.connections
            assert isinstance(connection, FastConnection)
            seen = Open(connection, reader, writer)

            def count_turn() -> None:
                seen.parsed.append(0)
                nonlocal turn
                turn = loop.call_soon(count_turn)

            def count_slice(self: FastConnection, data: bytes) -> None:
                if data:
                    seen.parsed.append(len(data))
                receive(self, data)

            turn = loop.call_soon(count_turn)
            monkeypatch.setattr(fast_connection, "_receive", count_slice)
            yield seen
            turn.cancel()
    finally:
        writer.close()
        await runner.cleanup()


async def echo(request: web.BaseRequest) -> WholeResponse:
    body = bytearray()
    while block := await next_block(request.content):
        body += block
    return WholeResponse(bytes(body) or request.path.encode(), "")


async def turns(count: int = 20) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


@pytest.mark.parametrize("size", [1, 2, 7])
async def test_a_body_in_tiny_chunks_is_parsed_a_slice_per_turn(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    sent = CHUNKED + in_chunks(CONTENT, size)
    async with opened(echo, monkeypatch) as seen:
        seen.connection.data_received(sent)
        assert seen.slices == [SLICE_BYTES]
        assert await seen.answers(1) == [CONTENT]
        assert seen.slices[:-1] == [SLICE_BYTES] * (len(sent) // SLICE_BYTES)
        assert sum(seen.slices) == len(sent)
        assert all(not (one and other) for one, other in pairwise(seen.parsed))
        seen.writer.write(GET)
        assert await seen.answers(1) == [b"/plain"], "it is read from again"


async def test_slices_of_several_connections_share_the_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    sent, count = CHUNKED + in_chunks(CONTENT, 1), 4
    async with opened(echo, monkeypatch) as seen:
        assert seen.connection.transport is not None
        host, port = seen.connection.transport.get_extra_info("sockname")
        clients = [await asyncio.open_connection(host, port) for _ in range(count - 1)]
        manager = seen.connection.manager
        assert manager is not None
        while len(manager.connections) < count:
            await asyncio.sleep(0)
        for connection in manager.connections:
            connection.data_received(sent)
        assert seen.slices == [SLICE_BYTES] * count
        begun = len(seen.parsed)
        await seen.answers(1)
        for reader, writer in clients:
            assert await Open(seen.connection, reader, writer).answers(1) == [CONTENT]
            writer.close()
        later = seen.parsed[begun:]
        assert sum(later) == count * (len(sent) - SLICE_BYTES)
        assert all(not (one and other) for one, other in pairwise(later))


async def test_what_comes_over_the_wire_is_whole_and_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    content = CONTENT * 30
    async with opened(echo, monkeypatch) as seen:
        for _ in range(2):
            seen.writer.write(CHUNKED + in_chunks(content, 6) + GET + CHUNKED + in_chunks(CONTENT, 1) + GET)
            assert await seen.answers(4) == [content, b"/plain", CONTENT, b"/plain"]


async def test_a_body_that_nobody_reads_costs_one_slice(monkeypatch: pytest.MonkeyPatch) -> None:
    go_on = asyncio.Event()

    async def unread(_: web.BaseRequest) -> WholeResponse:
        await go_on.wait()
        return WholeResponse(b"no", "")

    async with opened(unread, monkeypatch) as seen:
        seen.connection.data_received(CHUNKED + in_chunks(CONTENT, 1))
        await turns()
        go_on.set()
        assert await seen.answers(1) == [b"no"]
        assert await seen.reader.read() == b"", "the connection ends"
        assert seen.slices == [SLICE_BYTES]


async def test_a_body_is_parsed_when_its_reader_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    go_on = asyncio.Event()

    async def late(request: web.BaseRequest) -> WholeResponse:
        await go_on.wait()
        return await echo(request)

    async with opened(late, monkeypatch) as seen:
        seen.connection.data_received(CHUNKED + in_chunks(CONTENT, 1)[:50_000])
        seen.connection.data_received(in_chunks(CONTENT, 1)[50_000:] + GET)
        await turns()
        assert seen.slices == [SLICE_BYTES]
        go_on.set()
        assert await seen.answers(2) == [CONTENT, b"/plain"]


async def test_many_requests_in_one_go_are_all_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    """More than the queue takes, in more than one slice."""
    count = 2_000
    async with opened(echo, monkeypatch) as seen:
        seen.connection.data_received(b"G / HTTP/1.1\r\nHost: n\r\n\r\n".replace(b"G", b"GET") * count + GET)
        assert await seen.answers(count + 1) == [b"/"] * count + [b"/plain"]
        assert max(seen.slices) == SLICE_BYTES


async def test_a_body_with_a_length_is_parsed_as_it_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    """The parser calls back once for it, whatever is in it."""
    content = b"1,\r\n" * 20_000
    head = b"POST / HTTP/1.1\r\nHost: n\r\nContent-Length: %d\r\n\r\n" % len(content)
    async with opened(echo, monkeypatch) as seen:
        seen.connection.data_received(head + content + GET)
        assert seen.slices == [SLICE_BYTES, len(head + content) - SLICE_BYTES]
        assert await seen.answers(2) == [content, b"/plain"]


@pytest.mark.parametrize("sent", [CHUNKED + in_chunks(CONTENT, 1, b""), CHUNKED + in_chunks(CONTENT, 1, b"")[:40_000]])
async def test_who_leaves_in_the_middle_is_no_longer_parsed(sent: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    left = asyncio.Event()

    async def read(request: web.BaseRequest) -> WholeResponse:
        try:
            return await echo(request)
        except ClientLeft:
            left.set()
            raise

    async with opened(read, monkeypatch) as seen:
        seen.connection.data_received(sent)
        seen.writer.transport.abort()
        await left.wait()
        await turns()
        assert not seen.connection.has_unparsed


async def test_a_connection_that_is_lost_has_nothing_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    async with opened(echo, monkeypatch) as seen:
        sent = CHUNKED + in_chunks(CONTENT, 1)
        seen.connection.data_received(sent)
        assert seen.connection.has_unparsed
        transport = seen.connection.transport
        assert transport is not None
        transport.abort()
        while seen.connection.transport is not None:
            await asyncio.sleep(0)
        await turns()
        assert not seen.connection.has_unparsed
        assert sum(seen.slices) < len(sent) // 2
