"""Streams and their ends: what is charged is what was written to the connection, whoever ends them and when."""

from __future__ import annotations

import asyncio
import json
import random
import re
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import openai
import pytest
from in_process import Node, api_key_on, serving
from openai import AsyncOpenAI

from limiter_node.http.server.client_connection import ClientConnection, Deadlines
from limiter_node.limits import Amounts
from limiter_node.upstream.errors import UpstreamError
from limiter_node.upstream.source import Delta, Deltas

RESERVED = 5_000


class Scripted:
    """An upstream's stream: some deltas, one after the other, then whatever `end` does."""

    def __init__(self, tokens: list[int], end: Callable[[], Any]) -> None:
        self._tokens = tokens
        self._end = end
        self.task: asyncio.Task[Any] | None = None
        self.closed = asyncio.Event()

    async def __call__(self) -> Deltas:
        self.task = asyncio.current_task()
        try:
            for number, tokens in enumerate(self._tokens):
                yield [Delta(0, f" {number}", tokens, None)]
            await self._end()
        finally:
            self.closed.set()


async def silence() -> None:
    """The upstream has nothing to say, for as long as anyone listens."""
    await asyncio.Event().wait()


@pytest.fixture
async def node(embedded_single: str) -> AsyncIterator[Node]:
    async with serving(embedded_single) as running:
        yield running


