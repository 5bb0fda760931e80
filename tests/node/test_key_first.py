"""The key comes before the body: what is refused without its body being read, and what becomes of that body then."""

from __future__ import annotations

import asyncio
import gzip
import json
import zlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from fault_proxy import FaultProxy
from in_process import Node, api_key_on, serving
from node_commands import eventually
from store_tools import new_api_key

from limiter_node.http.server import client_connection as connection_module
from limiter_node.http.server.client_connection import LINGER_BYTES
from limiter_node.http.server.fast_connection import FastConnection
from limiter_node.http.server.raw_body import MAX_DISCARDED_BYTES
from limiter_node.limits import Amounts
from limiter_node.store.url import parse_store_url
from limiter_node.upstream.requests import ChatRequest
from limiter_node.upstream.source import Completion

BODY = json.dumps({"model": "m", "messages": [{"role": "user", "content": "Hi"}]}).encode()
CHAT = "POST /v1/chat/completions HTTP/1.1"
HEALTH = b"GET /healthz HTTP/1.1\r\nHost: n\r\n\r\n"
Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@pytest.fixture
async def node(embedded_single: str) -> AsyncIterator[Node]:
    async with serving(embedded_single) as running:
        yield running


@asynccontextmanager
async def connected(node: Node) -> AsyncIterator[Streams]:
    reader, writer = await asyncio.open_connection("127.0.0.1", int(node.url.rpartition(":")[2]))
    try:
        async with asyncio.timeout(20):
            yield reader, writer
    finally:
        writer.transport.abort()


def head(*fields: str, api_key: str = "sk-nobody", request: str = CHAT) -> bytes:
    lines = (request, "Host: n", f"Authorization: Bearer {api_key}", *fields, "", "")
    return "\r\n".join(lines).encode()


async def answer(reader: asyncio.StreamReader) -> tuple[int, str, bytes]:
    """One response: its status, its head in lower case, its body."""
    raw = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
    length = next(int(line.partition(":")[2]) for line in raw.split("\r\n") if line.startswith("content-length:"))
    return int(raw.split()[1]), raw, await reader.readexactly(length)


# ---- before the body ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        pytest.param((), 401, id="a length"),
        pytest.param(("Expect: 100-continue",), 401, id="waits to be told to go on"),
        pytest.param(("Content-Encoding: gzip",), 401, id="gzip"),
        pytest.param(("Content-Encoding: br",), 401, id="br"),
    ],
)
async def test_an_unknown_key_is_told_so_before_a_byte_of_its_body(
    node: Node, fields: tuple[str, ...], status: int
) -> None:
    async with connected(node) as (reader, writer):
        writer.write(head("Content-Length: 9000", *fields))
        assert (await answer(reader))[0] == status


async def test_an_unknown_key_is_all_that_strangers_are_told(node: Node) -> None:
    for body in (BODY, b"{", b"\xff", b"[" * 5_000):
        async with connected(node) as (reader, writer):
            writer.write(head(f"Content-Length: {len(body)}") + body)
            assert (await answer(reader))[0] == 401
    assert not node.dispatcher._queues
    assert not node.dispatcher._queues.unmet


@pytest.mark.parametrize(("version", "told"), [("1.1", b"HTTP/1.1 100 Continue"), ("1.0", b"HTTP/1.0 200 OK")])
async def test_only_a_client_that_knows_of_it_is_told_to_go_on(
    node: Node, embedded_single: str, version: str, told: bytes
) -> None:
    api_key = api_key_on(embedded_single)
    assert (await node.chat(api_key))[0] == 200  # it is known from now on: nothing is awaited before its body
    fields = (f"Content-Length: {len(BODY)}", "Expect: 100-continue")
    async with connected(node) as (reader, writer):
        writer.write(head(*fields, api_key=api_key, request=CHAT.replace("1.1", version)) + BODY[:1])
        await eventually(lambda: node.routes._in_flight.under_way == 1)
        writer.write(BODY[1:])
        assert (await reader.readline()).rstrip() == told


