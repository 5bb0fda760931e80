"""What a client may take: time, connections, requests at once, size; beyond that it is told so, and nobody else
notices."""

from __future__ import annotations

import asyncio
import json
import resource
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest
from aiohttp_ways import needs_early_400
from fleet import Fleet, chat, many_connections, rate_limits, running_fleet

SOCKETS = 200
BODY = json.dumps({"model": "gpt-4o", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 5}).encode()
HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nHost: node\r\nAuthorization: Bearer %b\r\nContent-Length: %d\r\n\r\n"


@pytest.fixture(scope="module")
def impatient(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """One node that waits for nobody."""
    options = {
        "--header-timeout": "0.5",
        "--body-timeout": "0.7",
        "--keepalive-timeout": "1.5",
        "--mock-length": "fixed:5",
        "--store": "single",
    }
    arguments = [word for pair in options.items() for word in pair]
    with running_fleet(tmp_path_factory.mktemp("impatient"), *arguments, nodes=1) as running:
        yield running


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """One node that has few places, and takes its time."""
    options = {"--max-connections": "6", "--max-in-flight": "3", "--mock-latency-ms": "1500", "--store": "single"}
    arguments = [word for pair in options.items() for word in pair]
    with running_fleet(tmp_path_factory.mktemp("small"), *arguments, nodes=1) as running:
        yield running


Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


def address(fleet: Fleet) -> tuple[str, int]:
    host, _, port = fleet.nodes[0].removeprefix("http://").rpartition(":")
    return host, int(port)


@asynccontextmanager
async def sockets(fleet: Fleet, count: int, sent: bytes) -> AsyncIterator[list[Streams]]:
    opened: list[Streams] = []
    try:
        for _ in range(count):
            reader, writer = await asyncio.open_connection(*address(fleet))
            opened.append((reader, writer))
            writer.write(sent)
        yield opened
    finally:
        for _, writer in opened:
            writer.transport.abort()


async def rest(reader: asyncio.StreamReader) -> bytes:
    """All that comes until the node closes."""
    async with asyncio.timeout(20):
        return await reader.read()


@pytest.fixture(scope="module", autouse=True)
def enough_files() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(4_096, hard), hard))


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        pytest.param(b"", None, id="silent"),
        pytest.param(b"POST /v1/chat/completions HT", 408, id="half a request line"),
        pytest.param(b"POST /v1/chat/completions HTTP/1.1\r\nHost: node\r\nx-a: b\r\n", 408, id="half a head"),
        pytest.param(HEAD % (b"KEY", 100) + b'{"model"', 408, id="half a body"),
        pytest.param(HEAD.replace(b"Content-Length: %d", b"Transfer-Encoding: chunked") % b"KEY", 408, id="no chunk"),
    ],
)
async def test_sockets_that_say_nothing_more_are_closed_and_others_are_served(
    impatient: Fleet, sent: bytes, status: int | None
) -> None:
    api_key = impatient.new_key()
    async with (
        sockets(impatient, SOCKETS, sent.replace(b"KEY", api_key.encode())) as opened,
        many_connections() as session,
    ):
        for _ in range(5):
            response, _ = await chat(session, impatient.nodes[0], api_key, max_tokens=5)
            assert response.status == 200
        answers = await asyncio.gather(*(rest(reader) for reader, _ in opened))
        if status is None:
            assert set(answers) == {b""}, "nothing was asked, so there is nothing to answer"
        else:
            assert {answer.split(b" ")[1] for answer in answers} == {b"%d" % status}
            assert all(b"connection: close" in answer.lower() for answer in answers)
            assert json.loads(answers[0].partition(b"\r\n\r\n")[2])["error"]["code"] == "request_timeout"
        limits = await rate_limits(session, impatient.nodes[0], api_key)
        assert limits["used"]["requests"] == 5, "what wasn't asked wholly counts for nothing"


async def test_trickling_does_not_extend_a_deadline(impatient: Fleet) -> None:
    api_key = impatient.new_key().encode()

    async def trickle(data: bytes) -> bytes:
        reader, writer = await asyncio.open_connection(*address(impatient))
        try:
            answer = asyncio.ensure_future(rest(reader))
            for at in range(len(data)):
                if answer.done():
                    break
                writer.write(data[at : at + 1])
                await asyncio.sleep(0.02)
            return await answer
        finally:
            writer.transport.abort()

    head = HEAD % (api_key, len(BODY))
    slow_head, slow_body = await asyncio.gather(trickle(head + BODY), _after(head, BODY, impatient))
    assert slow_head.startswith(b"HTTP/1.1 408 ")
    assert slow_body.startswith(b"HTTP/1.1 408 ")


