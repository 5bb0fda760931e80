"""An answer's way through the gateway, piece by piece: how much is done at once, and what is left when it has ended."""

from __future__ import annotations

import asyncio
import gc
import io
import json
import logging
from contextlib import suppress

import pytest
from aiohttp import ClientError
from gateway_caller import CHAT, body, post
from gateway_node import KEY, gateway, service_at
from in_process import api_key_on
from raw_server import RawServer
from scripted_service import (
    DONE,
    STREAM_END,
    STREAM_HEAD,
    Asked,
    ScriptedService,
    answers_chat,
    chunk,
    completion,
    framed,
    http,
    says,
)

from limiter_node.held import HeldBytes, Hold
from limiter_node.http.client_gone import CancelWhenClientGone
from limiter_node.limits import Amounts
from limiter_node.upstream.errors import UpstreamError
from limiter_node.upstream.gateway.cost.chunk_account import ChunkAccount
from limiter_node.upstream.gateway.passing.event_reader import EventReader
from limiter_node.upstream.gateway.passing.stream import PassingStream
from limiter_node.upstream.gateway.wire.exchange import HELD_BYTES, Exchange
from limiter_node.upstream.gateway.wire.request_writing import send_request


class Carrier:
    was_used = is_paused = is_closed = False

    def pause(self) -> None:
        self.is_paused = True

    def resume(self) -> None:
        self.is_paused = False

    def abort(self) -> None:
        self.is_closed = True

    def end_within(self, seconds: float) -> None: ...


class Taken:
    """What a caller has got."""

    def __init__(self) -> None:
        self.parts: list[bytes] = []
        self.is_last = self.is_full = False
        self._room = asyncio.Event()

    def write(self, data: bytes, *, is_last: bool = False) -> bool:
        assert not self.is_last
        self.parts.append(data)
        self.is_last = is_last
        return True

    async def drained(self) -> None:
        await self._room.wait()

    def drain(self) -> None:
        self.is_full = False
        self._room.set()


def passing(exchange: Exchange) -> PassingStream:
    account = ChunkAccount("o200k_base", hides_usage=False, choices=1)
    return PassingStream(
        exchange, account, "", "s", lambda *_: None, Hold(HeldBytes(1)), lambda _: False, lambda *_: UpstreamError("")
    )


async def begun() -> tuple[Carrier, Exchange, PassingStream, Taken, asyncio.Task[None]]:
    """A stream of which the first event has been delivered."""
    carrier, taken = Carrier(), Taken()
    exchange = Exchange(carrier)
    exchange.on_head(200, [])
    exchange.on_body(chunk("first"))
    stream = passing(exchange)
    await stream.begin()
    delivering = asyncio.create_task(stream.deliver(taken))
    await asyncio.sleep(0)
    taken.parts.clear()
    return carrier, exchange, stream, taken, delivering


async def test_a_connection_is_read_to_its_end_though_the_last_event_filled_the_buffer() -> None:
    """Else it would be kept for ever: one that isn't read has no deadline."""
    carrier, exchange, stream, taken, delivering = await begun()
    taken.is_full = True
    exchange.on_body(chunk("x") + DONE)
    assert not carrier.is_paused
    await delivering
    await stream.close()
    assert not carrier.is_paused


async def test_an_end_that_can_not_be_looked_at_is_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(_: object) -> bytes:
        raise RecursionError

    monkeypatch.setattr(EventReader, "rest", fails)
    _, exchange, _, _, delivering = await begun()
    exchange.on_end()
    with pytest.raises(UpstreamError, match="could not be read"):
        await asyncio.wait_for(delivering, 5)


async def test_whoever_cancels_a_request_while_its_answer_comes_is_heard() -> None:
    """The answer to a long body has come, and what is still written of it is being stopped."""
    carrier = Carrier()
    exchange = Exchange(carrier)
    is_writing = asyncio.Event()

    class Connection:
        is_open = True

        def write(self, _data: bytes) -> None:
            pass

        def carries(self, _exchange: Exchange) -> bool:
            return True

        async def drained(self) -> None:
            is_writing.set()
            try:
                await asyncio.Event().wait()
            finally:
                asking.cancel()

    asking = asyncio.create_task(send_request(Connection(), exchange, b"", b"x" * 100_000))  # type: ignore[arg-type]
    await is_writing.wait()
    exchange.on_head(413, [])
    with pytest.raises(asyncio.CancelledError):
        await asking


async def test_an_answer_may_be_looked_at_beyond_what_is_held_of_others() -> None:
    carrier = Carrier()
    exchange = Exchange(carrier)
    exchange.on_head(200, [])
    exchange.on_body(b"x" * HELD_BYTES)
    assert carrier.is_paused
    reading = asyncio.create_task(exchange.read(3 * HELD_BYTES))
    await asyncio.sleep(0)
    for _ in range(2):
        assert not carrier.is_paused
        exchange.on_body(b"x" * HELD_BYTES)
    assert carrier.is_paused
    assert len(await reading) == 3 * HELD_BYTES


