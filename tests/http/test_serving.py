"""Connections whose requests are answered in their own task: what they keep, and whom they make wait."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from contextvars import ContextVar
from typing import cast

import pytest
from aiohttp import web

from limiter_node.http.responses.whole_response import WholeResponse
from limiter_node.http.server import client_connection, fast_connection, public_connection
from limiter_node.http.server.aiohttp_private import WAY, Way
from limiter_node.http.server.client_connection import ClientConnection
from limiter_node.http.server.http_server import HttpServer
from limiter_node.http.server.overload import TurnedAway

Handler = Callable[[web.BaseRequest], Awaitable[WholeResponse]]
POST = b"POST / HTTP/1.1\r\nHost: n\r\nContent-Length: 5\r\n\r\nhello"


@asynccontextmanager
async def connected(handler: Handler) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    async with connected_to(HttpServer(handler, keepalive_s=75)) as streams:
        yield streams


@asynccontextmanager
async def connected_to(server: HttpServer) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    runner = web.ServerRunner(server, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    reader, writer = await asyncio.open_connection("127.0.0.1", runner.addresses[0][1])
    try:
        yield reader, writer
    finally:
        writer.close()
        await runner.cleanup()


async def answers(reader: asyncio.StreamReader, count: int) -> list[bytes]:
    async with asyncio.timeout(10):
        heads = []
        for _ in range(count):
            heads.append(await reader.readuntil(b"\r\n\r\n"))
            await reader.readexactly(2)
        return heads


async def test_nothing_is_left_of_a_connection_for_the_collector() -> None:
    seen: list[weakref.ref[web.BaseRequest]] = []

    async def handler(request: web.BaseRequest) -> WholeResponse:
        await request.read()
        seen.append(weakref.ref(request))
        return WholeResponse(b"ok", "")

    def living() -> list[ClientConnection]:
        return [each for each in gc.get_objects() if isinstance(each, ClientConnection)]

    gc.collect()
    earlier = living()  # what tests before this one have left; held, so that no new one gets its place in memory

    def connections() -> int:
        return sum(all(each is not other for other in earlier) for each in living())

    async with connected(handler) as (reader, writer):
        gc.collect()
        gc.disable()
        try:
            writer.write(POST)
            await answers(reader, 1)
            async with asyncio.timeout(10):
                while WAY is Way.OWN_LOOP and seen[0]() is not None:  # aiohttp's loop holds it until the next
                    await asyncio.sleep(0.01)
                assert connections() == 1, "it is open, and holds its request no longer"
                writer.close()
                while connections():
                    await asyncio.sleep(0.01)
        finally:
            gc.enable()


async def test_a_request_has_not_waited_for_its_predecessor(monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = 100.0
    for module in (client_connection, fast_connection, public_connection):
        monkeypatch.setattr(module, "monotonic", lambda: now_s)
    waited_s: list[float] = []

    async def handler(request: web.BaseRequest) -> WholeResponse:
        nonlocal now_s
        await request.read()
        waited_s.append(now_s - cast(ClientConnection, request.protocol).arrived_s)
        now_s += 10
        return WholeResponse(b"ok", "")

    async with connected(handler) as (reader, writer):
        writer.write(POST * 3)
        await answers(reader, 3)
    assert waited_s == [0, 0, 0]


async def test_others_have_their_turns_while_many_requests_of_one_client_are_answered() -> None:
    order: list[str] = []

    async def handler(request: web.BaseRequest) -> WholeResponse:
        order.append("request")
        if len(order) == 1:
            asyncio.get_running_loop().call_soon(order.append, "other")
        return WholeResponse(b"ok", "")

    async with connected(handler) as (reader, writer):
        writer.write(POST * 5)
        await answers(reader, 5)
    assert order.index("other") == 1


async def test_who_leaves_in_the_middle_of_a_body_is_no_error(caplog: pytest.LogCaptureFixture) -> None:
    """While its connection rests, so that what it still sends would be thrown away afterwards."""
    rested = asyncio.Event()

    async def handler(_: web.BaseRequest) -> WholeResponse:
        return TurnedAway(b"ok", "", 503, 0.1, rested.set)

    async with connected(handler) as (reader, writer):
        writer.write(POST[:-2])
        await answers(reader, 1)
        writer.transport.abort()
        async with asyncio.timeout(10):
            await rested.wait()
        for _ in range(5):
            await asyncio.sleep(0)
    assert not caplog.records


VARIABLE: ContextVar[str] = ContextVar("VARIABLE", default="")


@pytest.mark.parametrize("together", [True, False])
async def test_a_context_variable_of_one_request_is_not_seen_by_the_next(together: bool) -> None:
    seen: list[str] = []

    async def handler(request: web.BaseRequest) -> WholeResponse:
        seen.append(VARIABLE.get())
        VARIABLE.set(f"request {len(seen)}")
        return WholeResponse(b"ok", "")

    async with connected(handler) as (reader, writer):
        for _ in range(1 if together else 4):
            writer.write(POST * (4 if together else 1))
            await answers(reader, 4 if together else 1)
        writer.write(POST.replace(b"1.1", b"1.0"))
        await answers(reader, 1)
        assert await reader.read() == b"", "it still ends when it is to end"
    assert seen == [""] * 5


async def test_a_connection_whose_context_was_changed_ends_with_its_client() -> None:
    async def handler(request: web.BaseRequest) -> WholeResponse:
        VARIABLE.set("changed")
        return WholeResponse(b"ok", "")

    server = HttpServer(handler, keepalive_s=75)
    async with connected_to(server) as (reader, writer):
        writer.write(POST * 2)
        await answers(reader, 2)
        assert server.connection_count == 1
        writer.close()
        async with asyncio.timeout(10):
            while server.connection_count:
                await asyncio.sleep(0.001)
