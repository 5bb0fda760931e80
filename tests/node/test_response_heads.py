"""What the head of every response has in common, and HEAD, which asks for nothing but it."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncGenerator, AsyncIterator, Sequence

import pytest
from aiohttp import ClientSession
from in_process import Node, api_key_on, serving

from limiter_node.http.server.client_connection import Deadlines
from limiter_node.upstream.source import Delta


@pytest.fixture
async def node(embedded_single: str) -> AsyncIterator[Node]:
    async with serving(embedded_single) as running:
        yield running


async def heads(node: Node, request: bytes) -> list[bytes]:
    """The heads of all that is answered until the connection is closed."""
    host, _, port = node.url.removeprefix("http://").rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(request)
    async with asyncio.timeout(20):
        answer = await reader.read()
    writer.close()
    return [part.partition(b"\r\n\r\n")[0] for part in re.split(rb"HTTP/1\.[01] ", answer)[1:]]


def post(path: str, body: object, *fields: str) -> bytes:
    data = json.dumps(body).encode()
    lines = [f"POST {path} HTTP/1.1", "Host: n", "Connection: close", f"Content-Length: {len(data)}", *fields, "", ""]
    return "\r\n".join(lines).encode() + data


def get(path: str, *fields: str) -> bytes:
    return "\r\n".join([f"GET {path} HTTP/1.1", "Host: n", "Connection: close", *fields, "", ""]).encode()


async def test_every_response_names_the_server_and_no_version(node: Node, embedded_single: str) -> None:
    bearer = f"Authorization: Bearer {api_key_on(embedded_single, rpm=3)}"
    node.server._deadlines = Deadlines(0.2, 0.2)
    chat = {"model": "m", "messages": [{"role": "user", "content": "x"}]}
    long_head = b"GET / HTTP/1.1\r\nHost: n\r\nx: " + b"x" * 9_000 + b"\r\n\r\n"
    path = "/v1/chat/completions"
    asked = [
        (post(path, chat, bearer), b"200"),
        (post(path, chat, bearer, "Expect: 100-continue"), b"200"),
        (post(path, [], bearer), b"400"),
        (post("/v1/embeddings", {"model": "m", "input": "x"}, bearer), b"200"),
        (post(path, chat, bearer), b"429"),
        (post(path, chat), b"401"),
        (post("/v1/models", chat), b"405"),
        (get("/nowhere"), b"404"),
        (get("/healthz"), b"200"),
        (get("/metrics"), b"200"),
        (b"nonsense\r\n\r\n", b"400"),
        (long_head, b"431"),
        (b"GET / HTTP/1.1\r\n" + b"x: y\r\n" * 7_000, b"400"),
        (b"GET / HTTP/1.1\r\n", b"408"),
        (b"POST %s HTTP/1.1\r\nHost: n\r\n%s\r\nContent-Length: 5\r\n\r\n" % (path.encode(), bearer.encode()), b"408"),
    ]
    for request, status in asked:
        told = await heads(node, request)
        assert told, request[:60]
        *before, head = told
        assert before in ([], [b"100 Continue"])
        assert head.startswith(status), head
        assert [line for line in head.split(b"\r\n") if line.lower().startswith(b"server:")] == [
            b"Server: limiter-node"
        ], request[:60]
        for word in (b"aiohttp", b"Python", b"uvloop"):
            assert word not in head


async def test_a_stream_and_a_refusal_do_too(node: Node, embedded_single: str) -> None:
    async def deltas() -> AsyncGenerator[Sequence[Delta], None]:
        yield (Delta(0, "Hello", 1, "stop"),)

    node.upstream.deltas = deltas
    headers = {"Authorization": f"Bearer {api_key_on(embedded_single)}"}
    body = {"model": "m", "messages": [{"role": "user", "content": "x"}], "stream": True}
    async with node.session.post(f"{node.url}/v1/chat/completions", json=body, headers=headers) as response:
        assert response.content_type == "text/event-stream"
        assert response.headers.getall("Server") == ["limiter-node"]
    node.server._max_connections = 0
    (head,) = await heads(node, b"")
    assert head.startswith(b"503")
    assert b"\r\nServer: limiter-node\r\n" in head


@pytest.mark.parametrize(
    "path", ["/healthz", "/readyz", "/metrics", "/v1/models", "/v1/models/m", "/v1/models/unknown", "/v1/rate_limits"]
)
async def test_head_is_get_without_a_body(node: Node, embedded_single: str, path: str) -> None:
    headers = {"Authorization": f"Bearer {api_key_on(embedded_single)}"}
    async with ClientSession() as session:
        async with session.get(node.url + path, headers=headers) as got:
            body = await got.read()
        # Twice on one connection: a body that was sent would be read as the next head.
        for _ in range(2):
            async with session.head(node.url + path, headers=headers) as response:
                assert response.status == got.status
                assert await response.read() == b""
                assert response.content_type == got.content_type
                if path != "/metrics":  # whose numbers have changed
                    assert int(response.headers["Content-Length"]) == len(body)
        async with session.delete(node.url + path) as response:
            assert (response.status, response.headers["Allow"]) == (405, "GET, HEAD")


async def test_head_needs_the_key_that_get_needs(node: Node) -> None:
    async with ClientSession() as session, session.head(f"{node.url}/v1/models") as response:
        assert response.status == 401
        assert await response.read() == b""


async def test_what_is_only_posted_has_no_head(node: Node) -> None:
    async with ClientSession() as session, session.head(f"{node.url}/v1/chat/completions") as response:
        assert (response.status, response.headers["Allow"]) == (405, "POST")