async def test_a_long_list_of_models_is_listed(single_store: str, service: ScriptedService) -> None:
    models = [f"vendor-{number}/model-with-a-name" for number in range(5_000)]
    listed = json.dumps({"object": "list", "data": [{"id": model, "object": "model"} for model in models]}).encode()

    async def lists(_asked: Asked, writer: asyncio.StreamWriter) -> None:
        answer = http(listed)
        for at in range(0, len(answer), 20_000):
            writer.write(answer[at : at + 20_000])
            await writer.drain()

    service.script = lists
    headers = {"Authorization": f"Bearer {api_key_on(single_store)}"}
    async with (
        gateway(single_store, service_at(service.base_url)) as node,
        node.session.get(f"{node.url}/v1/models", headers=headers) as response,
    ):
        assert [model["id"] for model in (await response.json())["data"]] == models


@pytest.mark.parametrize(
    "begins",
    [b"HTTP/1.1 200 OK\r\nContent-", b"HTTP/1.1 103 Early Hints\r\n\r\n", b"garbage\r\n\r\n"],
)
async def test_a_request_of_which_an_answer_has_begun_is_not_sent_again(
    single_store: str, service: ScriptedService, begins: bytes
) -> None:
    """On a connection that was kept: one that was closed when it was used says nothing."""

    async def dies_over_the_second(asked: Asked, writer: asyncio.StreamWriter) -> None:
        if len(service.asked) > 1:
            writer.write(begins)
            writer.close()
            return
        await answers_chat(asked, writer)

    service.script = dies_over_the_second
    api_key = api_key_on(single_store)
    async with gateway(single_store, service_at(service.base_url)) as node:
        assert [(await post(node, api_key, body()))[0] for _ in range(2)] == [200, 502]
    assert len(service.asked) == 2


async def test_two_lines_of_codings_are_one_list(single_store: str, service: ScriptedService) -> None:
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n"
    service.script = says(head + framed(completion()) + STREAM_END)
    api_key = api_key_on(single_store)
    async with gateway(single_store, service_at(service.base_url)) as node:
        assert (await post(node, api_key, body()))[0] == 502


def chunked(*parts: bytes, end: bytes = b"") -> bytes:
    return STREAM_HEAD + b"".join(framed(part) for part in parts) + end


