"""The edges of HTTP: what is no HTTP, expectations, odd methods, clients that leave, requests longer than the drain."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
import pytest
from dispatching import dispatching
from fleet import Fleet, chat, many_connections, running_fleet
from store_tools import declare, new_api_key

from limiter_node.limits import Amounts
from limiter_node.store.embedded.stores import EmbeddedStore
from limiter_node.supervisor import KILL_MARGIN_S

BODY = json.dumps({"model": "gpt-4o", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 5}).encode()


class Answer(NamedTuple):
    """A response as it came over the wire."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def error(self) -> Any:
        assert self.headers["content-type"].startswith("application/json")
        return json.loads(self.body)["error"]


@asynccontextmanager
async def connected(fleet: Fleet) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    host, _, port = fleet.nodes[0].removeprefix("http://").rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        yield reader, writer
    finally:
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()


async def read_answer(reader: asyncio.StreamReader) -> Answer:
    """All that comes until the server closes the connection: one response."""
    async with asyncio.timeout(20):
        raw = await reader.read()
    head, _, body = raw.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
    assert len(body) == int(headers["content-length"]), raw
    return Answer(int(first.split()[1]), headers, body)


async def send(fleet: Fleet, data: bytes) -> Answer:
    async with connected(fleet) as (reader, writer):
        writer.write(data)
        return await read_answer(reader)


async def begin(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *lines: bytes) -> None:
    """Send all of a request but its body, and wait until the node is about to read that."""
    writer.write(head(*lines, b"Expect: 100-continue"))
    async with asyncio.timeout(20):
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"


def head(*lines: bytes, request: bytes = b"POST /v1/chat/completions HTTP/1.1") -> bytes:
    return b"\r\n".join([request, b"Host: node", *lines, b"", b""])


async def test_keys_of_unreadable_requests_and_of_clients_that_leave_are_in_no_log(tmp_path: Path) -> None:
    secret = b"sk-very-secret"
    with running_fleet(tmp_path, "--store", "single", nodes=1) as fleet:
        known = fleet.new_key().encode()
        for line in (
            b"Authorization: Bearer %b\x01" % secret,
            b"Authorization : Bearer %b" % secret,
            b"Authorization\x00: Bearer %b" % secret,
            b"Authorization: Bearer %b" % secret + b"x" * 9_000,
            b"Authorization: Bearer x\r\n%b" % secret,
        ):
            answer = await send(fleet, head(line))  # that this returns at all says that the connection was closed
            assert 400 <= answer.status < 500
            assert answer.error["type"] == "invalid_request_error"
            assert answer.error["message"]
            assert secret not in answer.body
            assert secret.decode() not in str(answer.headers)
        for leave in (asyncio.StreamWriter.close, lambda writer: writer.transport.abort()):
            async with connected(fleet) as (reader, writer):
                await begin(reader, writer, b"Authorization: Bearer " + known, b"Content-Length: 3000")
                writer.write(b"{")
                leave(writer)
        for line, status in (
            (b"Authorization: Bearer " + known, 400),
            (b"Authorization: Bearer " + secret, 401),  # the body isn't read
            (b"Accept: */*", 401),
        ):
            length = b"Content-Length: %d" % len(secret)
            answer = await send(fleet, head(line, b"Content-Encoding: gzip", b"Connection: close", length) + secret)
            assert answer.status == status
            assert answer.error["type"] == "invalid_request_error"
            answer = await send(fleet, head(line, b"Transfer-Encoding: chunked") + secret + b"\r\n")
            assert answer.status == 400
        # The node takes events in their order: it has met all of them by the time that it has answered this.
        answer = await send(fleet, head(b"Connection: close", request=b"GET /healthz HTTP/1.1"))
        assert answer.status == 200
    told = (tmp_path / "stderr").read_text()
    assert secret.decode() not in told
    assert known.decode() not in told
    assert "ERROR" not in told


async def test_a_client_that_waits_for_100_continue_gets_it(fleet: Fleet) -> None:
    key = fleet.new_key().encode()
    async with connected(fleet) as (reader, writer):
        lines = (b"Authorization: Bearer " + key, b"Content-Length: %d" % len(BODY), b"Connection: close")
        await begin(reader, writer, *lines)
        writer.write(BODY)
        answer = await read_answer(reader)
    assert answer.status == 200
    assert json.loads(answer.body)["usage"]["completion_tokens"] == 5


@pytest.mark.parametrize(
    ("request_line", "line", "status"),
    [
        (b"POST /v1/chat/completions HTTP/1.1", b"Expect: foo", 417),
        (b"OPTIONS * HTTP/1.1", b"Accept: */*", 404),
        (b"CONNECT node:443 HTTP/1.1", b"Accept: */*", 404),
    ],
)
async def test_what_is_not_offered_is_refused_in_openais_shape(
    fleet: Fleet, request_line: bytes, line: bytes, status: int
) -> None:
    answer = await send(fleet, head(line, b"Content-Length: 0", b"Connection: close", request=request_line))
    assert answer.status == status
    assert answer.error["type"] == "invalid_request_error"
    assert answer.headers["x-request-id"]


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        (b"GET", b"/v1/chat/completions", "POST"),
        (b"POST", b"/v1/models", "GET, HEAD"),
        (b"OPTIONS", b"/healthz", "GET, HEAD"),
    ],
)
async def test_a_405_names_the_methods_that_are_allowed(fleet: Fleet, method: bytes, path: bytes, allowed: str) -> None:
    answer = await send(fleet, head(b"Connection: close", request=method + b" " + path + b" HTTP/1.1"))
    assert answer.status == 405
    assert answer.headers["allow"] == allowed
    assert answer.error["type"] == "invalid_request_error"


@pytest.mark.parametrize("drain_s", [0, 6])
async def test_what_outlasts_the_drain_is_cut_off_in_time_and_refunded(tmp_path: Path, drain_s: int) -> None:
    """In time: before the supervisor kills the node, which costs the tokens. With 6 s, waiting twice is late."""
    async with EmbeddedStore("single") as store, dispatching(store.url) as dispatcher, many_connections() as session:
        api_key = new_api_key()
        kid = declare(store.url, api_key)
        with running_fleet(
            tmp_path, "--store", store.url, "--drain-timeout", str(drain_s), "--mock-latency-ms", "60000",
            "--decision-timeout-ms", "20000", nodes=1,
        ) as fleet:  # fmt: skip
            requests = [asyncio.create_task(chat(session, fleet.nodes[0], api_key)) for _ in range(3)]
            async with asyncio.timeout(20):
                while (usage := await dispatcher.peek(kid)) is None or usage.used.requests < 3:
                    await asyncio.sleep(0.01)
            assert usage.used.output_tokens
            started_s = time.monotonic()
        assert time.monotonic() - started_s < drain_s + KILL_MARGIN_S
        answers = await asyncio.gather(*requests, return_exceptions=True)
        assert all(isinstance(answer, aiohttp.ClientError) for answer in answers), answers
        usage = await dispatcher.peek(kid)
        assert usage is not None
        assert usage.used == Amounts(3, 0, 0)
    assert "the node cuts them off" in (tmp_path / "stderr").read_text()
