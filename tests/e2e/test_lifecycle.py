"""Requests and streams whose end is not the usual one: the client leaves, the node stops."""

from __future__ import annotations

import asyncio
import json
import random
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from aiohttp import ClientSession
from fleet import Fleet, chat, many_connections, running_fleet


@pytest.fixture
def slow_fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """One node on a single store whose answers have 1,000 tokens and take half a second."""
    with running_fleet(
        tmp_path_factory.mktemp("slow"), "--store", "single", "--mock-length", "fixed:1000", "--mock-latency-ms", "500",
        "--decision-timeout-ms", "20000", nodes=1,
    ) as running:  # fmt: skip
        yield running


@pytest.fixture
def streaming_fleet(tmp_path: Path) -> Iterator[Fleet]:
    """One node on a single store whose answers have 400 tokens, 200 a second when they are streamed."""
    with running_fleet(
        tmp_path, "--store", "single", "--mock-length", "fixed:400", "--mock-tokens-per-s", "200", "--mock-ttft-ms",
        "20", "--decision-timeout-ms", "20000", nodes=1,
    ) as running:  # fmt: skip
        yield running


def raw_request(api_key: str, **fields: object) -> bytes:
    body = json.dumps({"model": "m", "messages": [{"role": "user", "content": "Hi"}], **fields}).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {api_key}\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


async def used(session: ClientSession, fleet: Fleet, api_key: str) -> tuple[int, int]:
    """Requests and output tokens in the window."""
    headers = {"Authorization": f"Bearer {api_key}"}
    async with session.get(f"{fleet.nodes[0]}/v1/rate_limits", headers=headers) as response:
        told = (await response.json())["used"]
        return told["requests"], told["output_tokens"]


async def test_a_client_that_leaves_pays_for_what_was_produced(slow_fleet: Fleet) -> None:
    api_key = slow_fleet.new_key()
    host, _, port = slow_fleet.nodes[0].removeprefix("http://").rpartition(":")
    async with many_connections() as session, asyncio.timeout(20):
        _, writer = await asyncio.open_connection(host, int(port))
        writer.write(raw_request(api_key, max_tokens=1_500))
        while await used(session, slow_fleet, api_key) != (1, 1_500):
            pass  # reserved, and the mock is at work
        writer.transport.abort()
        while await used(session, slow_fleet, api_key) != (1, 1_000):
            pass


async def test_sigterm_finishes_the_requests_under_way(slow_fleet: Fleet) -> None:
    api_key = slow_fleet.new_key()
    async with many_connections() as session, asyncio.timeout(20):
        requests = [asyncio.create_task(chat(session, slow_fleet.nodes[0], api_key)) for _ in range(50)]
        while (await used(session, slow_fleet, api_key))[0] < 50:
            pass
        slow_fleet.process.send_signal(signal.SIGTERM)
        answers = await asyncio.gather(*requests)
    assert {response.status for response, _ in answers} == {200}


async def read_tokens(reader: asyncio.StreamReader, at_most: int) -> int:
    """Read so many tokens of a stream, or to its end; how many came."""
    tokens = 0
    while tokens < at_most and (line := await reader.readline()):
        tokens += b'"delta":{"content":' in line
    return tokens


async def test_a_stream_that_is_left_costs_what_was_sent(streaming_fleet: Fleet) -> None:
    """The client says that it goes and reads what is still on its way, so it knows to the token what was sent."""
    host, _, port = streaming_fleet.nodes[0].removeprefix("http://").rpartition(":")
    rng = random.Random(5)

    async def leave(session: ClientSession, chunks: int, *, whole: bool) -> None:
        api_key = streaming_fleet.new_key()
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(raw_request(api_key, max_tokens=1_500, stream=True))
        sent = await read_tokens(reader, chunks)
        if whole:
            writer.write_eof()
            sent += await read_tokens(reader, 400)
            assert chunks <= sent < 400
        writer.transport.abort()
        async with asyncio.timeout(1):
            while (charged := (await used(session, streaming_fleet, api_key))[1]) == 1_500:
                await asyncio.sleep(0.01)
        # Who slams the door can't know what was on its way: five milliseconds bring one token.
        assert charged == sent if whole else chunks <= charged <= chunks + 100

    async with many_connections() as session:
        await asyncio.gather(
            *(leave(session, rng.randrange(1, 300), whole=whole) for whole in (True, False) for _ in range(20))
        )


async def test_sigterm_lets_streams_finish(streaming_fleet: Fleet) -> None:
    host, _, port = streaming_fleet.nodes[0].removeprefix("http://").rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    async with asyncio.timeout(20):
        writer.write(raw_request(streaming_fleet.new_key(), max_tokens=1_500, stream=True))
        assert await read_tokens(reader, 10) == 10
        streaming_fleet.process.send_signal(signal.SIGTERM)
        rest = await reader.read()
    assert rest.count(b'"delta":{"content":') == 390
    assert rest.endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n")
    writer.close()


async def test_sigterm_cuts_streams_off_at_the_drain_timeout(tmp_path: Path) -> None:
    arguments = ("--mock-length", "fixed:10000", "--mock-tokens-per-s", "100", "--drain-timeout", "0.2")
    with running_fleet(tmp_path, "--store", "single", *arguments, nodes=1) as fleet:
        host, _, port = fleet.nodes[0].removeprefix("http://").rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        async with asyncio.timeout(20):
            writer.write(raw_request(fleet.new_key(), max_tokens=10_000, stream=True))
            assert await read_tokens(reader, 10) == 10
            fleet.process.send_signal(signal.SIGTERM)
            rest = await reader.read()
        assert b'"code":"server_stopping"' in rest
        assert b"[DONE]" not in rest
        writer.close()
