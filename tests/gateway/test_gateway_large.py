"""Large bodies on their way through a node: what the service gets, what a node holds, who waits."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import signal
from io import BytesIO
from typing import Any

import orjson
import pytest
from gateway_node import gateway, service_at
from in_process import Node, api_key_on
from scripted_service import Asked, ScriptedService, completion, http

from limiter_node.limits import Amounts

MIB = 1_048_576
PATH = "/v1/chat/completions"
PHOTO = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 2 * MIB}}


def chat(content: Any, **fields: Any) -> bytes:
    return json.dumps({"model": "m", "messages": [{"role": "user", "content": content}], **fields}).encode()


def post(node: Node, api_key: str, body: bytes) -> Any:
    return node.session.post(node.url + PATH, data=BytesIO(body), headers={"Authorization": f"Bearer {api_key}"})


async def test_a_photo_passes_as_it_came(single_store: str, service: ScriptedService) -> None:
    api_key = api_key_on(single_store, output_reserve=77)
    text = {"type": "text", "text": "What is this?"}
    async with gateway(single_store, service_at(service.base_url), max_body_bytes=20 * MIB) as node:
        for body, added in ((chat([text, PHOTO], max_tokens=5), {}), (chat([text, PHOTO]), {"max_tokens": 77})):
            async with post(node, api_key, body) as response:
                assert response.status == 200
            end = b"," + orjson.dumps(added)[1:] if added else b"}"
            assert service.asked.pop().body == body[:-1] + end
        used = await node.used(api_key)
    assert used == Amounts(2, 2 * (765 + 11), 2 * 3)


async def test_a_large_body_that_may_be_read_in_two_ways_is_written_anew(
    single_store: str, service: ScriptedService
) -> None:
    api_key = api_key_on(single_store)
    body = b'{"max_tokens":9000,' + chat([PHOTO], max_tokens=5, stop=None)[1:]
    async with (
        gateway(single_store, service_at(service.base_url), max_body_bytes=20 * MIB) as node,
        post(node, api_key, body) as response,
    ):
        assert response.status == 200
    assert service.asked[0].fields == json.loads(body)


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({"n": 0}, "n", "integer_below_min_value"),
        ({"models": ["x"]}, "models", "unsupported_parameter"),
        ({"x": [[]] * 1_000_000}, None, "too_many_values"),
    ],
)
async def test_a_large_body_is_refused_as_a_small_one(
    single_store: str, service: ScriptedService, fields: dict[str, Any], param: str | None, code: str
) -> None:
    api_key = api_key_on(single_store)
    async with gateway(single_store, service_at(service.base_url), max_body_bytes=20 * MIB) as node:
        async with post(node, api_key, chat([PHOTO], **fields)) as response:
            error = (await response.json())["error"]
        assert (response.status, error["param"], error["code"]) == (400, param, code)
        assert await node.used(api_key) == Amounts(0, 0, 0)
    assert not service.asked


async def test_a_client_that_leaves_while_its_body_is_read_is_not_admitted(
    single_store: str, service: ScriptedService
) -> None:
    api_key = api_key_on(single_store)
    async with gateway(single_store, service_at(service.base_url), max_body_bytes=20 * MIB) as node:
        worker = node.reader.worker
        async with post(node, api_key, chat("a" * 100_000, max_tokens=5)) as response:
            assert response.status == 200
        assert worker._process is not None
        os.kill(worker._process.pid, signal.SIGSTOP)  # it takes its time
        posting = asyncio.create_task(post(node, api_key, chat("b" * 100_000, max_tokens=5)).__aenter__())
        while not worker._waiting_bytes:
            await asyncio.sleep(0.001)
        posting.cancel()
        while worker._waiting_bytes:
            await asyncio.sleep(0.001)
        os.kill(worker._process.pid, signal.SIGCONT)
        async with post(node, api_key, chat("c" * 100_000, max_tokens=5)) as response:
            assert response.status == 200
        assert (await node.used(api_key))[0] == 2
    assert len(service.asked) == 2


async def test_nobody_waits_for_the_reading_of_a_large_body(single_store: str, service: ScriptedService) -> None:
    """The process that reads it stands still; others are answered."""
    api_key = api_key_on(single_store)
    async with gateway(single_store, service_at(service.base_url), max_body_bytes=20 * MIB) as node:
        worker = node.reader.worker
        async with post(node, api_key, chat("a" * 100_000, max_tokens=5)) as response:
            assert response.status == 200
        assert worker._process is not None
        os.kill(worker._process.pid, signal.SIGSTOP)
        large = asyncio.create_task(post(node, api_key, chat([PHOTO], max_tokens=5)).__aenter__())
        while not worker._waiting_bytes:
            await asyncio.sleep(0.001)
        for _ in range(3):
            async with post(node, api_key, chat("Hi", max_tokens=5)) as response:
                assert response.status == 200
        assert not large.done()
        os.kill(worker._process.pid, signal.SIGCONT)
        response = await large
        assert response.status == 200
        response.release()


async def test_what_a_large_body_was_read_as_is_not_held(single_store: str, service: ScriptedService) -> None:
    """While the service thinks: the bytes to send, and nothing parsed."""
    asked, answer = asyncio.Event(), asyncio.Event()

    async def thinks(_: Asked, writer: asyncio.StreamWriter) -> None:
        asked.set()
        await answer.wait()
        writer.write(http(completion()))

    service.script = thinks
    api_key = api_key_on(single_store, input_tpm=10_000_000)
    async with gateway(single_store, service_at(service.base_url), max_body_bytes=20 * MIB) as node:
        posting = asyncio.create_task(post(node, api_key, chat("Hi", max_tokens=5, x=[[]] * 100_000)).__aenter__())
        await asyncio.wait_for(asked.wait(), 30)
        assert sum(type(each) is list and not each for each in gc.get_objects()) < 50_000
        answer.set()
        response = await posting
        assert response.status == 200
        response.release()