@pytest.mark.parametrize(
    ("fields", "status", "code"),
    [
        (("Content-Length: 10001",), 413, "request_too_large"),
        (("Content-Length: 10001", "Expect: 100-continue"), 413, "request_too_large"),
        (("Content-Length: 9000", "Content-Encoding: br"), 415, "unsupported_media_type"),
        (("Content-Length: 9000", "Content-Encoding: zstd"), 415, "unsupported_media_type"),
        (("Content-Length: 9000", "Content-Encoding: gzip, gzip"), 415, "unsupported_media_type"),
        (("Content-Length: 9000", "Content-Encoding: gzip", "Content-Encoding: gzip"), 415, "unsupported_media_type"),
        (("Content-Length: 9000", "Expect: a miracle"), 417, "expectation_failed"),
    ],
)
async def test_what_the_head_rules_out_is_told_before_the_body(
    node: Node, embedded_single: str, fields: tuple[str, ...], status: int, code: str
) -> None:
    api_key = api_key_on(embedded_single)
    async with connected(node) as (reader, writer):
        writer.write(head(*fields, api_key=api_key))
        told, _, body = await answer(reader)
    assert (told, json.loads(body)["error"]["code"]) == (status, code)


async def test_without_the_store_an_unmet_key_gets_a_503_before_its_body(embedded_single: str) -> None:
    port = parse_store_url(embedded_single).endpoints[0][1]
    async with FaultProxy(port) as proxy, serving(f"redis://127.0.0.1:{proxy.port}", timeout_ms=200) as node:
        met = api_key_on(embedded_single)
        assert (await node.chat(met))[0] == 200
        proxy.pass_replies = False
        for api_key in (api_key_on(embedded_single), new_api_key()):
            async with connected(node) as (reader, writer):
                writer.write(head("Content-Length: 9000", api_key=api_key))
                status, fields, body = await answer(reader)
                assert (status, json.loads(body)["error"]["code"]) == (503, "store_unavailable")
                assert "retry-after: 1\r\n" in fields


@pytest.mark.parametrize(
    "given", ["Authorization: Bearer   KEY", "authorization: bearer KEY", "x-api-key: KEY", "api-key: KEY"]
)
async def test_a_key_in_any_form_is_decided(node: Node, embedded_single: str, given: str) -> None:
    api_key = api_key_on(embedded_single)
    async with connected(node) as (reader, writer):
        lines = (CHAT, "Host: n", given.replace("KEY", api_key), f"Content-Length: {len(BODY)}", "", "")
        writer.write("\r\n".join(lines).encode() + BODY)
        assert (await answer(reader))[0] == 200
    assert (await node.used(api_key)).requests == 1


async def test_two_keys_are_a_400_that_counts_for_neither(node: Node, embedded_single: str) -> None:
    one, other = api_key_on(embedded_single), api_key_on(embedded_single)
    for second in (f"x-api-key: {other}", f"Authorization: Bearer {other}", f"Authorization: Bearer {one}"):
        async with connected(node) as (reader, writer):
            writer.write(head(second, f"Content-Length: {len(BODY)}", api_key=one) + BODY)
            status, _, body = await answer(reader)
            assert (status, json.loads(body)["error"]["code"]) == (400, "ambiguous_api_key")
    assert await node.used(one) == await node.used(other) == Amounts(0, 0, 0)


# ---- bodies that are packed --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("encoding", "packed"),
    [
        ("gzip", gzip.compress(BODY, mtime=0)),
        ("GZIP", gzip.compress(BODY, mtime=0)),
        ("deflate", zlib.compress(BODY)),
        ("identity", BODY),
    ],
)
async def test_a_packed_body_is_unpacked(node: Node, embedded_single: str, encoding: str, packed: bytes) -> None:
    async with connected(node) as (reader, writer):
        field = f"Content-Encoding: {encoding}"
        writer.write(head(field, f"Content-Length: {len(packed)}", api_key=api_key_on(embedded_single)) + packed)
        assert (await answer(reader))[0] == 200
        assert node.routes._held.held == 0


