"""What the real server behind the gateway does when it is asked directly; the gateway's tests build on this."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any
from urllib.parse import urlsplit

import pytest
import pytest_asyncio
from aiohttp import ClientResponse, ClientSession, ClientTimeout, TCPConnector
from real_server import END_TOKEN, SLOTS, RealServer, chat_prompt_tokens

CONTENT = "hello, wörld"
MESSAGES = [{"role": "user", "content": CONTENT}]


@pytest_asyncio.fixture
async def session() -> AsyncIterator[ClientSession]:
    """A client that never uses a connection twice, because of what `test_hangs_up_after_a_stream` tells."""
    async with ClientSession(timeout=ClientTimeout(total=30), connector=TCPConnector(force_close=True)) as session:
        yield session


async def answer(session: ClientSession, url: str, **body: object) -> dict[str, Any]:
    async with session.post(url, json=body) as response:
        assert response.status == 200, await response.text()
        return await response.json()


async def data(response: ClientResponse) -> AsyncIterator[str]:
    """What the events of a stream say, one by one."""
    assert response.status == 200, await response.text()
    assert response.content_type == "text/event-stream"
    async for line in response.content:
        if line.strip():
            name, _, value = line.decode().strip().partition(": ")
            assert name == "data", line
            yield value


async def chunks(session: ClientSession, url: str, **body: object) -> list[dict[str, Any]]:
    """The chunks of a stream that ended as it should."""
    async with session.post(url, json=body | {"stream": True}) as response:
        said = [value async for value in data(response)]
    assert said.pop() == "[DONE]"
    return [json.loads(value) for value in said]


def counts(usage: dict[str, Any]) -> tuple[int, int]:
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
    return usage["prompt_tokens"], usage["completion_tokens"]


async def test_names_its_model(session: ClientSession, real_server: RealServer) -> None:
    async with session.get(f"{real_server.url}/models") as response:
        assert response.status == 200
        models = await response.json()
    assert [(model["id"], model["object"]) for model in models["data"]] == [(real_server.model, "model")]


@pytest.mark.parametrize("limit", ["max_tokens", "max_completion_tokens"])
async def test_a_chat_completion_is_as_long_as_allowed(
    session: ClientSession, real_server: RealServer, limit: str
) -> None:
    url, body = f"{real_server.url}/chat/completions", {"model": real_server.model, "messages": MESSAGES, limit: 7}
    completion = await answer(session, url, **body)
    assert (completion["object"], completion["model"]) == ("chat.completion", real_server.model)
    (choice,) = completion["choices"]
    assert choice["message"]["role"] == "assistant"
    assert choice["message"]["content"].isalpha()
    assert len(choice["message"]["content"]) == 7
    assert choice["finish_reason"] == "length"
    assert counts(completion["usage"]) == (chat_prompt_tokens(CONTENT), 7)

    completion = await answer(session, url, **body, logit_bias={END_TOKEN: 100})
    (choice,) = completion["choices"]
    assert (choice["message"]["content"], choice["finish_reason"]) == ("", "stop")
    assert counts(completion["usage"]) == (chat_prompt_tokens(CONTENT), 1)


async def test_usage_is_of_one_choice(session: ClientSession, real_server: RealServer) -> None:
    completion = await answer(session, f"{real_server.url}/chat/completions", messages=MESSAGES, max_tokens=7, n=2)
    assert [len(choice["message"]["content"]) for choice in completion["choices"]] == [7, 7]
    assert counts(completion["usage"]) == (chat_prompt_tokens(CONTENT), 7)


async def test_a_chat_stream_says_its_usage_when_asked(session: ClientSession, real_server: RealServer) -> None:
    url, body = f"{real_server.url}/chat/completions", {"messages": MESSAGES, "max_tokens": 5}
    *said, last = await chunks(session, url, **body, stream_options={"include_usage": True})
    assert said[0]["choices"][0]["delta"]["role"] == "assistant"
    assert all(chunk["object"] == "chat.completion.chunk" and "usage" not in chunk for chunk in said)
    letters = [text for chunk in said for choice in chunk["choices"] if (text := choice["delta"].get("content"))]
    assert [len(text) for text in letters] == [1] * 5
    assert [choice["finish_reason"] for chunk in said for choice in chunk["choices"]] == [None] * 6 + ["length"]
    assert last["choices"] == []
    assert counts(last["usage"]) == (chat_prompt_tokens(CONTENT), 5)

    said = await chunks(session, url, **body)
    assert len(said) == 7
    assert all(len(chunk["choices"]) == 1 and "usage" not in chunk for chunk in said)


async def test_a_completion_says_its_usage_unasked(session: ClientSession, real_server: RealServer) -> None:
    url, body = f"{real_server.url}/completions", {"model": real_server.model, "prompt": "hello", "max_tokens": 4}
    completion = await answer(session, url, **body)
    assert completion["object"] == "text_completion"
    (choice,) = completion["choices"]
    assert (len(choice["text"]), choice["finish_reason"]) == (4, "length")
    assert counts(completion["usage"]) == (1 + len("hello"), 4)

    # The last chunk has both a choice and the usage.
    *said, last = await chunks(session, url, **body)
    assert ["usage" in chunk for chunk in said] == [False] * 4
    assert (last["choices"][0]["text"], last["choices"][0]["finish_reason"]) == ("", "length")
    assert counts(last["usage"]) == (1 + len("hello"), 4)


async def test_embeddings(session: ClientSession, real_server: RealServer) -> None:
    embeddings = await answer(session, f"{real_server.url}/embeddings", model=real_server.model, input=["hello", "you"])
    assert [(item["index"], len(item["embedding"])) for item in embeddings["data"]] == [(0, 64), (1, 64)]
    assert embeddings["usage"] == {"prompt_tokens": 6 + 4, "total_tokens": 6 + 4}


async def test_errors(session: ClientSession, real_server: RealServer) -> None:
    url = f"{real_server.url}/chat/completions"
    for body, kind in (
        ({}, "invalid_request_error"),
        ({"messages": MESSAGES, "max_tokens": "many"}, "invalid_request_error"),
        ({"messages": [{"role": "user", "content": "a" * 20_000}]}, "exceed_context_size_error"),
    ):
        async with session.post(url, json=body) as response:
            assert response.status == 400
            error = (await response.json())["error"]
            assert (error["code"], error["type"]) == (400, kind)
            assert error["message"]


async def test_hangs_up_after_a_stream(real_server: RealServer) -> None:
    """It closes the connection and has not said so: a client that keeps connections finds this one dead."""
    body = json.dumps({"messages": MESSAGES, "max_tokens": 2, "stream": True}).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
    address = urlsplit(real_server.url)
    async with asyncio.timeout(4):  # Connections without a stream before are kept for 5 s.
        reader, writer = await asyncio.open_connection(address.hostname, address.port)
        writer.write(head.encode() + body)
        headers, _, events = (await reader.read(-1)).partition(b"\r\n\r\n")
        writer.close()
        await writer.wait_closed()
    assert b"keep-alive: timeout=5" in headers.lower()
    assert b"connection: close" not in headers.lower()
    assert events.endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n")


async def test_stops_when_the_reader_of_a_stream_leaves(session: ClientSession, real_server: RealServer) -> None:
    async def busy() -> int:
        async with session.get(f"{real_server.root}/slots") as response:
            slots = await response.json()
        assert len(slots) == SLOTS
        return sum(slot["is_processing"] for slot in slots)

    async def written() -> int:
        async with session.get(f"{real_server.root}/metrics") as response:
            lines = (await response.text()).splitlines()
        (value,) = [line.split()[1] for line in lines if line.startswith("llamacpp:tokens_predicted_total ")]
        return int(value)

    async def idle() -> None:
        async with asyncio.timeout(20):
            while await busy():
                await asyncio.sleep(0.01)

    await idle()  # Whoever asked before may have left an answer being written.
    before, wanted = await written(), 15_000
    body = {"messages": MESSAGES, "max_tokens": wanted, "stream": True}
    response = await session.post(f"{real_server.url}/chat/completions", json=body)
    async with aclosing(data(response)) as said:
        await anext(said)
    assert await busy() == 1
    response.close()
    await idle()
    assert await written() - before < wanted
