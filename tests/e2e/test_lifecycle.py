"""Requests whose end is not the usual one: the client leaves, the node stops."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import Iterator

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


async def used(session: ClientSession, fleet: Fleet, api_key: str) -> tuple[int, int]:
    """Requests and output tokens in the window."""
    headers = {"Authorization": f"Bearer {api_key}"}
    async with session.get(f"{fleet.nodes[0]}/v1/rate_limits", headers=headers) as response:
        told = (await response.json())["used"]
        return told["requests"], told["output_tokens"]


async def test_a_client_that_leaves_pays_for_what_was_produced(slow_fleet: Fleet) -> None:
    api_key = slow_fleet.new_key()
    host, _, port = slow_fleet.nodes[0].removeprefix("http://").rpartition(":")
    body = json.dumps({"model": "m", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 1_500}).encode()
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {api_key}\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    async with many_connections() as session, asyncio.timeout(20):
        _, writer = await asyncio.open_connection(host, int(port))
        writer.write(head.encode() + body)
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
