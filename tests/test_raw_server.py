"""The server that other tests' fake servers are made of leaves nothing open, and no test starts another kind."""

from __future__ import annotations

import ast
import asyncio
import gc
import os
import re
import socket
import ssl
from collections.abc import Awaitable, Callable
from contextlib import ExitStack, suppress
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import trustme
import uvloop
from raw_server import Handler, RawServer

TESTS = Path(__file__).parent
TOO_MUCH = b"x" * 20_000_000
"""More than the system takes of what nobody reads."""


async def waits(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
    await reader.read()


async def survives(_reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
    try:
        await asyncio.Event().wait()
    except asyncio.CancelledError:
        return


async def is_not_read(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(TOO_MUCH)


async def reads_nothing(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.transport.pause_reading()  # type: ignore[attr-defined]
    writer.write(TOO_MUCH)
    await writer.drain()


async def lets_go(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.close()


@cache
def contexts() -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """Those of a server and its clients."""
    authority = trustme.CA()
    server, client = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH), ssl.create_default_context()
    authority.issue_cert("127.0.0.1").configure_cert(server)
    authority.configure_trust(client)
    return server, client


def open_sockets() -> set[str]:
    found = set()
    for file in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):  # that of the search itself
            found.add(os.readlink(file))
    return {each for each in found if each.startswith("socket:")}


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Callable[[Awaitable[None]], None]:
    """Run it in a loop of its own, and see that no socket is open afterwards that wasn't before."""

    def run_it(awaitable: Any) -> None:
        with asyncio.Runner(loop_factory=request.param) as runner:
            runner.run(asyncio.sleep(0))
            gc.collect()
            before = open_sockets()
            runner.run(asyncio.wait_for(awaitable, 20))
            assert not open_sockets() - before
        gc.collect()  # warnings are errors

    return run_it


@pytest.mark.parametrize("turns", [0, 1, 2, 3, 50])
@pytest.mark.parametrize("handler", [waits, survives, is_not_read, reads_nothing, lets_go])
@pytest.mark.parametrize("tls", [False, True], ids=["plain", "handshake"])
def test_no_connection_outlives_the_server(run: Any, handler: Handler, turns: int, tls: bool) -> None:
    async def play() -> None:
        with ExitStack() as clients:
            async with RawServer(handler, tls=contexts()[0] if tls else None) as server:
                for _ in range(3):
                    clients.enter_context(socket.create_connection(("127.0.0.1", server.port)))
                for _ in range(turns):
                    await asyncio.sleep(0)

    run(play())


@pytest.mark.parametrize("handler", [waits, survives, is_not_read, reads_nothing, lets_go])
def test_no_connection_with_tls_outlives_the_server(run: Any, handler: Handler) -> None:
    async def play() -> None:
        begun = asyncio.Event()

        async def begins(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            begun.set()
            await handler(reader, writer)

        taken, trusted = contexts()
        async with RawServer(begins, tls=taken) as server:
            _, writer = await asyncio.open_connection("127.0.0.1", server.port, ssl=trusted)
            await begun.wait()
        writer.transport.abort()

    run(play())


async def test_a_connection_is_closed_when_its_handler_returns() -> None:
    async def greets(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"hello")

    async with asyncio.timeout(20), RawServer(greets) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        assert await reader.read() == b"hello"
        writer.close()


async def test_connections_go_on_when_no_more_are_taken() -> None:
    async def echoes(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(await reader.readexactly(5))

    async with asyncio.timeout(20), RawServer(echoes) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        while not server.accepted:
            await asyncio.sleep(0)
        server.stop_listening()
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(b"hello")
        assert await reader.read() == b"hello"
        writer.close()


async def test_an_error_of_a_handler_is_raised_but_not_that_its_client_has_gone() -> None:
    async def fails(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        await reader.readexactly(1)
        raise AssertionError("not what was expected")

    async with asyncio.timeout(20):
        with pytest.RaisesGroup(pytest.RaisesExc(AssertionError, match="not what was expected")):
            async with RawServer(fails) as server:
                for sent in (b"", b"x"):
                    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
                    writer.write(sent)
                    writer.write_eof()
                    await reader.read()
                    writer.close()


OTHERS = {
    "attack/service.py": "a process of its own, which ends without closing anything",
}


def test_no_test_starts_another_kind_of_server() -> None:
    """In its own loop; a thread or process of its own may."""
    for path in TESTS.rglob("*.py"):
        if not re.search(r"start_(unix_)?server", source := path.read_text("utf-8")):
            continue
        names = {node.attr for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Attribute)}
        assert not names & {"start_server", "start_unix_server"} or str(path.relative_to(TESTS)) in OTHERS, path
