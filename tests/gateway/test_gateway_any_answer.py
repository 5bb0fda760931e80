"""Any answer, framed in any way, cut anywhere, to any caller, who may leave or stall at any point.

Each request that was admitted ends once, each answer that came whole passes as it came and costs what it told, and
nothing is left behind: no task, no connection, no entry of a pool.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from random import Random
from typing import Any

import pytest
import uvloop
from gateway_node import gateway, service_at
from in_process import Node, api_key_on
from raw_server import RawServer
from scripted_service import DONE, chunk, completion

from limiter_node.upstream.gateway.sending.timeouts import UpstreamTimeouts
from limiter_node.upstream.gateway.upstream import Gateway

RESERVE = 256
FRAMINGS = ("length", "chunked", "until_closed", "http_1_0", "http_1_0_kept")
AT_ONCE = 6


@dataclass
class Planned:
    """What the service answers to one request, and what its caller does."""

    is_stream: bool
    body: bytes
    output_tokens: int
    framing: str
    interim: int
    ends_at: float
    """How much of it is sent, 1 for all; then the connection ends."""
    is_reset: bool
    surplus: bytes
    piece: int
    leaves_after: int | None
    """Bytes that the caller takes."""
    is_http_1_0: bool
    stalls: bool


def plan(random: Random) -> Planned:
    is_stream = random.random() < 0.5
    output_tokens = random.randrange(5, 200)
    usage = {"prompt_tokens": 5, "completion_tokens": output_tokens, "total_tokens": 5 + output_tokens}
    if is_stream:
        padding = {} if random.random() < 0.8 else {"padding": "x" * random.randrange(100_000)}
        count = random.choice((1, 3, 50, 3_000))
        events = [chunk(f" {number}") for number in range(count)]
        if padding:
            events.insert(random.randrange(count), b"data: %b\n\n" % json.dumps({"choices": [], **padding}).encode())
        body = b"".join([*events, chunk(None, "stop"), chunk(usage=usage), *([DONE] if random.random() < 0.8 else [])])
        if random.random() < 0.2:
            body = body.replace(b"\n", b"\r\n")
    else:
        body = completion(usage, padding="y" * random.choice((0, 0, 10, 60_000, 70_000, 300_000, 1_200_000)))
    return Planned(
        is_stream=is_stream,
        body=body,
        output_tokens=output_tokens,
        framing=random.choice(FRAMINGS),
        interim=random.choice((0, 0, 0, 1, 5)),
        ends_at=1 if random.random() < 0.7 else random.random(),
        is_reset=random.random() < 0.3,
        surplus=random.choice((b"", b"", b"", b"x", b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}", b"\r\n")),
        piece=random.choice((1, 7, 100, 4_096, 10_000_000)),
        leaves_after=None if random.random() < 0.6 else random.choice((0, 1, 50, 500, 5_000, 500_000)),
        is_http_1_0=random.random() < 0.2,
        stalls=random.random() < 0.2,
    )


def to_wire(planned: Planned, random: Random) -> bytes:
    body, framing = planned.body, planned.framing
    lines = [f"Content-Type: {'text/event-stream' if planned.is_stream else 'application/json'}"]
    version = "1.0" if framing.startswith("http_1_0") else "1.1"
    if framing == "chunked":
        lines.append("Transfer-Encoding: chunked")
        size, chunks = random.choice((3, 200, 5_000, 1_000_000)), []
        if len(body) // size > 20_000:
            size = 5_000
        for at in range(0, len(body), size):
            part = body[at : at + size]
            chunks.append(b"%x%b\r\n%b\r\n" % (len(part), random.choice((b"", b";a=b")), part))
        body = b"".join([*chunks, b"0\r\n", random.choice((b"", b"X-Trailer: 1\r\n")), b"\r\n"])
    elif framing in ("length", "http_1_0_kept"):
        lines.append(f"Content-Length: {len(body)}")
    if framing == "http_1_0_kept":
        lines.append("Connection: keep-alive")
    head = "\r\n".join([f"HTTP/{version} 200 OK", *lines, "", ""]).encode()
    return b"HTTP/1.1 103 Early\r\nLink: x\r\n\r\n" * planned.interim + head + body


class Service:
    """Answers each request as it was planned; its number is its caller's `user`."""

    def __init__(self, seed: int) -> None:
        self.plans: list[Planned] = []
        self.seed = seed
        self.url = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
            number = int(json.loads(await reader.readexactly(length))["user"])
            if not await self._answer(self.plans[number], number, writer):
                return

    async def _answer(self, planned: Planned, number: int, writer: asyncio.StreamWriter) -> bool:
        random = Random(f"{self.seed} {number}")
        wire = to_wire(planned, random)
        sent = wire[: int(len(wire) * planned.ends_at)]
        if planned.ends_at == 1:
            sent += planned.surplus if planned.framing in ("chunked", "length") else b""
        piece = max(planned.piece, len(sent) // 2_000 + 1)
        for at in range(0, len(sent), piece):
            writer.write(sent[at : at + piece])
            await writer.drain()
            if random.random() < 0.5:
                await asyncio.sleep(0)
        if planned.ends_at < 1 and planned.is_reset:
            writer.transport.abort()
        return planned.ends_at == 1 and planned.framing not in ("until_closed", "http_1_0")


@asynccontextmanager
async def running(seed: int) -> AsyncIterator[Service]:
    service = Service(seed)
    async with RawServer(service.serve) as server:
        service.url = f"{server.url}/v1"
        yield service


async def ask(node: Node, api_key: str, number: int, planned: Planned) -> bytes | None:
    """What came of the answer, head and all; None if the caller left, or could not."""
    fields: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "Hi"}], "user": str(number)}
    if planned.is_stream:
        fields |= {"stream": True, "stream_options": {"include_usage": True}}
    data = json.dumps(fields).encode()
    version = "1.0" if planned.is_http_1_0 else "1.1"
    lines = [f"POST /v1/chat/completions HTTP/{version}", "Host: x", f"Authorization: Bearer {api_key}"]
    lines += [f"Content-Length: {len(data)}", "Connection: close", "", ""]
    reader, writer = await asyncio.open_connection("127.0.0.1", int(node.url.rpartition(":")[2]))
    try:
        writer.write("\r\n".join(lines).encode() + data)
        got = b""
        while True:
            if planned.leaves_after is not None and len(got) >= planned.leaves_after:
                return None
            if planned.stalls:
                await asyncio.sleep(0.01)
            with suppress(ConnectionError):
                if part := await reader.read(1 << 20):
                    got += part
                    continue
            return got
    finally:
        writer.transport.abort()