async def _after(head: bytes, body: bytes, fleet: Fleet) -> bytes:
    reader, writer = await asyncio.open_connection(*address(fleet))
    try:
        writer.write(head)
        answer = asyncio.ensure_future(rest(reader))
        for at in range(len(body)):
            if answer.done():
                break
            writer.write(body[at : at + 1])
            await asyncio.sleep(0.02)
        return await answer
    finally:
        writer.transport.abort()


async def test_an_idle_connection_is_closed_after_its_time(impatient: Fleet) -> None:
    api_key = impatient.new_key().encode()
    async with sockets(impatient, 1, HEAD % (api_key, len(BODY)) + BODY) as [(reader, _)]:
        answer = await rest(reader)
        assert answer.startswith(b"HTTP/1.1 200 ")
        assert b"connection: close" not in answer.lower()


@pytest.mark.parametrize(
    "sent",
    [
        pytest.param(b"GET /" + b"a" * 9_000 + b" HTTP/1.1\r\nHost: node\r\n\r\n", id="request line"),
        pytest.param(b"GET / HTTP/1.1\r\nHost: node\r\nx-a: " + b"a" * 9_000 + b"\r\n\r\n", id="field"),
        pytest.param(b"GET / HTTP/1.1\r\nHost: node\r\n" + b"x-a: b\r\n" * 200 + b"\r\n", id="many fields"),
    ],
)
async def test_a_head_that_is_too_large_is_refused(impatient: Fleet, sent: bytes) -> None:
    async with sockets(impatient, 1, sent) as [(reader, _)]:
        answer = await rest(reader)
    assert answer.split(b" ")[1] in (b"400", b"431")
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["type"] == "invalid_request_error"


async def test_a_head_without_an_end_is_refused_before_it_fills_the_memory(impatient: Fleet) -> None:
    reader, writer = await asyncio.open_connection(*address(impatient))
    try:
        writer.write(b"GET / HTTP/1.1\r\nHost: node\r\n")
        # As slowly as the answer comes back: what is sent to a closed connection would reset it.
        answering = asyncio.ensure_future(reader.readuntil(b"\r\n\r\n"))
        for _ in range(20):
            if not answering.done():
                writer.write(b"x-a: " + b"a" * 8_000 + b"\r\n")
                await asyncio.wait([answering], timeout=0.03)
        async with asyncio.timeout(20):
            answer = await answering
    finally:
        writer.transport.abort()
    assert answer.split(b" ")[1] in (b"400", b"431")


@needs_early_400
async def test_a_broken_chunk_that_comes_later_ends_its_request_at_once(small: Fleet) -> None:
    """Not at the deadline for bodies, which is 30 s here."""
    api_key = small.new_key().encode()
    sent = HEAD.replace(b"Content-Length: %d", b"Transfer-Encoding: chunked") % api_key + b"5\r\nhel"
    async with sockets(small, 1, sent) as [(reader, writer)]:
        await asyncio.sleep(0.1)
        writer.write(b"lo\r\nzz\r\n")
        answer = await rest(reader)
    assert answer.split(b" ")[1] == b"400"


async def test_a_connection_too_many_gets_a_503_and_its_end(small: Fleet) -> None:
    async with sockets(small, 6, b"GET /healthz HTTP/1.1\r\nHost: node\r\n\r\n") as opened:
        for reader, _ in opened:
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 ")
        async with sockets(small, 3, b"") as refused:
            for reader, _ in refused:
                answer = await rest(reader)
                assert answer.startswith(b"HTTP/1.1 503 ")
                assert b"retry-after: 1\r\n" in answer
        for reader, writer in opened:
            await reader.readexactly(len(b'{"status":"ok"}'))
            writer.write(b"GET /healthz HTTP/1.1\r\nHost: node\r\n\r\n")
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 ")


async def test_requests_beyond_those_in_flight_get_a_503_and_probes_an_answer(small: Fleet) -> None:
    api_key = small.new_key()
    async with many_connections() as session:
        asked = [asyncio.ensure_future(chat(session, small.nodes[0], api_key, max_tokens=5)) for _ in range(5)]
        done, _ = await asyncio.wait(asked, return_when=asyncio.FIRST_COMPLETED)
        for each in done:
            response, body = await each
            assert response.status == 503
            assert response.headers["retry-after"] == "1"
            assert body["error"]["code"] == "overloaded"  # type: ignore[index]
        async with session.get(f"{small.nodes[0]}/healthz") as response:
            assert response.status == 200
        statuses = sorted([(await each)[0].status for each in asked])
        assert statuses == [200, 200, 200, 503, 503]
        limits = await rate_limits(session, small.nodes[0], api_key)
        assert limits["used"]["requests"] == 3