@pytest.mark.parametrize(
    ("packed", "status"),
    [(gzip.compress(b" " * 20_000, mtime=0), 413), (BODY, 400), (gzip.compress(BODY, mtime=0)[:-1], 400)],
)
async def test_a_packed_body_that_cannot_be_taken(node: Node, embedded_single: str, packed: bytes, status: int) -> None:
    async with connected(node) as (reader, writer):
        length = f"Content-Length: {len(packed)}"
        writer.write(head("Content-Encoding: gzip", length, api_key=api_key_on(embedded_single)) + packed + HEALTH)
        assert (await answer(reader))[0] == status
        assert (await answer(reader))[0] == 200, "its end is where its length says"
        assert node.routes._held.held == 0


# ---- what is thrown away -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("request_line", [CHAT, "POST /nowhere HTTP/1.1", "POST /healthz HTTP/1.1"])
async def test_a_small_body_that_nobody_reads_is_discarded_as_it_was_sent(node: Node, request_line: str) -> None:
    """A bomb of 60 MB, and not one that is no gzip at all: neither is looked into, and the connection goes on."""
    for body in (gzip.compress(b" " * 60_000_000, 9), b"x" * MAX_DISCARDED_BYTES):
        assert len(body) <= MAX_DISCARDED_BYTES
        async with connected(node) as (reader, writer):
            fields = ("Content-Encoding: gzip", f"Content-Length: {len(body)}")
            writer.write(head(*fields, request=request_line))
            status, fields_told, _ = await answer(reader)
            assert status in (401, 404, 405)
            assert "connection: close" not in fields_told
            (connection,) = node.server.connections
            assert isinstance(connection, connection_module.ClientConnection)
            assert (content := connection.body) is not None
            writer.write(body[:100])
            writer.write(body[100:] + HEALTH)
            assert (await answer(reader))[0] == 200
            assert content.total_bytes == len(body)
        await eventually(lambda: not node.server.connections)


async def test_a_chunked_body_that_nobody_reads_is_discarded_as_far_as_it_is_small(node: Node) -> None:
    chunk = b"2000\r\n" + b"x" * 0x2000 + b"\r\n"
    async with connected(node) as (reader, writer):
        writer.write(head("Transfer-Encoding: chunked") + chunk)
        assert (await answer(reader))[0] == 401
        writer.write(chunk * 7 + b"0\r\n\r\n" + HEALTH)
        assert (await answer(reader))[0] == 200
    async with connected(node) as (reader, writer):
        writer.write(head("Transfer-Encoding: chunked") + chunk)
        assert (await answer(reader))[0] == 401
        writer.write(chunk * 8)
        assert await reader.read() == b""


