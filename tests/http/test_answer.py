"""Complete answers on the wire: what the version of HTTP and the method make of them, and slow readers."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator

import pytest
from aiohttp import web

from limiter_node.http.responses.whole_response import WholeResponse
from limiter_node.http.server.http_server import HttpServer

BODY = b'{"a":1}'
HEADERS = "Content-Type: application/json\r\nx-one: 1\r\n"


@pytest.fixture
async def server() -> AsyncIterator[tuple[int, list[str]]]:
    """A port that answers, and the paths that were asked for."""
    paths: list[str] = []

    async def handler(request: web.BaseRequest) -> WholeResponse:
        paths.append(request.path)
        if request.path == "/large":
            return WholeResponse(b"x" * 8_000_000, HEADERS)
        answer = WholeResponse(BODY, HEADERS, int(request.path[1:]))
        if request.query_string == "close":
            answer.force_close()
        return answer

    runner = web.ServerRunner(HttpServer(handler, keepalive_s=75), shutdown_timeout=1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield runner.addresses[0][1], paths
    finally:
        await runner.cleanup()


async def exchange(port: int, request: bytes) -> bytes:
    """Everything that comes back until the server closes, or answers a second request that asks for it."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(request)
        async with asyncio.timeout(20):
            return await reader.read()
    finally:
        writer.close()


def parts(response: bytes) -> tuple[str, dict[str, str], bytes]:
    head, _, body = response.partition(b"\r\n\r\n")
    status, *lines = head.decode().split("\r\n")
    return status, dict(line.split(": ", 1) for line in lines), body


async def test_all_of_it(server: tuple[int, list[str]]) -> None:
    status, headers, body = parts(await exchange(server[0], b"GET /200?close HTTP/1.1\r\nHost: x\r\n\r\n"))
    assert (status, body) == ("HTTP/1.1 200 OK", BODY)
    assert re.fullmatch(r"\w{3}, \d\d \w{3} \d{4} \d\d:\d\d:\d\d GMT", headers.pop("Date"))
    assert headers == {
        "Content-Type": "application/json",
        "x-one": "1",
        "Content-Length": str(len(BODY)),
        "Connection": "close",
    }


@pytest.mark.parametrize(("status", "line"), [(429, "429 Too Many Requests"), (503, "503 Service Unavailable")])
async def test_the_status(server: tuple[int, list[str]], status: int, line: str) -> None:
    request = f"GET /{status}?close HTTP/1.1\r\nHost: x\r\n\r\n".encode()
    assert parts(await exchange(server[0], request))[0] == f"HTTP/1.1 {line}"


async def test_a_head_gets_the_headers_alone(server: tuple[int, list[str]]) -> None:
    _, headers, body = parts(await exchange(server[0], b"HEAD /405?close HTTP/1.1\r\nHost: x\r\n\r\n"))
    assert (headers["Content-Length"], body) == (str(len(BODY)), b"")


@pytest.mark.parametrize(
    ("version", "asked", "answered"),
    [
        ("1.1", "", None),
        ("1.1", "Connection: close\r\n", "close"),
        ("1.0", "", None),
        ("1.0", "Connection: keep-alive\r\n", "keep-alive"),
    ],
)
async def test_connections_are_kept_as_asked(
    server: tuple[int, list[str]], version: str, asked: str, answered: str | None
) -> None:
    port, paths = server
    is_kept = answered == "keep-alive" or (version, asked) == ("1.1", "")
    first = f"GET /200 HTTP/{version}\r\nHost: x\r\n{asked}\r\n".encode()
    second = b"GET /404?close HTTP/1.1\r\nHost: x\r\n\r\n" if is_kept else b""
    status, headers, rest = parts(await exchange(port, first + second))  # else it would not end
    assert status == f"HTTP/{version} 200 OK"
    assert headers.get("Connection") == answered
    assert rest.count(b"HTTP/1.1 404") == is_kept
    assert paths == (["/200", "/404"] if is_kept else ["/200"])


async def test_the_next_request_waits_until_a_slow_reader_has_read(server: tuple[int, list[str]]) -> None:
    port, paths = server
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1_024)
    writer.write(b"GET /large HTTP/1.1\r\nHost: x\r\n\r\nGET /404?close HTTP/1.1\r\nHost: x\r\n\r\n")
    async with asyncio.timeout(20):
        await reader.readexactly(100)
        assert paths == ["/large"], "8 MB don't fit the buffers, so that its answer is still being written"
        received = await reader.read()
        while chunk := await reader.read():
            received += chunk
    assert received.endswith(BODY)
    assert paths == ["/large", "/404"]
    writer.close()


async def test_a_client_that_has_gone_ends_the_connection_quietly(server: tuple[int, list[str]]) -> None:
    port, paths = server
    _, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET /200 HTTP/1.1\r\nHost: x\r\n\r\n")
    assert writer.transport is not None
    writer.transport.abort()
    status, _, _ = parts(await exchange(port, b"GET /404?close HTTP/1.1\r\nHost: x\r\n\r\n"))
    assert status == "HTTP/1.1 404 Not Found"
    assert paths[-1] == "/404"
