"""The bytes that a node holds of long answers count in its budget, and all of them come back."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from gateway_node import gateway, service_at
from in_process import Node, api_key_on
from scripted_service import DONE, STREAM_END, STREAM_HEAD, Asked, ScriptedService, chunk, completion, framed, http

from limiter_node.held import HeldBytes
from limiter_node.model import Amounts

CHAT = "/v1/chat/completions"
INPUT = 8
TEXT = "word " * 60_000
WHOLE = completion(None, choices=[{"index": 0, "message": {"role": "assistant", "content": TEXT}}])
EVENT = chunk(TEXT)
LONG = 200_000
"""Bytes of either that the service sends at first; the rest when it is told to."""


@asynccontextmanager
async def asked(node: Node, api_key: str, **fields: Any) -> AsyncIterator[asyncio.StreamReader]:
    """A connection on which a chat was asked for."""
    data = json.dumps({"model": "m", "messages": [{"role": "user", "content": "Hi"}], **fields}).encode()
    lines = (f"POST {CHAT} HTTP/1.1", "Host: x", f"Authorization: Bearer {api_key}", f"Content-Length: {len(data)}")
    reader, writer = await asyncio.open_connection("127.0.0.1", int(node.url.rpartition(":")[2]))
    try:
        writer.write("\r\n".join((*lines, "Connection: close", "", "")).encode() + data)
        yield reader
    finally:
        writer.transport.abort()


class Halting:
    """Sends `LONG` bytes of an answer, and the rest once `go_on` is set."""

    def __init__(self, *, stream: bool) -> None:
        self.go_on = asyncio.Event()
        self._begun = STREAM_HEAD + framed(EVENT[:LONG]) if stream else http(WHOLE)[:LONG]
        self._rest = framed(EVENT[LONG:] + chunk(None, "stop") + DONE) + STREAM_END if stream else http(WHOLE)[LONG:]

    async def __call__(self, _asked: Asked, writer: asyncio.StreamWriter) -> None:
        writer.write(self._begun)
        await self.go_on.wait()
        writer.write(self._rest)


async def until_held(budget: HeldBytes, least: int, most: int) -> None:
    async with asyncio.timeout(10):
        while not least <= budget.held <= most:
            await asyncio.sleep(0.002)


@pytest.mark.parametrize("stream", [False, True])
async def test_what_is_held_of_a_long_answer_counts(single_store: str, service: ScriptedService, stream: bool) -> None:
    service.script = halting = Halting(stream=stream)
    api_key, budget = api_key_on(single_store, output_reserve=100_000), HeldBytes(2_000_000)
    async with gateway(single_store, service_at(service.base_url), held=budget) as node, asyncio.timeout(20):
        async with asked(node, api_key, stream=stream) as reader:
            await until_held(budget, LONG - 1_000, LONG)
            halting.go_on.set()
            answer = await reader.read()
        assert (DONE in answer) if stream else answer.endswith(WHOLE)
        await until_held(budget, 0, 0)
        assert (await node.used(api_key)).output_tokens == pytest.approx(60_000, abs=10), "its text was read"


@pytest.mark.parametrize("stream", [False, True])
async def test_nothing_is_held_of_an_answer_whose_caller_has_left(
    single_store: str, service: ScriptedService, stream: bool
) -> None:
    service.script = Halting(stream=stream)
    api_key, budget = api_key_on(single_store), HeldBytes(2_000_000)
    async with gateway(single_store, service_at(service.base_url), held=budget, read_on_s=0.05) as node:
        async with asked(node, api_key, stream=stream):
            await until_held(budget, LONG - 1_000, LONG)
        await until_held(budget, 0, 0)


async def test_without_room_a_long_answer_passes_unread(single_store: str, service: ScriptedService) -> None:
    service.script = halting = Halting(stream=False)
    halting.go_on.set()
    api_key, budget = api_key_on(single_store, output_reserve=70_000), HeldBytes(100_000)
    async with gateway(single_store, service_at(service.base_url), held=budget) as node, asyncio.timeout(20):
        async with asked(node, api_key) as reader:
            assert (await reader.read()).endswith(WHOLE)
        assert await node.used(api_key) == Amounts(1, INPUT, 70_000), "a token per four bytes, held to the cap"
        assert budget.held == 0


async def test_without_room_a_long_event_ends_its_stream(single_store: str, service: ScriptedService) -> None:
    service.script = Halting(stream=True)
    api_key, budget = api_key_on(single_store), HeldBytes(100_000)
    async with gateway(single_store, service_at(service.base_url), held=budget) as node, asyncio.timeout(20):
        async with asked(node, api_key, stream=True) as reader:
            assert b" 503 " in await reader.readline()
        assert budget.held == 0
