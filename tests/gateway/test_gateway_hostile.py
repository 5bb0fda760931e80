"""Services that send what nobody expects, as HTTP: each answer is bounded, and none holds up what others ask."""

from __future__ import annotations

import asyncio
import gc
import gzip
import json
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import trustme
from gateway_caller import INPUT, body, post, raw_request
from gateway_node import gateway, service_at
from in_process import Node, api_key_on
from raw_server import RawServer
from scripted_service import (
    DONE,
    STREAM_END,
    STREAM_HEAD,
    Asked,
    ScriptedService,
    chunk,
    completion,
    framed,
    http,
    says,
)

from limiter_node.held import HeldBytes, Hold
from limiter_node.limits import Amounts
from limiter_node.upstream.errors import UpstreamError
from limiter_node.upstream.gateway.cost.chunk_account import ChunkAccount
from limiter_node.upstream.gateway.passing.stream import PassingStream
from limiter_node.upstream.gateway.sending.timeouts import UpstreamTimeouts
from limiter_node.upstream.gateway.wire.exchange import Exchange
from limiter_node.upstream.gateway.wire.service_connection import MAX_HEAD_BYTES

RESERVE = 256
WORDS = (chunk("Hello"), chunk(None, "stop"))
HINT = b"HTTP/1.1 103 Early Hints\r\nLink: </style.css>; rel=preload\r\n\r\n"


@asynccontextmanager
async def asked_raw(node: Node, api_key: str, data: bytes) -> AsyncIterator[asyncio.StreamReader]:
    """A connection on which this was asked."""
    reader, writer = await asyncio.open_connection("127.0.0.1", int(node.url.rpartition(":")[2]))
    try:
        writer.write(raw_request(api_key, data))
        yield reader
    finally:
        writer.transport.abort()


async def until_left(asked: Asked) -> None:
    async with asyncio.timeout(10):
        await asked.left.wait()


async def test_interim_responses_pass_unseen(single_store: str, service: ScriptedService) -> None:
    service.script = says(HINT * 5 + b"HTTP/1.1 100 Continue\r\n\r\n" + http(completion()))
    api_key = api_key_on(single_store)
    async with gateway(single_store, service_at(service.base_url)) as node:
        for _ in range(2):
            status, headers, answer = await post(node, api_key, body())
            assert (status, answer) == (200, completion())
            assert "link" not in headers
    assert service.connections == 1


async def test_interim_responses_do_not_keep_a_request_alive(single_store: str, service: ScriptedService) -> None:
    async def drips(asked: Asked, writer: asyncio.StreamWriter) -> None:
        while not asked.left.is_set():
            writer.write(HINT)
            await asyncio.sleep(0.02)

    service.script = drips
    api_key = api_key_on(single_store)
    async with gateway(single_store, service_at(service.base_url), timeouts=UpstreamTimeouts(read_s=0.2)) as node:
        async with asyncio.timeout(10):
            assert (await post(node, api_key, body()))[0] == 504
        assert await node.used(api_key) == Amounts(1, 0, 0)


