"""Callers who leave before their answer is complete pay for what the service reports or sends within ``--read-on``."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from gateway_caller import INPUT, Caller, body
from gateway_node import gateway, service_at
from in_process import api_key_on
from scripted_service import (
    DONE,
    STREAM_END,
    STREAM_HEAD,
    Asked,
    Script,
    ScriptedService,
    chunk,
    completion,
    framed,
    http,
    says,
    streams,
)

from limiter_node.limits import Amounts
from limiter_node.upstream.gateway.wire.dialing import Dialer

RESERVE = 256
WORDS = (chunk("Hello"), chunk(" there"))
FINISHED = chunk(None, "stop")
REASONED = {
    "prompt_tokens": 5,
    "completion_tokens": 200,
    "total_tokens": 205,
    "completion_tokens_details": {"reasoning_tokens": 190},
}


def stops_after(*parts: bytes, then: Callable[[Asked, asyncio.StreamWriter], Any] | None = None) -> Script:
    """A script that streams `parts`, and does `then` when its caller's caller has left."""

    async def script(asked: Asked, writer: asyncio.StreamWriter) -> None:
        writer.write(STREAM_HEAD + b"".join([framed(part) for part in parts]))
        if then is not None:
            await then(asked, writer)
        await asked.left.wait()

    return script


async def test_a_usage_that_comes_after_the_caller_has_left_is_charged(
    single_store: str, service: ScriptedService
) -> None:
    has_left = asyncio.Event()

    async def tells(_asked: Asked, writer: asyncio.StreamWriter) -> None:
        await has_left.wait()
        usage = {"prompt_tokens": 5, "completion_tokens": 90, "total_tokens": 95}
        writer.write(framed(chunk(usage=usage)) + framed(DONE) + STREAM_END)

    service.script = stops_after(*WORDS, FINISHED, then=tells)
    api_key = api_key_on(single_store, output_reserve=RESERVE)
    async with gateway(single_store, service_at(service.base_url), read_on_s=20) as node:
        async with Caller(node, api_key, body(stream=True)) as caller:
            await caller.until(b'"stop"')
            caller.leave()
            while node.routes._streams._under_way and not has_left.is_set():
                await asyncio.sleep(0.02)  # the node has noticed it by then, or will have soon
                has_left.set()
        assert await node.used(api_key) == Amounts(1, INPUT, 90)


async def test_what_comes_in_the_time_is_charged_where_no_usage_does(
    single_store: str, service: ScriptedService
) -> None:
    has_left = asyncio.Event()

    async def goes_on(_asked: Asked, writer: asyncio.StreamWriter) -> None:
        await has_left.wait()
        writer.write(framed(chunk(" and") + chunk(" on")))

    service.script = stops_after(*WORDS, then=goes_on)
    api_key = api_key_on(single_store, output_reserve=RESERVE)
    async with gateway(single_store, service_at(service.base_url), read_on_s=0.3) as node:
        async with Caller(node, api_key, body(stream=True)) as caller:
            await caller.until(b"there")
            caller.leave()
            has_left.set()
        assert await node.used(api_key) == Amounts(1, INPUT, 4)


async def test_of_a_model_that_reasons_unseen_the_reservation_stands(
    single_store: str, service: ScriptedService
) -> None:
    """Once it has told that it does; before, there is nothing to know it by."""
    api_key = api_key_on(single_store, output_reserve=RESERVE)
    async with gateway(single_store, service_at(service.base_url), read_on_s=0.05) as node:
        for known, charged in ((False, 2), (True, RESERVE)):
            if known:
                service.script = streams(*WORDS, FINISHED, chunk(usage=REASONED), DONE)
                async with Caller(node, api_key, body(stream=True)) as caller:
                    await caller.until(b"[DONE]")
            before = (await node.used(api_key)).output_tokens
            service.script = stops_after(*WORDS)
            async with Caller(node, api_key, body(stream=True)) as caller:
                await caller.until(b"there")
            assert (await node.used(api_key)).output_tokens - before == charged
        # Before its first event, too: it may have reasoned until then.
        service.script = stops_after()
        before = (await node.used(api_key)).output_tokens
        async with Caller(node, api_key, body(stream=True)):
            while len(service.asked) < 4:
                await asyncio.sleep(0.002)
        assert (await node.used(api_key)).output_tokens - before == RESERVE


