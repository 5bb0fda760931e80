"""The gateway in front of a real server of the OpenAI API (llama.cpp's), used through the official SDK."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import openai
import pytest
from gateway_node import gateway
from in_process import Node, api_key_on
from openai import AsyncOpenAI
from real_server import RealServer
from yarl import URL

from limiter_node.upstream.gateway.service import Service

MESSAGES: Any = [{"role": "user", "content": "hello"}]
INPUT = 8
RESERVE = 40


@pytest.fixture
async def node(single_store: str, real_server: RealServer) -> AsyncIterator[Node]:
    service = Service(name="llama", urls=(URL(real_server.url),), rename=(("fast", real_server.model),))
    async with gateway(single_store, service) as node:
        yield node


@pytest.fixture
def api_key(single_store: str) -> str:
    return api_key_on(single_store, output_reserve=RESERVE)


@pytest.fixture
async def client(node: Node, api_key: str) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(base_url=f"{node.url}/v1", api_key=api_key, max_retries=0, timeout=20) as client:
        yield client


async def test_chats(node: Node, client: AsyncOpenAI, api_key: str) -> None:
    answer = await client.chat.completions.create(model="fast", messages=MESSAGES, max_tokens=7)
    assert answer.model == "tiny"
    assert len(answer.choices[0].message.content or "") == 7
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 7
    capped = await client.chat.completions.create(model="fast", messages=MESSAGES)
    assert len(capped.choices[0].message.content or "") == RESERVE
    assert capped.choices[0].finish_reason == "length"
    newer = await client.chat.completions.create(model="fast", messages=MESSAGES, max_completion_tokens=5)
    assert len(newer.choices[0].message.content or "") == 5
    assert (await node.used(api_key)).output_tokens == 7 + RESERVE + 5


async def test_streams(node: Node, client: AsyncOpenAI, api_key: str) -> None:
    """Time and again on a server that closes its connection after each of them without saying so."""
    for number in range(6):
        asked: dict[str, Any] = {"stream_options": {"include_usage": True}} if number % 2 else {}
        stream = await client.chat.completions.create(
            model="tiny", messages=MESSAGES, max_tokens=9, stream=True, **asked
        )
        chunks = [chunk async for chunk in stream]
        text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
        assert len(text) == 9
        told = [chunk.usage.completion_tokens for chunk in chunks if chunk.usage is not None]
        assert told == ([9] if asked else [])
    requests, input_tokens, output_tokens = await node.used(api_key)
    assert (requests, output_tokens) == (6, 6 * 9)
    assert input_tokens > 6 * INPUT, "a character is a token there: what it tells beyond our count is charged"


async def test_several_choices_are_charged_though_the_server_tells_of_one(
    node: Node, client: AsyncOpenAI, api_key: str
) -> None:
    answer = await client.chat.completions.create(model="tiny", messages=MESSAGES, max_tokens=30, n=2)
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 30, "the server has learned to add: this test can ask for more"
    charged = (await node.used(api_key)).output_tokens
    assert 30 < charged <= 60


async def test_the_other_routes(node: Node, client: AsyncOpenAI, api_key: str) -> None:
    text = await client.completions.create(model="tiny", prompt="hello", max_tokens=4)
    assert len(text.choices[0].text) == 4
    response = await client.responses.create(model="tiny", input="hello", max_output_tokens=6)
    assert len(response.output_text) == 6
    events = [
        event.type
        async for event in await client.responses.create(model="tiny", input="hello", max_output_tokens=3, stream=True)
    ]
    assert events[-1] == "response.completed"
    vectors = await client.embeddings.create(model="tiny", input=["a", "b"], encoding_format="float")
    assert len(vectors.data) == 2
    assert (await node.used(api_key)).output_tokens == 4 + 6 + 3
    assert [model.id async for model in client.models.list()] == ["fast", "tiny"]


async def test_its_errors_pass(node: Node, client: AsyncOpenAI, api_key: str) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        await client.completions.create(model="tiny", prompt="x", extra_body={"grammar": "root ::= ("})
    assert "grammar" in str(caught.value)
    assert caught.value.response.headers["x-limiter-upstream-status"] == "400"
    assert await node.used(api_key) == (1, 0, 0)


async def test_a_client_that_leaves_frees_the_server(node: Node, client: AsyncOpenAI, real_server: RealServer) -> None:
    stream = await client.chat.completions.create(model="tiny", messages=MESSAGES, max_tokens=15_000, stream=True)
    async for _ in stream:
        break
    await stream.close()
    async with asyncio.timeout(10):
        while True:
            async with node.session.get(f"{real_server.root}/slots") as response:
                if not any(slot["is_processing"] for slot in await response.json()):
                    break
            await asyncio.sleep(0.01)