@pytest.mark.parametrize(
    "line", [HINT, b"HTTP/1.1 200 OK\r\n" + b"x: y\r\n" * 9_000, b"HTTP/1.1 200 OK\r\nx: yyyyyyyy"]
)
async def test_heads_without_an_end_are_given_up(single_store: str, service: ScriptedService, line: bytes) -> None:
    sent = 0

    async def floods(asked: Asked, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        part = line
        while not asked.left.is_set():
            writer.write(part)
            sent += len(part)
            await writer.drain()
            await asyncio.sleep(0)
            part = line if line is HINT else b"y" * 10_000

    service.script = floods
    api_key = api_key_on(single_store)
    async with gateway(single_store, service_at(service.base_url)) as node, asyncio.timeout(20):
        assert (await post(node, api_key, body()))[0] == 502
    assert sent < 40 * MAX_HEAD_BYTES, "what the system's buffers hold, too"


async def test_large_heads_are_all_right(single_store: str, service: ScriptedService) -> None:
    fields = {f"x_{number}": "1" for number in range(200)}
    service.script = says(http(completion(), x_long="v" * 9_000, openai_processing_ms="7", **fields))
    api_key = api_key_on(single_store)
    async with gateway(single_store, service_at(service.base_url)) as node:
        status, headers, answer = await post(node, api_key, body())
        assert (status, answer, headers["openai-processing-ms"]) == (200, completion(), "7")
        assert len(headers) < 50


async def test_what_follows_the_end_of_a_stream_is_not_waited_for(single_store: str, service: ScriptedService) -> None:
    is_over = asyncio.Event()

    async def pings(asked: Asked, writer: asyncio.StreamWriter) -> None:
        writer.write(STREAM_HEAD + framed(b"".join((*WORDS, DONE))))
        while not asked.left.is_set():
            writer.write(framed(b": ping\n\n"))
            await asyncio.sleep(0.02)
        is_over.set()

    service.script = pings
    api_key = api_key_on(single_store)
    async with gateway(single_store, service_at(service.base_url)) as node, asyncio.timeout(10):
        assert (await post(node, api_key, body(stream=True)))[2].startswith(b"".join((*WORDS, DONE)))
        await is_over.wait()
        assert await node.used(api_key) == Amounts(1, INPUT, 1)


async def test_packed_answers_pass_as_they_are(single_store: str, service: ScriptedService) -> None:
    """What they cost can't be known without unpacking them, and a few bytes may become any number."""
    packed = gzip.compress(completion())
    service.script = says(http(packed, content_encoding="gzip"))
    api_key = api_key_on(single_store)
    async with gateway(single_store, service_at(service.base_url)) as node:
        status, headers, answer = await post(node, api_key, body())
        assert (status, headers["content-encoding"], answer) == (200, "gzip", completion())  # unpacked by our client
        assert int(headers["content-length"]) == len(packed)
        assert await node.used(api_key) == Amounts(1, INPUT, RESERVE)
        service.script = says(http(gzip.compress(b"x" * 100), 400, content_encoding="gzip"))
        status, _, answer = await post(node, api_key, body())
        assert (status, json.loads(answer)["error"]["code"]) == (400, "upstream_error")


async def test_long_answers_pass_while_they_come(single_store: str, service: ScriptedService) -> None:
    answered = completion(padding="x" * 300_000, usage={"prompt_tokens": 1, "completion_tokens": 5, "total_tokens": 6})
    go_on = asyncio.Event()

    async def halts(_asked: Asked, writer: asyncio.StreamWriter) -> None:
        writer.write(http(answered)[:150_000])
        await go_on.wait()
        writer.write(http(answered)[150_000:])

    service.script = halts
    api_key = api_key_on(single_store)
    async with (
        gateway(single_store, service_at(service.base_url)) as node,
        asked_raw(node, api_key, body()) as reader,
        asyncio.timeout(10),
    ):
        head = await reader.readuntil(b"\r\n\r\n")
        assert f"Content-Length: {len(answered)}\r\n".encode() in head
        assert b"Content-Type: application/json\r\n" in head
        begun = await reader.readexactly(100_000)
        go_on.set()
        assert begun + await reader.readexactly(len(answered) - len(begun)) == answered
        assert await node.used(api_key) == Amounts(1, INPUT, 5)


async def test_a_reader_that_is_slow_holds_its_service_up(single_store: str, service: ScriptedService) -> None:
    sent = 0

    async def pours(asked: Asked, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        writer.write(b'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 400000000\r\n\r\n{"a":"')
        while not asked.left.is_set() and sent < 300_000_000:
            writer.write(b"x" * 1_000_000)
            sent += 1_000_000
            try:
                async with asyncio.timeout(0.5):
                    await writer.drain()
            except TimeoutError:
                await asked.left.wait()

    service.script = pours
    api_key = api_key_on(single_store)
    async with gateway(single_store, service_at(service.base_url), read_on_s=0.05) as node, asyncio.timeout(30):
        async with asked_raw(node, api_key, body()) as reader:
            await reader.readuntil(b"\r\n\r\n")
            before = -1
            while sent > before:
                before = sent
                await asyncio.sleep(0.6)
            assert sent < 40_000_000, "what the system's buffers hold, too"
        await until_left(service.asked[0])
        while node.routes.under_way:
            await asyncio.sleep(0.005)


async def test_a_long_answer_that_breaks_off_is_not_taken_for_whole(
    single_store: str, service: ScriptedService
) -> None:
    answered = completion(padding="x" * 300_000)
    api_key = api_key_on(single_store)
    async with gateway(single_store, service_at(service.base_url)) as node, asyncio.timeout(10):
        for chunked in (False, True):
            head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
            begun = head + framed(answered[:200_000]) if chunked else http(answered)[:200_000]
            service.script = says(begun, then_close=True)
            async with asked_raw(node, api_key, body()) as reader:
                got = await reader.read()
                assert len(got) > 100_000
                assert not got.endswith(b"0\r\n\r\n")
        requests, input_tokens, output_tokens = await node.used(api_key)
        assert (requests, input_tokens) == (2, 2 * INPUT)
        assert output_tokens > 0, "what came is charged"


@pytest.mark.parametrize(
    "answered",
    [
        b"HTTP/1.0 200 OK\r\nContent-Type: application/json\r\n\r\n" + completion(),
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n\r\n" + completion(),
        http(completion(), connection="close"),
        http(completion()) + b"HTTP/1.1 200 OK\r\n",
        http(completion()) + b"surplus",
    ],
)
async def test_connections_that_can_not_be_kept_are_not(
    single_store: str, service: ScriptedService, answered: bytes
) -> None:
    service.script = says(answered, then_close=b"surplus" not in answered)
    api_key = api_key_on(single_store)
    async with gateway(single_store, service_at(service.base_url)) as node, asyncio.timeout(10):
        for _ in range(3):
            assert (await post(node, api_key, body()))[::2] == (200, completion())
    assert service.connections == 3


@pytest.mark.parametrize(
    "end",
    [b"0\r\nx-checksum: 1\r\nx-more: 2\r\n\r\n", b"0;x=y\r\n\r\n", b"000\r\n\r\n"],
    ids=["trailers", "ext", "zeros"],
)
async def test_the_framing_of_chunks_passes_unseen(single_store: str, service: ScriptedService, end: bytes) -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    each = b"".join(b"1;ext=%d\r\n%c\r\n" % (number, byte) for number, byte in enumerate(completion()))
    service.script = says(head + each + end)
    api_key = api_key_on(single_store)
    async with gateway(single_store, service_at(service.base_url)) as node:
        for _ in range(2):
            assert (await post(node, api_key, body()))[::2] == (200, completion())
    assert service.connections == 1


async def test_what_is_packed_for_the_connection_is_a_failure(single_store: str, service: ScriptedService) -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: gzip, chunked\r\n\r\n"
    service.script = says(head + framed(gzip.compress(completion())) + STREAM_END)
    api_key = api_key_on(single_store)
    async with gateway(single_store, service_at(service.base_url)) as node:
        assert (await post(node, api_key, body()))[0] == 502
        assert await node.used(api_key) == Amounts(1, 0, 0)


async def test_events_that_come_before_the_first_is_delivered_are_not_lost() -> None:
    """Nobody takes them for a turn of the event loop or two; then reading goes on."""
    came: list[bytes] = []
    events = [chunk(f" {number}") for number in range(50)]

    class Carrier:
        was_used = is_paused = False

        def pause(self) -> None:
            self.is_paused = True

        def resume(self) -> None:
            self.is_paused = False

        def abort(self) -> None: ...

        def end_within(self, seconds: float) -> None: ...

    class Taken:
        is_full = False

        def write(self, data: bytes, *, is_last: bool = False) -> bool:
            came.append(data)
            return True

        async def drained(self) -> None: ...

    carrier = Carrier()
    exchange = Exchange(carrier)
    account = ChunkAccount("o200k_base", hides_usage=False, choices=1)
    stream = PassingStream(
        exchange, account, "", "s", lambda *_: None, Hold(HeldBytes(1)), lambda _: False, lambda *_: UpstreamError("")
    )
    exchange.on_head(200, [])
    beginning = asyncio.create_task(stream.begin())
    await asyncio.sleep(0)
    for event in events[:10]:
        exchange.on_body(event)
    assert carrier.is_paused
    await beginning
    delivering = asyncio.create_task(stream.deliver(Taken()))
    await asyncio.sleep(0)
    assert not carrier.is_paused
    for event in [*events[10:], DONE]:
        exchange.on_body(event)
    await delivering
    assert b"".join(came) == b"".join([*events, DONE])


async def test_an_upgrade_is_a_failure(single_store: str, service: ScriptedService) -> None:
    service.script = says(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\nx")
    api_key = api_key_on(single_store)
    async with gateway(single_store, service_at(service.base_url)) as node:
        assert (await post(node, api_key, body()))[0] == 502


async def test_trailers_without_an_end_are_given_up(single_store: str, service: ScriptedService) -> None:
    async def trails(asked: Asked, writer: asyncio.StreamWriter) -> None:
        writer.write(STREAM_HEAD + framed(WORDS[0]) + b"0\r\n")
        while not asked.left.is_set():
            writer.write(b"x: y\r\n" * 1_000)
            await writer.drain()
            await asyncio.sleep(0)

    service.script = trails
    api_key = api_key_on(single_store)
    async with gateway(single_store, service_at(service.base_url)) as node, asyncio.timeout(20):
        answer = (await post(node, api_key, body(stream=True)))[2]
        assert b'"error"' in answer
        assert DONE not in answer


async def test_a_service_may_answer_before_it_has_read_everything(single_store: str) -> None:
    is_over = asyncio.Event()

    async def refuses(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(http(b'{"error":{"message":"Too long."}}', 413))
        await writer.drain()
        with suppress(ConnectionError):
            while await reader.read(65_536):
                pass
        is_over.set()

    api_key = api_key_on(single_store)
    async with (
        RawServer(refuses) as server,
        gateway(single_store, service_at(f"{server.url}/v1"), max_body_bytes=16_000_000) as node,
        asyncio.timeout(20),
    ):
        status, _, answer = await post(node, api_key, body(user="x" * 8_000_000))
        assert (status, json.loads(answer)["error"]["message"]) == (413, "Too long.")
        await is_over.wait()


@pytest.mark.parametrize(
    ("name", "not_after", "status"),
    [("localhost", None, 200), ("127.0.0.1", None, 502), ("localhost", datetime(2021, 1, 1, tzinfo=UTC), 502)],
    ids=["its own", "another name", "expired"],
)
async def test_services_are_reached_by_tls_under_their_own_name_only(
    single_store: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: Any,
    name: str,
    not_after: Any,
    status: int,
) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    dates: dict[str, Any] = {"not_before": datetime(2020, 1, 1, tzinfo=UTC), "not_after": not_after}
    authority.issue_cert("localhost", **dates).configure_cert(context)
    service = ScriptedService()
    service.script = says(http(completion()))
    api_key = api_key_on(single_store)
    async with (
        RawServer(service.serve, tls=context) as server,
        gateway(single_store, service_at(f"https://{name}:{server.port}/v1")) as node,
        asyncio.timeout(20),
    ):
        for _ in range(2):
            assert (await post(node, api_key, body()))[0] == status
    if status == 502:
        assert "the service's certificate is not valid" in caplog.text
    else:
        assert service.connections == 1


async def test_an_end_that_never_comes_does_not_hold_what_is_complete(
    single_store: str, service: ScriptedService
) -> None:
    """Every choice has finished, and nothing more comes: neither [DONE] nor the end of the body."""

    async def halts(asked: Asked, writer: asyncio.StreamWriter) -> None:
        writer.write(STREAM_HEAD + framed(b"".join(WORDS)))
        await asked.left.wait()

    service.script = halts
    api_key = api_key_on(single_store)
    async with gateway(single_store, service_at(service.base_url), timeouts=UpstreamTimeouts(read_s=0.3)) as node:
        async with asyncio.timeout(10):
            assert (await post(node, api_key, body(stream=True)))[2] == b"".join(WORDS)
        assert await node.used(api_key) == Amounts(1, INPUT, 1)


async def test_answers_leave_nothing_behind(single_store: str, service: ScriptedService) -> None:
    """No cycle: what an answer held is free when it has ended, without a search by the garbage collector."""
    answered = [
        http(completion()),
        STREAM_HEAD + framed(b"".join((*WORDS, DONE))) + STREAM_END,
        http(completion(padding="x" * 200_000)),
    ]
    api_key = api_key_on(single_store)
    async with gateway(single_store, service_at(service.base_url)) as node:
        for each in answered:
            service.script = says(each)
            await post(node, api_key, body(stream=each.startswith(STREAM_HEAD)))
        gc.collect()
        gc.disable()
        try:
            for each in answered:
                service.script = says(each)
                await post(node, api_key, body(stream=each.startswith(STREAM_HEAD)))
                async with asyncio.timeout(5):  # the handler ends after its answer
                    while any(isinstance(one, Exchange) for one in gc.get_objects()):
                        await asyncio.sleep(0.01)
        finally:
            gc.enable()