@pytest.mark.parametrize(("comes", "charged"), [(True, 3), (False, RESERVE)])
async def test_an_answer_that_comes_whole_is_waited_for(
    single_store: str, service: ScriptedService, comes: bool, charged: int
) -> None:
    has_left = asyncio.Event()

    async def late(asked: Asked, writer: asyncio.StreamWriter) -> None:
        await has_left.wait()
        await asyncio.sleep(0.05)
        if comes:
            writer.write(http(completion()))
        await asked.left.wait()

    service.script = late
    api_key = api_key_on(single_store, output_reserve=RESERVE)
    async with gateway(single_store, service_at(service.base_url), read_on_s=5 if comes else 0.1) as node:
        async with Caller(node, api_key, body()) as caller:
            while not service.asked:
                await asyncio.sleep(0.002)
            caller.leave()
            has_left.set()
        assert await node.used(api_key) == Amounts(1, INPUT, charged)


async def test_a_long_answer_that_nobody_reads_to_its_end_is_read_on(
    single_store: str, service: ScriptedService
) -> None:
    answered = completion(padding="x" * 3_000_000, usage={"prompt_tokens": 5, "completion_tokens": 77})
    service.script = says(http(answered))
    api_key = api_key_on(single_store, output_reserve=RESERVE)
    async with gateway(single_store, service_at(service.base_url), read_on_s=10) as node:
        async with Caller(node, api_key, body()) as caller:
            await caller.until(b"\r\n\r\n")
        assert await node.used(api_key) == Amounts(1, INPUT, 77)


async def test_nothing_is_charged_that_was_never_sent(
    single_store: str, service: ScriptedService, monkeypatch: pytest.MonkeyPatch
) -> None:
    is_dialing = asyncio.Event()

    async def dial(*_: Any) -> Any:
        is_dialing.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(Dialer, "dial", dial)
    api_key = api_key_on(single_store, output_reserve=RESERVE)
    async with gateway(single_store, service_at(service.base_url), read_on_s=60) as node:
        async with Caller(node, api_key, body()):
            await is_dialing.wait()
        assert await node.used(api_key) == Amounts(1, 0, 0)
        assert not service.asked


@pytest.mark.parametrize("stream", [False, True])
async def test_leaving_at_any_point_is_not_cheaper_than_staying(
    single_store: str, service: ScriptedService, stream: bool
) -> None:
    """The service does all of its work whether or not anybody waits for it, within the time that is read on for."""
    usage = {"prompt_tokens": 5, "completion_tokens": 30, "total_tokens": 35}
    events = [*(chunk(f" w{number}") for number in range(20)), FINISHED, chunk(usage=usage), DONE]
    answered = [http(completion(usage, padding="x" * 90_000))[at : at + 4_096] for at in range(0, 98_304, 4_096)]

    async def script(_asked: Asked, writer: asyncio.StreamWriter) -> None:
        if stream:
            writer.write(STREAM_HEAD)
        for part in events if stream else answered:
            writer.write(framed(part) if stream else part)
            await writer.drain()
            await asyncio.sleep(0.001)
        if stream:
            writer.write(STREAM_END)

    service.script = script
    api_key = api_key_on(single_store, output_reserve=RESERVE)
    async with gateway(single_store, service_at(service.base_url), read_on_s=10) as node:
        charged = 0
        for point in range(0, 24, 2):
            async with Caller(node, api_key, body(stream=stream)):
                while len(service.asked) <= point // 2:
                    await asyncio.sleep(0)
                await asyncio.sleep(point / 1_000)
            used = (await node.used(api_key)).output_tokens
            assert used - charged >= 30, point
            charged = used
