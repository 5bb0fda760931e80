"""Callers who leave leave nothing behind in memory, whatever their answer was at."""

from __future__ import annotations

import asyncio
import gc
from contextlib import suppress

import pytest
import uvloop
from aiohttp import web
from gateway_caller import Caller, body
from gateway_node import gateway, service_at
from in_process import api_key_on
from scripted_service import (
    DONE,
    STREAM_END,
    STREAM_HEAD,
    Asked,
    Script,
    chunk,
    completion,
    framed,
    http,
    running_service,
)

from limiter_node.http.streaming import _Stream
from limiter_node.upstream.gateway.passing.answer import PassingAnswer
from limiter_node.upstream.gateway.wire.exchange import Exchange

KEPT = (Exchange, PassingAnswer, _Stream, web.BaseRequest)


def begins(beginning: bytes) -> Script:
    async def script(asked: Asked, writer: asyncio.StreamWriter) -> None:
        writer.write(beginning)
        await asked.left.wait()

    return script


SCRIPTS = {
    "silent": begins(b""),
    "head": begins(STREAM_HEAD),
    "event": begins(STREAM_HEAD + framed(chunk("a"))),
    "many": begins(STREAM_HEAD + framed(chunk("a") * 5_000)),
    "stream": begins(STREAM_HEAD + framed(chunk("a") * 5_000 + DONE) + STREAM_END),
    "half": begins(http(completion(padding="x" * 500_000))[:-100]),
    "large": begins(http(completion(padding="x" * 3_000_000))),
}


async def leave(store: str, script: Script) -> None:
    api_key = api_key_on(store, rpm=10_000, input_tpm=10**6, output_tpm=10**6)
    async with running_service() as service, gateway(store, service_at(service.base_url), read_on_s=0.02) as node:
        service.script = script

        async def come_and_go() -> None:
            for is_stream in (False, True):
                async with Caller(node, api_key, body(stream=is_stream)) as caller:
                    with suppress(TimeoutError):
                        await asyncio.wait_for(caller.reader.read(100), 0.05)

        await come_and_go()
        gc.collect()
        gc.disable()
        try:
            await come_and_go()
            async with asyncio.timeout(5):
                while any(isinstance(each, KEPT) for each in gc.get_objects()):
                    await asyncio.sleep(0.01)
        finally:
            gc.enable()


@pytest.mark.parametrize("script", SCRIPTS.values(), ids=SCRIPTS)
def test_whoever_leaves_leaves_nothing_behind(
    single_store: str, script: Script, caplog: pytest.LogCaptureFixture
) -> None:
    """No cycle: without a search by the garbage collector. On uvloop, as a node; asyncio's errors hold its frames."""
    caplog.set_level("CRITICAL", "limiter_node")  # what is captured of the log holds the errors
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(leave(single_store, script))
