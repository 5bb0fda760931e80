"""What a node holds of a request while the service thinks, and while its answer streams: not what it was read from."""

from __future__ import annotations

import asyncio
import gc
import json

import pytest
from gateway_node import gateway, service_at
from in_process import api_key_on, serving
from scripted_service import DONE, STREAM_HEAD, Asked, ScriptedService, chunk, completion, framed, http

from limiter_node.held import HeldBytes
from limiter_node.upstream.source import Completion

EMPTY = 2_000
BODY = json.dumps(
    {"model": "m", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 5, "x": [[]] * EMPTY}
).encode()


def empty_lists() -> int:
    gc.collect()
    return sum(type(each) is list and not each for each in gc.get_objects())


async def test_no_parsed_body_is_held_while_the_service_thinks(single_store: str, service: ScriptedService) -> None:
    asked, answer = asyncio.Event(), asyncio.Event()

    async def thinks(_: Asked, writer: asyncio.StreamWriter) -> None:
        asked.set()
        await answer.wait()
        writer.write(http(completion()))

    service.script = thinks
    headers = {"Authorization": f"Bearer {api_key_on(single_store)}"}
    async with gateway(single_store, service_at(service.base_url)) as node:
        before = empty_lists()
        posting = asyncio.create_task(node.session.post(f"{node.url}/v1/chat/completions", data=BODY, headers=headers))
        await asked.wait()
        held = empty_lists() - before
        answer.set()
        assert (await posting).status == 200
    assert held < EMPTY / 2


async def test_no_parsed_body_is_held_while_the_mock_thinks(single_store: str) -> None:
    headers = {"Authorization": f"Bearer {api_key_on(single_store)}"}
    held: list[int] = []

    async with serving(single_store) as node:
        before = empty_lists()

        async def thinks(_request: object, _cap: int) -> Completion:
            held.append(empty_lists() - before)
            return Completion(("Hello",), ("stop",), (1,), 1, "fp_test")

        node.upstream.answer = thinks
        async with node.session.post(f"{node.url}/v1/chat/completions", data=BODY, headers=headers) as response:
            assert response.status == 200
    assert held[0] < EMPTY / 2


async def test_what_is_sent_is_let_go_of_when_the_answer_begins(single_store: str, service: ScriptedService) -> None:
    done = asyncio.Event()

    async def streams(_: Asked, writer: asyncio.StreamWriter) -> None:
        writer.write(STREAM_HEAD + framed(chunk("one")))
        await done.wait()
        writer.write(framed(chunk(" two", finish="stop") + DONE) + b"0\r\n\r\n")

    service.script = streams
    headers = {"Authorization": f"Bearer {api_key_on(single_store)}"}
    body = json.dumps({**json.loads(BODY), "stream": True}).encode()
    async with (
        gateway(single_store, service_at(service.base_url)) as node,
        node.session.post(f"{node.url}/v1/chat/completions", data=body, headers=headers) as response,
    ):
        await response.content.readany()
        prepared = [each for each in gc.get_objects() if type(each).__name__ == "_PreparedRequest"]
        bodies = [each._body for each in prepared]
        async with node.session.get(f"{node.url}/metrics") as metrics:
            page = await metrics.text()
        done.set()
        await response.read()
    assert bodies == [None]
    assert "\nlimiter_held_bytes 0.0\n" in page


@pytest.mark.parametrize("room", [100_000, 10_000_000])
async def test_what_is_kept_of_a_whole_answer_counts_as_held(
    single_store: str, service: ScriptedService, room: int
) -> None:
    """Where there is no room for it, the answer passes all the same, and costs what its usage tells."""
    held, done = HeldBytes(room), asyncio.Event()
    usage = {"prompt_tokens": 5, "completion_tokens": 77, "total_tokens": 82}
    answered = http(completion(usage, padding="x" * 900_000))

    async def half(_: Asked, writer: asyncio.StreamWriter) -> None:
        writer.write(answered[:500_000])
        await done.wait()
        writer.write(answered[500_000:])

    service.script = half
    api_key = api_key_on(single_store)
    headers = {"Authorization": f"Bearer {api_key}"}
    async with gateway(single_store, service_at(service.base_url), held=held) as node:
        async with node.session.post(f"{node.url}/v1/chat/completions", data=BODY, headers=headers) as response:
            assert len(await response.content.readexactly(400_000)) == 400_000
            assert held.held == 0 if room < 400_000 else held.held >= 400_000
            done.set()
            assert len(await response.read()) > 400_000
        assert held.held == 0
        assert (await node.used(api_key)).output_tokens == 77


@pytest.mark.parametrize(("room", "leaves"), [(100_000, False), (10_000_000, False), (10_000_000, True)])
async def test_an_event_that_waits_for_its_end_counts_as_held(
    single_store: str, service: ScriptedService, room: int, leaves: bool
) -> None:
    """Where there is no room for it, its stream ends, and nobody blames the service."""
    held, done = HeldBytes(room), asyncio.Event()
    event = chunk("y" * 400_000, finish="stop")

    async def half(_: Asked, writer: asyncio.StreamWriter) -> None:
        writer.write(STREAM_HEAD + framed(chunk("one")) + framed(event[:300_000]))
        await done.wait()
        writer.write(framed(event[300_000:]) + framed(DONE) + b"0\r\n\r\n")

    service.script = half
    api_key = api_key_on(single_store, output_tpm=10**7)
    headers = {"Authorization": f"Bearer {api_key}"}
    body = json.dumps({**json.loads(BODY), "stream": True}).encode()
    async with gateway(single_store, service_at(service.base_url), held=held, read_on_s=0) as node:
        async with node.session.post(f"{node.url}/v1/chat/completions", data=body, headers=headers) as response:
            await response.content.readany()
            if room < 300_000:
                assert b'"error"' in await response.read()
            else:
                while held.held < 300_000:
                    await asyncio.sleep(0.002)
                if not leaves:
                    done.set()
                    assert len(await response.read()) > 400_000
        async with asyncio.timeout(10):
            while held.held:
                await asyncio.sleep(0.002)
        assert not node.routes._limiter.telemetry.upstreams["svc"].outcomes["broken"]
        done.set()


async def test_nothing_is_held_of_a_stream_whose_caller_left_before_its_first_event(
    single_store: str, service: ScriptedService
) -> None:
    held = HeldBytes(10_000_000)

    async def half(asked: Asked, writer: asyncio.StreamWriter) -> None:
        writer.write(STREAM_HEAD + framed(chunk("y" * 400_000)[:300_000]))
        await asked.left.wait()

    service.script = half
    headers = {"Authorization": f"Bearer {api_key_on(single_store)}"}
    body = json.dumps({**json.loads(BODY), "stream": True}).encode()
    async with gateway(single_store, service_at(service.base_url), held=held, read_on_s=0) as node, asyncio.timeout(10):
        asking = asyncio.create_task(node.session.post(f"{node.url}/v1/chat/completions", data=body, headers=headers))
        while not held.held:
            await asyncio.sleep(0.002)
        asking.cancel()
        while held.held:
            await asyncio.sleep(0.002)