@asynccontextmanager
async def stream(
    node: Node, api_key: str, *, version: str = "1.1", receive_buffer: int = 0, **fields: Any
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A connection on which a stream has been asked for."""
    port = int(node.url.rpartition(":")[2])
    connection = socket.socket()
    if receive_buffer:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    connection.setblocking(False)
    await asyncio.get_running_loop().sock_connect(connection, ("127.0.0.1", port))
    reader, writer = await asyncio.open_connection(sock=connection)
    try:
        writer.write(raw_request(api_key, version=version, **fields))
        yield reader, writer
    finally:
        writer.transport.abort()


def raw_request(api_key: str, *, version: str = "1.1", **fields: Any) -> bytes:
    body = {"model": "m", "messages": [{"role": "user", "content": "Hi"}], "stream": True, "max_tokens": RESERVED}
    data = json.dumps({**body, **fields}).encode()
    head = f"POST /v1/chat/completions HTTP/{version}\r\nHost: x\r\nAuthorization: Bearer {api_key}\r\n"
    return f"{head}Content-Length: {len(data)}\r\n\r\n".encode() + data


async def read_contents(reader: asyncio.StreamReader, chunks: int) -> None:
    """Read until so many chunks with content have come."""
    while chunks:
        chunks -= b'"delta":{"content":' in await reader.readline()


async def charged(node: Node, api_key: str, output_tokens: int) -> Amounts:
    """Wait until so many output tokens are charged, for at most the second that it may take."""
    async with asyncio.timeout(1):
        while (used := await node.used(api_key)).output_tokens != output_tokens:
            await asyncio.sleep(0.005)
    return used


def leave_by_half_closing(writer: asyncio.StreamWriter) -> None:
    writer.write_eof()


def leave_by_closing(writer: asyncio.StreamWriter) -> None:
    writer.close()


def leave_by_reset(writer: asyncio.StreamWriter) -> None:
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
    writer.transport.abort()


@pytest.mark.parametrize("leave", [leave_by_half_closing, leave_by_closing, leave_by_reset])
async def test_a_client_that_leaves_pays_for_what_was_sent(
    node: Node, embedded_single: str, leave: Callable[[asyncio.StreamWriter], None]
) -> None:
    """At random chunks, while the upstream is silent, so that only the connection's end can be what is noticed."""
    rng = random.Random(17)
    for chunks in [1, *(rng.randrange(2, 200) for _ in range(8))]:
        tokens = [rng.randint(1, 20) for _ in range(chunks)]
        node.upstream.deltas = script = Scripted(tokens, silence)
        api_key = api_key_on(embedded_single)
        async with stream(node, api_key) as (reader, writer):
            await read_contents(reader, chunks)
            assert (await node.used(api_key)).output_tokens == RESERVED
            leave(writer)
            used = await charged(node, api_key, sum(tokens))
            assert used.requests == 1
            assert used.input_tokens > 0
            async with asyncio.timeout(1):
                await script.closed.wait()


async def test_a_client_that_leaves_before_the_first_token_pays_for_its_input(node: Node, embedded_single: str) -> None:
    node.upstream.deltas = script = Scripted([], silence)
    api_key = api_key_on(embedded_single)
    async with stream(node, api_key) as (_, writer):
        while not script.task:
            await asyncio.sleep(0.001)
        writer.transport.abort()
        used = await charged(node, api_key, 0)
        assert used.requests == 1
        assert used.input_tokens > 0


async def test_an_upstream_that_fails_in_the_middle_ends_the_stream_with_an_error(
    node: Node, embedded_single: str
) -> None:
    async def fail() -> None:
        raise UpstreamError("10.0.0.1 broke off", produced_tokens=9)

    api_key = api_key_on(embedded_single)
    client = AsyncOpenAI(base_url=f"{node.url}/v1", api_key=api_key, max_retries=0)
    node.upstream.deltas = Scripted([2, 3], fail)
    got: list[str | None] = []

    async def read() -> None:
        async for chunk in answer:
            got.append(chunk.choices[0].delta.content)  # noqa: PERF401 (what comes before the error counts)

    answer = await client.chat.completions.create(
        model="m", messages=[{"role": "user", "content": "Hi"}], stream=True, max_tokens=50
    )
    with pytest.raises(openai.APIError) as error:
        await read()
    assert got == ["", " 0", " 1"]
    assert error.value.code == "upstream_error"
    assert "10.0.0.1" not in str(error.value.body)
    assert (await charged(node, api_key, 9)).requests == 1
    await client.close()


async def test_a_bug_in_the_middle_is_charged_what_was_sent(
    node: Node, embedded_single: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def fail() -> None:
        raise ZeroDivisionError("secret detail")

    node.upstream.deltas = Scripted([2, 3], fail)
    api_key = api_key_on(embedded_single)
    async with stream(node, api_key) as (reader, _):
        body = await reader.readuntil(b"0\r\n\r\n")
    assert b'"code":"internal_error"' in body
    assert b"secret" not in body
    assert b"[DONE]" not in body
    assert "secret detail" in caplog.text
    assert (await charged(node, api_key, 5)).requests == 1


@pytest.mark.parametrize(("error", "status"), [(UpstreamError("no", status=504), 504), (ZeroDivisionError(), 500)])
async def test_a_failure_before_the_first_token_is_an_error_like_any_other(
    node: Node, embedded_single: str, error: Exception, status: int
) -> None:
    async def fail() -> None:
        raise error

    node.upstream.deltas = Scripted([], fail)
    api_key = api_key_on(embedded_single)
    assert (await node.chat(api_key, stream=True))[0] == status
    assert await node.used(api_key) == Amounts(1, 0, 0)


async def test_the_upstream_is_held_to_the_reservation(node: Node, embedded_single: str) -> None:
    async def end() -> None:
        pass

    node.upstream.deltas = Scripted([], end)
    api_key = api_key_on(embedded_single, output_reserve=64)
    for fields in ({"max_tokens": None}, {"max_tokens": 10, "n": 2}):
        async with stream(node, api_key, **fields) as (reader, _):
            await reader.readuntil(b"0\r\n\r\n")
    assert node.upstream.caps == [64, 10]


async def test_a_node_that_stops_cuts_streams_off_and_says_so(node: Node, embedded_single: str) -> None:
    node.upstream.deltas = Scripted([4, 4], silence)
    api_key, waiting_key = api_key_on(embedded_single), api_key_on(embedded_single)
    async with stream(node, api_key) as (reader, _):
        await read_contents(reader, 2)
        node.upstream.deltas = script = Scripted([], silence)
        async with stream(node, waiting_key) as (waiting, _):
            while not script.task:
                await asyncio.sleep(0.001)
            assert await node.routes.drain(0) is False
            told = await waiting.read()
            assert told.startswith(b"HTTP/1.1 503 ")
            assert b"application/json" in told
            assert b'"code":"server_stopping"' in told
        told = await reader.read()
        assert b'"code":"server_stopping"' in told
        assert b"[DONE]" not in told
        assert told.endswith(b"\r\n0\r\n\r\n")
    assert (await charged(node, api_key, 8)).requests == 1
    assert await node.used(waiting_key) == Amounts(1, 0, 0)
    assert await node.routes.drain(1)


async def test_a_cancelled_handler_is_charged_what_was_sent(node: Node, embedded_single: str) -> None:
    node.upstream.deltas = script = Scripted([4, 4], silence)
    api_key = api_key_on(embedded_single)
    async with stream(node, api_key) as (reader, _):
        await read_contents(reader, 2)
        assert script.task is not None
        script.task.cancel()
        assert b"[DONE]" not in await reader.read()
        await charged(node, api_key, 8)
        assert script.closed.is_set()


class Endless:
    """Kilobytes for as long as somebody takes them."""

    def __init__(self) -> None:
        self.produced = 0

    async def __call__(self) -> Deltas:
        while True:
            self.produced += 1
            yield [Delta(0, "x" * 1_000, 1, None)]


def streaming_connection(node: Node) -> ClientConnection:
    (found,) = (each for each in node.server.connections if isinstance(each, ClientConnection) and each._on_gone)
    return found


async def test_a_reader_that_stops_reading_holds_up_its_upstream_and_nobody_else(
    node: Node, embedded_single: str
) -> None:
    node.upstream.deltas = endless = Endless()
    api_key, other_key = api_key_on(embedded_single), api_key_on(embedded_single)
    async with stream(node, api_key, receive_buffer=4_096) as (reader, writer), asyncio.timeout(20):
        await reader.readline()
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        while not (connection := streaming_connection(node)).writing_paused:
            await asyncio.sleep(0.001)
        produced = endless.produced
        for _ in range(50):
            assert (await node.chat(other_key))[0] == 200
        assert endless.produced == produced
        assert connection.writing_paused
        assert connection.transport is not None
        assert connection.transport.get_write_buffer_size() < 64 * 1_024 + 2_000
        writer.transport.resume_reading()  # type: ignore[attr-defined]
        while endless.produced < produced + 1_000:
            await reader.read(1 << 20)
        # It leaves with the server's buffer full: all that was written is charged.
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        while not connection.writing_paused or endless.produced == produced:
            await asyncio.sleep(0.001)
        writer.transport.abort()
        await charged(node, api_key, endless.produced)


async def test_a_reader_that_never_reads_again_is_dropped(embedded_single: str) -> None:
    api_key = api_key_on(embedded_single)
    async with serving(embedded_single, deadlines=Deadlines(stalled_s=0.05)) as node:
        node.upstream.deltas = endless = Endless()
        async with stream(node, api_key, receive_buffer=4_096) as (reader, writer), asyncio.timeout(20):
            await reader.readline()
            writer.transport.pause_reading()  # type: ignore[attr-defined]
            while (await node.used(api_key)).output_tokens == RESERVED:
                await asyncio.sleep(0.01)
            assert (await node.used(api_key)).output_tokens == endless.produced
        assert await node.routes.drain(1), "nothing is left of it"


async def test_a_stream_byte_for_byte_twice_on_one_connection(node: Node, embedded_single: str) -> None:
    async def deltas() -> Deltas:
        yield [Delta(0, "Hi", 1, None), Delta(0, " you", 1, None)]
        yield [Delta(0, ".", 1, "stop")]

    node.upstream.deltas = deltas
    api_key = api_key_on(embedded_single)
    async with stream(node, api_key) as (reader, writer), asyncio.timeout(10):
        for again in (True, False):
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200 OK\r\nServer: limiter-node\r\nContent-Type: text/event-stream\r\n")
            assert b"\r\ncache-control: no-cache\r\n" in head
            assert b"\r\nTransfer-Encoding: chunked\r\n" in head
            assert b"\r\nx-limiter-reserved-output: 5000\r\n" in head
            writes = []
            while size := int(await reader.readline(), 16):
                writes.append((await reader.readexactly(size + 2)).removesuffix(b"\r\n"))
            assert await reader.readline() == b"\r\n"
            assert [write.count(b"data: ") for write in writes] == [3, 2, 1], "what came together leaves together"
            body = re.sub(rb'"id":"chatcmpl-[0-9a-f]{24}"', b'"id":ID', b"".join(writes))
            body = re.sub(rb'"created":\d{10}', b'"created":NOW', body)
            before = (
                b'data: {"id":ID,"object":"chat.completion.chunk","created":NOW,"model":"m","service_tier":"default",'
                b'"system_fingerprint":"fp_test","choices":[{"index":0,"delta":'
            )
            going_on, after = b',"logprobs":null,"finish_reason":null}]}\n\n', b'"stop"}]}\n\ndata: [DONE]\n\n'
            assert body == b"".join(
                (
                    before + b'{"role":"assistant","content":"","refusal":null}' + going_on,
                    before + b'{"content":"Hi"}' + going_on,
                    before + b'{"content":" you"}' + going_on,
                    before + b'{"content":"."}' + going_on,
                    before + b'{},"logprobs":null,"finish_reason":' + after,
                )
            )
            if again:
                writer.write(raw_request(api_key))
    assert (await charged(node, api_key, 6)).requests == 2


async def test_http_1_0_gets_the_events_unframed_and_the_connection_closed(node: Node, embedded_single: str) -> None:
    async def deltas() -> Deltas:
        yield [Delta(0, "Hi", 1, "stop")]

    node.upstream.deltas = deltas
    async with stream(node, api_key_on(embedded_single), version="1.0") as (reader, _), asyncio.timeout(10):
        head, _, body = (await reader.read()).partition(b"\r\n\r\n")
    assert b"chunked" not in head
    assert body.startswith(b"data: {")
    assert body.endswith(b"data: [DONE]\n\n")
