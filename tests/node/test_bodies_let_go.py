"""Bodies that end badly: nothing of them stays, without any help of the garbage collector."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from aiohttp import web
from aiohttp.streams import StreamReader
from aiohttp_ways import needs_private_names
from in_process import Node, api_key_on, serving
from node_commands import eventually
from test_key_first import BODY, answer, connected, head

from limiter_node.http.server.client_connection import Deadlines
from limiter_node.upstream.requests import ChatRequest
from limiter_node.upstream.source import Completion


@pytest.fixture
async def node(embedded_single: str) -> AsyncIterator[Node]:
    async with serving(embedded_single) as running:
        yield running


MOST_OF_A_READ = 262_144
"""Bytes that the event loop reads in one turn."""
Kept = Callable[[], list[Any]]


@pytest.fixture
def kept() -> Kept:
    """What there is of requests and of what reads them, beyond what there was."""

    def living() -> list[Any]:
        return [each for each in gc.get_objects() if isinstance(each, web.BaseRequest | StreamReader)]

    gc.collect()
    earlier = living()
    ids = {id(each) for each in earlier}
    return lambda: [each for each in living() if id(each) not in ids]


def waiting_upstream(node: Node) -> tuple[asyncio.Event, asyncio.Event]:
    """Let the upstream answer when the second event is set; the first one tells that it was asked."""
    asked, go_on = asyncio.Event(), asyncio.Event()

    async def wait(request: ChatRequest, cap: int) -> Completion:
        asked.set()
        await go_on.wait()
        return await node.upstream.whole(request, cap)

    node.upstream.answer = wait
    return asked, go_on


async def abort(node: Node, request: bytes, status: int) -> None:
    """Leave in the middle of a body that the node has answered, or waits for the rest of (`status` 0)."""
    async with connected(node) as (reader, writer):
        writer.write(request + b"x" * 5_000)
        if status:
            assert (await answer(reader))[0] == status
        else:
            await eventually(lambda: node.routes._held.held == 5_000)
    await eventually(lambda: not node.server.connections)


@pytest.mark.parametrize(
    ("is_known", "fields", "status"),
    [
        (True, ("Content-Length: 9000",), 0),
        (True, ("Content-Length: 1000000",), 413),
        (True, ("Content-Length: 9000", "Content-Encoding: gzip"), 400),
        (True, ("Transfer-Encoding: chunked",), 400),
        (False, ("Content-Length: 9000",), 401),
        (False, ("Content-Length: 1000000",), 401),
        (False, ("Transfer-Encoding: chunked",), 400),
    ],
)
async def test_nothing_is_left_of_requests_whose_clients_leave(
    node: Node, embedded_single: str, kept: Kept, is_known: bool, fields: tuple[str, ...], status: int
) -> None:
    api_key = api_key_on(embedded_single) if is_known else "sk-nobody"
    gc.disable()
    try:
        for _ in range(3):
            await abort(node, head(*fields, api_key=api_key), status)
        await eventually(lambda: not kept())
    finally:
        gc.enable()
    assert node.routes._held.held == 0


async def test_nothing_is_left_of_a_body_that_is_late(node: Node, embedded_single: str, kept: Kept) -> None:
    api_key = api_key_on(embedded_single)
    node.server._deadlines = Deadlines(10.0, 0.1, 60.0)
    gc.disable()
    try:
        async with connected(node) as (reader, writer):
            writer.write(head("Content-Length: 9000", api_key=api_key) + b"x" * 5_000)
            status, fields, _ = await answer(reader)
            assert (status, "connection: close" in fields) == (408, True)
            assert await reader.read() == b""
        await eventually(lambda: not kept())
    finally:
        gc.enable()
    assert node.routes._held.held == 0


@needs_private_names("aiohttp keeps what waits on a lost connection in a cycle")
async def test_nothing_is_left_of_what_waited_behind_a_request(node: Node, embedded_single: str, kept: Kept) -> None:
    api_key = api_key_on(embedded_single)
    asked, go_on = waiting_upstream(node)
    gc.disable()
    try:
        async with connected(node) as (_, writer):
            writer.write(head(f"Content-Length: {len(BODY)}", api_key=api_key) + BODY)
            await asked.wait()
            writer.write(head("Content-Length: 9000", api_key=api_key) + b"x" * 5_000)
            await eventually(lambda: any(connection._messages for connection in node.server.connections))
        await eventually(lambda: all(connection.transport is None for connection in node.server.connections))
        go_on.set()
        await eventually(lambda: not kept())
    finally:
        gc.enable()


async def test_little_is_read_of_what_waits_behind_a_request(node: Node, embedded_single: str) -> None:
    api_key = api_key_on(embedded_single)
    asked, go_on = waiting_upstream(node)
    async with connected(node) as (reader, writer):
        writer.write(head(f"Content-Length: {len(BODY)}", api_key=api_key) + BODY)
        await asked.wait()
        (connection,) = node.server.connections
        writer.write(head("Content-Length: 9000000", api_key="sk-nobody") + b"x" * 9_000_000)
        await eventually(lambda: connection._reading_paused)
        _, body = connection._messages[0]
        assert body.total_bytes <= 2 * 65_536 + MOST_OF_A_READ
        go_on.set()
        assert [(await answer(reader))[0] for _ in range(2)] == [200, 401]