async def test_a_client_that_sends_all_of_a_large_body_first_reads_its_401(node: Node) -> None:
    """It would lose it to a reset if the connection were closed while it sends."""
    size = LINGER_BYTES
    async with connected(node) as (reader, writer):
        writer.write(head(f"Content-Length: {size}"))
        for _ in range(size // 65_536):
            writer.write(b"x" * 65_536)
            await writer.drain()
        status, fields, _ = await answer(reader)
        assert status == 401
        assert "connection: close" in fields
        assert await reader.read() == b""


@pytest.mark.parametrize("declared", [MAX_DISCARDED_BYTES + 1_001, 50_000_000])
async def test_a_connection_whose_body_is_too_large_to_discard_ends_soon(
    node: Node, declared: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection_module, "LINGER_S", 0.2)
    async with connected(node) as (reader, writer):
        writer.write(head(f"Content-Length: {declared}") + b"x" * 1_000)
        status, fields, _ = await answer(reader)
        assert (status, "connection: close" in fields) == (401, True)
        assert await reader.read() == b"", "its write side is shut at once"
        await eventually(lambda: not node.server.connections)


async def test_a_client_that_goes_on_sending_is_read_from_in_its_turn(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection_module, "LINGER_BYTES", 100_000)
    monkeypatch.setattr(connection_module, "LINGER_PAUSE_S", 60.0)
    monkeypatch.setattr(connection_module, "LINGER_S", 60.0)
    async with connected(node) as (reader, writer):
        writer.write(head("Content-Length: 500000000"))
        assert (await answer(reader))[0] == 401
        (connection,) = node.server.connections
        assert isinstance(connection, connection_module.ClientConnection)
        for _ in range(2_000):
            writer.write(b"x" * 65_536)
        await eventually(lambda: connection._linger_bytes == 1)
        for _ in range(100):
            await asyncio.sleep(0)
        assert writer.transport.get_write_buffer_size() > 50_000_000, "the rest stays with the client"
        if isinstance(connection, FastConnection):
            assert connection.parser is None, "and nothing of it here"


# ---- the budget --------------------------------------------------------------------------------------------------


async def begin(streams: Streams, api_key: str, size: int, sent: int) -> None:
    """Send the first bytes of a body; the node has asked for it by then."""
    reader, writer = streams
    writer.write(head(f"Content-Length: {size}", "Expect: 100-continue", api_key=api_key))
    assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 100 ")
    writer.write(b"x" * sent)


async def test_bodies_count_when_they_come_and_no_longer_than_they_are_there(node: Node, embedded_single: str) -> None:
    api_key, held = api_key_on(embedded_single), node.routes._held
    async with connected(node) as one, connected(node) as other:
        await begin(one, api_key, 9_000, 5_000)
        await begin(other, api_key, 9_000, 0)
        await eventually(lambda: held.held == 5_000)
        page = await (await node.session.get(f"{node.url}/metrics")).text()
        assert "\nlimiter_held_bytes 5000.0\n" in page
        one[1].transport.abort()
        await eventually(lambda: held.held == 0)


async def test_beyond_the_budget_is_a_503_at_once(node: Node, embedded_single: str) -> None:
    api_key, held = api_key_on(embedded_single), node.routes._held
    held.most = held.most_of_large = 8_000
    async with connected(node) as one, connected(node) as other, connected(node) as third:
        await begin(one, api_key, 7_000, 6_000)
        await eventually(lambda: held.held == 6_000)
        # One that declares what can't be had, and one that doesn't say how much it will be.
        other[1].write(head("Content-Length: 3000", api_key=api_key))
        third[1].write(head("Transfer-Encoding: chunked", api_key=api_key) + b"bb8\r\n" + b"x" * 3_000 + b"\r\n")
        for reader, _ in (other, third):
            status, fields, body = await answer(reader)
            assert (status, json.loads(body)["error"]["code"]) == (503, "overloaded")
            assert "retry-after: 1\r\n" in fields
        assert (await node.chat(api_key))[0] == 200, "there is room for a small one"
        one[1].write(b" " * 1_000)
        assert (await answer(one[0]))[0] == 400
        assert held.held == 0


async def test_a_body_is_held_until_its_request_is_with_the_upstream(node: Node, embedded_single: str) -> None:
    api_key, held = api_key_on(embedded_single), node.routes._held
    asked, go_on = asyncio.Event(), asyncio.Event()

    async def wait(request: ChatRequest, cap: int) -> Completion:
        asked.set()
        await go_on.wait()
        return await node.upstream.whole(request, cap)

    node.upstream.answer = wait
    asking = asyncio.ensure_future(node.chat(api_key, user="x" * 1_000))
    await asked.wait()
    assert held.held > 1_000
    go_on.set()
    assert (await asking)[0] == 200
    assert held.held == 0