async def test_failures_leave_nothing_behind(
    single_store: str, service: ScriptedService, caplog: pytest.LogCaptureFixture
) -> None:
    """No cycle: what an answer held is free when it has failed, without a search by the garbage collector."""
    caplog.set_level(logging.CRITICAL, "limiter_node")  # what is captured of the log holds the errors
    failing: list[tuple[bool, bytes]] = [
        (False, b""),
        (False, b"HTTP/1.1 200"),
        (False, b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{"),
        (False, http(b"{}", 500)),
        (False, http(b"{}", 429)),
        (False, http(b'{"error": {"message": "no", "code": 400}}')),
        (False, http(completion(padding="x" * 200_000))[:-10]),
        (True, chunked(b'data: {"error": {"message": "no", "code": 400}}\n\n', end=STREAM_END)),
        (True, chunked()),
        (True, chunked(chunk("a"))),
        (True, chunked(chunk("a"), end=STREAM_END)),
        (True, chunked(chunk("a"), b'data: {"error": {"message": "no"}}\n\n', end=STREAM_END)),
    ]

    async def ask_all() -> None:
        for is_stream, answer in failing:
            service.script = says(answer, then_close=True)
            with suppress(ClientError):
                await post(node, api_key, body(stream=is_stream))

    api_key = api_key_on(single_store)
    async with gateway(single_store, service_at(service.base_url)) as node:
        await ask_all()
        gc.collect()
        gc.disable()
        try:
            await ask_all()
            async with asyncio.timeout(5):
                while left := [one for one in gc.get_objects() if isinstance(one, Exchange)]:
                    await asyncio.sleep(0.01)
        except TimeoutError:
            raise AssertionError([(each.status, each.failure) for each in left]) from None
        finally:
            gc.enable()


@pytest.mark.parametrize("pieces", [[b" "] * 2_000, [b"\n", b"\r\n \t"] * 100])
async def test_blanks_behind_a_whole_answer_are_not_waited_for(
    single_store: str, service: ScriptedService, pieces: list[bytes]
) -> None:
    answered = completion()

    async def goes_on(asked: Asked, writer: asyncio.StreamWriter) -> None:
        writer.write(STREAM_HEAD.replace(b"text/event-stream", b"application/json") + framed(b" ") + framed(answered))
        for each in pieces:
            if asked.left.is_set():
                return
            writer.write(framed(each))
            await writer.drain()
            await asyncio.sleep(0.002)
        await asked.left.wait()

    service.script = goes_on
    api_key = api_key_on(single_store)
    async with gateway(single_store, service_at(service.base_url)) as node:
        async with asyncio.timeout(10):
            status, _, got = await post(node, api_key, body())
            assert (status, got.strip()) == (200, answered)
            await service.asked[0].left.wait()  # the service notices soon that nobody listens any more
        assert (await node.used(api_key)).output_tokens == 3


async def test_blanks_before_an_answer_are_waited_for(single_store: str, service: ScriptedService) -> None:
    """Some services send them while they work."""

    async def works(_asked: Asked, writer: asyncio.StreamWriter) -> None:
        writer.write(STREAM_HEAD.replace(b"text/event-stream", b"application/json"))
        for each in (b" ", b"\n", b'{"a":{}', b"\n", b',"choices":', b" "):
            writer.write(framed(each))
            await writer.drain()
            await asyncio.sleep(0.01)
        writer.write(framed(b'[{"message":{"content":"Hi"}}]}') + STREAM_END)

    service.script = works
    api_key = api_key_on(single_store)
    async with gateway(single_store, service_at(service.base_url)) as node:
        status, _, got = await post(node, api_key, body())
        assert (status, json.loads(got)["choices"]) == (200, [{"message": {"content": "Hi"}}])


async def test_an_error_without_an_end_is_an_error(
    single_store: str, service: ScriptedService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("limiter_node.upstream.gateway.service_errors.error_response._ERROR_S", 0.1)

    async def goes_on(asked: Asked, writer: asyncio.StreamWriter) -> None:
        writer.write(STREAM_HEAD.replace(b"200 OK", b"429 Too Many"))
        while not asked.left.is_set():
            writer.write(framed(b" "))
            await asyncio.sleep(0.01)

    service.script = goes_on
    api_key = api_key_on(single_store)
    async with gateway(single_store, service_at(service.base_url)) as node, asyncio.timeout(10):
        assert (await post(node, api_key, body()))[0] == 429
        assert await node.used(api_key) == Amounts(1, 0, 0)


@pytest.mark.parametrize("waits_s", [0.2, 0.0])
async def test_an_answer_is_read_on_for_once(
    single_store: str, service: ScriptedService, monkeypatch: pytest.MonkeyPatch, waits_s: float
) -> None:
    """The time that passed before it began counts."""
    has_left, read_on_s = asyncio.Event(), 5.0
    given: list[float] = []

    class Noticing(CancelWhenClientGone):
        def _left(self) -> None:
            super()._left()
            has_left.set()

    async def begins_late(asked: Asked, writer: asyncio.StreamWriter) -> None:
        await has_left.wait()
        await asyncio.sleep(waits_s)
        writer.write(STREAM_HEAD + framed(chunk("a")))
        await asked.left.wait()

    async def read_on(_: object, seconds: float) -> None:
        given.append(seconds)

    monkeypatch.setattr("limiter_node.http.limited_requests.CancelWhenClientGone", Noticing)
    monkeypatch.setattr(PassingStream, "read_on", read_on)
    service.script = begins_late
    api_key = api_key_on(single_store)
    async with gateway(single_store, service_at(service.base_url), read_on_s=read_on_s) as node:
        posting = asyncio.create_task(post(node, api_key, body(stream=True)))
        async with asyncio.timeout(10):
            while not service.asked:
                await asyncio.sleep(0.002)
            posting.cancel()
            while not given:
                await asyncio.sleep(0.002)
    assert given[0] < read_on_s - waits_s


@pytest.mark.parametrize("packing", [KEY, "x" * 70_000], ids=["key", "long"])
async def test_the_name_of_a_packing_passes_only_if_it_may_be_one(
    single_store: str, service: ScriptedService, packing: str
) -> None:
    service.script = says(http(b"packed", content_encoding=packing))
    headers = {"Authorization": f"Bearer {api_key_on(single_store)}"}
    async with (
        gateway(single_store, service_at(service.base_url)) as node,
        node.session.post(node.url + CHAT, data=body(), headers=headers) as response,
    ):
        assert response.status == 200
        assert "content-encoding" not in response.headers
        assert await response.read() == b"packed"


async def test_a_service_that_begins_to_answer_is_still_sent_the_rest(single_store: str) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while head := (await reader.readuntil(b"\r\n\r\n")).lower():
            writer.write(STREAM_HEAD)  # before it has read anything of the body
            await writer.drain()
            await asyncio.sleep(0.05)
            came = await reader.readexactly(int(head.partition(b"content-length: ")[2].partition(b"\r\n")[0]))
            writer.write(framed(chunk(f"{len(came)} bytes", "stop") + DONE) + STREAM_END)

    headers = {"Authorization": f"Bearer {api_key_on(single_store)}"}
    asked = body(user="x" * 8_000_000, stream=True)
    async with (
        RawServer(serve) as server,
        gateway(single_store, service_at(f"{server.url}/v1"), max_body_bytes=16_000_000) as node,
        asyncio.timeout(20),
    ):
        for _ in range(2):
            async with node.session.post(node.url + CHAT, data=io.BytesIO(asked), headers=headers) as response:
                assert response.status == 200
                assert b" bytes" in await response.read()