def body_of(got: bytes) -> tuple[int, bytes, bool]:
    """The status, the body, and whether it came to the end that its framing announced."""
    head, _, rest = got.partition(b"\r\n\r\n")
    status = int(head.split(b" ")[1])
    lowered = head.lower()
    if b"transfer-encoding: chunked" in lowered:
        parts = []
        while rest:
            size, _, rest = rest.partition(b"\r\n")
            length = int(size, 16)
            if not length:
                return status, b"".join(parts), rest == b"\r\n"
            parts.append(rest[:length])
            rest = rest[length + 2 :]
        return status, b"".join(parts), False
    length_at = lowered.find(b"content-length: ")
    if length_at < 0:
        return status, rest, True
    length = int(lowered[length_at + 16 :].partition(b"\r\n")[0])
    assert len(rest) <= length
    return status, rest, len(rest) == length


async def converse(store: str, seed: int, count: int) -> None:
    random = Random(seed)
    api_key = api_key_on(store, rpm=100_000, input_tpm=10**8, output_tpm=10**8, output_reserve=RESERVE)
    async with running(seed) as service:
        service.plans = [plan(random) for _ in range(count)]
        before = asyncio.all_tasks()
        async with gateway(
            store, service_at(service.url), timeouts=UpstreamTimeouts(read_s=20, keepalive_s=random.choice((0.01, 4)))
        ) as node:
            upstream = node.reader._upstream
            assert isinstance(upstream, Gateway)
            telemetry = node.routes._limiter.telemetry
            for at in range(0, count, AT_ONCE):
                numbers = range(at, min(at + AT_ONCE, count))
                async with asyncio.timeout(30):
                    came = await asyncio.gather(*(ask(node, api_key, each, service.plans[each]) for each in numbers))
                    while node.routes.under_way or node.routes._streams._under_way:
                        await asyncio.sleep(0.001)
                for number, got in zip(numbers, came, strict=True):
                    if got is not None:
                        check(service.plans[number], got, f"seed {seed}, request {number}")
            assert node.routes._held.held == 0
            used = await node.used(api_key)
            assert used.requests == telemetry.settled + telemetry.refunded <= count
            told = sum(each.output_tokens for each in service.plans if each.leaves_after is None and each.ends_at == 1)
            assert used.output_tokens >= told
            pools = upstream._sender._pools.values()
            async with asyncio.timeout(10):
                while any(len(pool._all) != len(pool._idle) for pool in pools):
                    await asyncio.sleep(0.01)
        assert not any(pool._all or pool._idle for pool in pools)
    async with asyncio.timeout(10):
        while asyncio.all_tasks() - before:
            await asyncio.sleep(0.01)


def check(planned: Planned, got: bytes, where: str) -> None:
    status, body, is_whole = body_of(got)
    if planned.ends_at == 1:
        assert (status, body, is_whole) == (200, planned.body, True), where
    elif status == 200 and is_whole and not planned.is_http_1_0:
        # All of it came but its framing; or the error was told.
        is_told = planned.is_stream and b'"error"' in body[-400:]
        assert body == planned.body or is_told or planned.body.startswith(body), where
    if status == 200 and planned.is_stream and b'"error"' not in body:
        assert planned.body.startswith(body), where


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def test_any_answer_to_any_caller(single_store: str, seed: int, new_loop: Any) -> None:
    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(converse(single_store, seed, 60))
