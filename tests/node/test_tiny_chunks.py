"""Bodies in tiny chunks, as a node answers them: little of them is parsed, and too much framing is refused."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator

import pytest
from aiohttp_ways import needs_early_400, needs_slices
from in_process import Node, api_key_on, serving
from node_commands import eventually
from test_key_first import BODY, HEALTH, answer, connected, head

from limiter_node.http.server import fast_connection
from limiter_node.http.server.client_connection import MAX_FRAMING_BYTES, ClientConnection, Deadlines
from limiter_node.http.server.fast_connection import FastConnection
from limiter_node.http.server.slices import SLICE_BYTES

CHUNKED = "Transfer-Encoding: chunked"


@pytest.fixture
async def node(embedded_single: str) -> AsyncIterator[Node]:
    async with serving(embedded_single, max_body_bytes=1_000_000) as running:
        yield running


def in_chunks(body: bytes, size: int, end: bytes = b"0\r\n\r\n") -> bytes:
    chunks = (body[begin : begin + size] for begin in range(0, len(body), size))
    return b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks) + end


def only_connection(node: Node) -> ClientConnection:
    (connection,) = node.server.connections
    assert isinstance(connection, ClientConnection)
    return connection


@needs_slices
async def test_an_unknown_key_is_told_so_after_one_slice(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    parsed: list[int] = []
    receive = fast_connection._receive

    def count(self: FastConnection, data: bytes) -> None:
        if self.parser is not None:
            parsed.append(len(data))
        receive(self, data)

    monkeypatch.setattr(fast_connection, "_receive", count)
    async with connected(node) as (reader, writer):
        await eventually(lambda: bool(node.server.connections))
        only_connection(node).data_received(head(CHUNKED) + in_chunks(b" " * 40_000, 1))
        status, fields, _ = await answer(reader)
        assert (status, "connection: close" in fields) == (401, True)
        writer.write(in_chunks(b" " * 40_000, 1))
        assert await reader.read() == b""
    assert [size for size in parsed if size] == [SLICE_BYTES]


async def test_the_rest_of_a_dense_body_with_a_length_is_discarded_as_any_other(node: Node) -> None:
    body = b"1,\r\n" * 5_000
    async with connected(node) as (reader, _):
        await eventually(lambda: bool(node.server.connections))
        only_connection(node).data_received(head(f"Content-Length: {len(body)}") + body + HEALTH)
        status, fields, _ = await answer(reader)
        assert (status, "connection: close" in fields) == (401, False)
        assert (await answer(reader))[0] == 200


@pytest.mark.parametrize("size", [1, 2, 4])
@pytest.mark.parametrize("piece_bytes", [2_000_000, 5_000], ids=["at once", "in pieces"])
async def test_a_body_of_which_most_is_framing_is_refused(
    node: Node, embedded_single: str, size: int, piece_bytes: int
) -> None:
    api_key = api_key_on(embedded_single)
    sent = in_chunks(BODY.ljust(100_000 * size), size)
    async with connected(node) as (reader, writer):
        writer.write(head(CHUNKED, api_key=api_key))
        await eventually(lambda: node.routes._in_flight.under_way == 1)
        for begin in range(0, len(sent), piece_bytes):
            writer.write(sent[begin : begin + piece_bytes])
            await writer.drain()
            await asyncio.sleep(0)
        status, fields, body = await answer(reader)
        assert (status, "connection: close" in fields) == (400, True)
        assert "chunks so small" in json.loads(body)["error"]["message"]
        assert await reader.read() == b""
    assert node.routes._held.held == 0
    assert (await node.used(api_key)).requests == 0


@needs_slices
async def test_a_body_is_refused_as_soon_as_its_framing_is_too_much(node: Node, embedded_single: str) -> None:
    sent = in_chunks(b" " * 40_000, 1, b"")
    async with connected(node) as (reader, _):
        await eventually(lambda: bool(node.server.connections))
        connection = only_connection(node)
        connection.data_received(head(CHUNKED, api_key=api_key_on(embedded_single)) + sent)
        assert (await answer(reader))[0] == 400
        assert connection.body is not None
        assert connection.body.total_bytes * 5 < MAX_FRAMING_BYTES + 3 * SLICE_BYTES


@pytest.mark.parametrize(
    ("content", "size"),
    [
        pytest.param(BODY.ljust(9_000), 1, id="little, in chunks of a byte"),
        pytest.param(BODY.ljust(300_000), 6, id="much, in chunks of six"),
        pytest.param(json.dumps(json.loads(BODY)).encode() + b"\r\n" * 150_000, 4_096, id="line ends in large chunks"),
        pytest.param(b"\r\n" * 100_000 + BODY + b"\r\n" * 100_000, 65_536, id="line ends in larger ones"),
    ],
)
async def test_what_may_be_sent_in_chunks(node: Node, embedded_single: str, content: bytes, size: int) -> None:
    api_key = api_key_on(embedded_single)
    async with connected(node) as (reader, writer):
        for _ in range(2):
            writer.write(head(CHUNKED, api_key=api_key) + in_chunks(content, size) + HEALTH)
            assert (await answer(reader))[0] == 200
            assert (await answer(reader))[0] == 200
    assert (await node.used(api_key)).requests == 2


async def test_line_ends_in_a_body_with_a_length_are_never_framing(node: Node, embedded_single: str) -> None:
    content = BODY + b"\r\n" * 400_000
    async with connected(node) as (reader, writer):
        sent = head(f"Content-Length: {len(content)}", api_key=api_key_on(embedded_single)) + content + HEALTH
        for begin in range(0, len(sent), 70_000):
            writer.write(sent[begin : begin + 70_000])
            await writer.drain()
        assert (await answer(reader))[0] == 200
        assert (await answer(reader))[0] == 200


@needs_early_400
async def test_broken_framing_behind_tiny_chunks_is_a_400(node: Node, embedded_single: str) -> None:
    async with connected(node) as (reader, _):
        await eventually(lambda: bool(node.server.connections))
        sent = in_chunks(b" " * 3_000, 1, b"nonsense\r\n") + in_chunks(b" " * 3_000, 1)
        only_connection(node).data_received(head(CHUNKED, api_key=api_key_on(embedded_single)) + sent)
        status, _, body = await answer(reader)
        assert (status, json.loads(body)["error"]["message"]) == (400, "The body of your request could not be read.")
        assert await reader.read() == b""


async def test_a_body_in_tiny_chunks_has_its_deadline(embedded_single: str) -> None:
    async with serving(embedded_single, deadlines=Deadlines(body_s=0.3)) as node, connected(node) as (reader, _):
        await eventually(lambda: bool(node.server.connections))
        sent = in_chunks(b" " * 9_000, 1, b"")
        only_connection(node).data_received(head(CHUNKED, api_key=api_key_on(embedded_single)) + sent)
        assert (await answer(reader))[0] == 408
        assert await reader.read() == b""
