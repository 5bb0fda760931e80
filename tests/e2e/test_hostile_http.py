"""Requests shaped to confuse or to exhaust: each a clear 4xx, the connection closed where its framing is in doubt,
nothing counted."""

from __future__ import annotations

import asyncio
import gzip
import json
from pathlib import Path

import pytest
from fleet import Fleet, chat, many_connections
from store_tools import raw_counters

from limiter_node.credentials import key_id

BODY = json.dumps({"model": "gpt-4o", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 5}).encode()
MAX_BODY = 20_971_520


@pytest.fixture(scope="module")
def api_key(fleet: Fleet) -> str:
    return fleet.new_key()


async def exchange(fleet: Fleet, request: bytes) -> tuple[int, bytes, bool]:
    """Send raw bytes; the status, the body, and whether the server then closed the connection by itself."""
    host, _, port = fleet.nodes[0].removeprefix("http://").rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        async with asyncio.timeout(20):
            writer.write(request)
            head = await reader.readuntil(b"\r\n\r\n")
            lines = head.decode("latin-1").lower().split("\r\n")
            length = next(int(line.partition(":")[2]) for line in lines if line.startswith("content-length:"))
            body = await reader.readexactly(length)
            closes = "connection: close" in lines or lines[0].startswith("http/1.0")
            if closes:
                assert await reader.read(1) == b""
            return int(head.split()[1]), body, closes
    finally:
        writer.transport.abort()  # what the node didn't read isn't sent any more


def head(api_key: str, *fields: str) -> bytes:
    lines = ["POST /v1/chat/completions HTTP/1.1", f"Authorization: Bearer {api_key}", *fields, "", ""]
    return "\r\n".join(lines).encode("latin-1")


LENGTH = f"Content-Length: {len(BODY)}"


@pytest.mark.parametrize(
    ("fields", "body"),
    [
        (("Host: x", LENGTH, "Transfer-Encoding: chunked"), b"0\r\n\r\n"),
        (("Host: x", "Content-Length: 5", LENGTH), BODY),
        (("Host: x", "Content-Length: -1"), b""),
        (("Host: x", "Content-Length: 1e2"), BODY),
        (("Host: x", "Content-Length: +5"), BODY),
        (("Host: x", "Transfer-Encoding: chunked, identity"), BODY),
        (("Host: x", "Transfer-Encoding: xchunked"), BODY),
        (("Host: x", "Transfer-Encoding: chunked"), b"zz\r\nhello\r\n0\r\n\r\n"),
        (("Host: x", "Transfer-Encoding: chunked"), b"-5\r\nhello\r\n0\r\n\r\n"),
        (("Host: x", "Transfer-Encoding: chunked"), b"5\r\nhello_world\r\n0\r\n\r\n"),
        (("Host: x", LENGTH, "x-nul: a\0b"), BODY),
        (("Host: x", LENGTH, " folded: yes"), BODY),
        (("Host: x", LENGTH, "no-colon"), BODY),
        (("Host : x", LENGTH), BODY),
    ],
)
async def test_doubtful_framing_is_refused_and_the_connection_closed(
    fleet: Fleet, api_key: str, fields: tuple[str, ...], body: bytes
) -> None:
    before = raw_counters(fleet.store, key_id(api_key))
    # What follows must not be taken for a second request.
    smuggled = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
    status, answer, closes = await exchange(fleet, head(api_key, *fields) + body + smuggled)
    assert 400 <= status < 500
    assert closes
    assert json.loads(answer)["error"]["type"] == "invalid_request_error"
    assert api_key.encode() not in answer
    assert raw_counters(fleet.store, key_id(api_key)) == before


async def test_a_duplicate_host_changes_nothing(fleet: Fleet) -> None:
    """No route depends on the host: such a request is either refused or decided once, by its key."""
    api_key = fleet.new_key()
    status, _, _ = await exchange(fleet, head(api_key, "Host: x", "Host: y", LENGTH) + BODY)
    assert status in (200, 400)


async def test_a_chunked_body_is_read(fleet: Fleet, api_key: str) -> None:
    chunked = b"%x\r\n%b\r\n0\r\n\r\n" % (len(BODY), BODY)
    status, _, _ = await exchange(fleet, head(api_key, "Host: x", "Transfer-Encoding: chunked") + chunked)
    assert status == 200


@pytest.mark.parametrize("encoding", ["chunked", "gzip", "length"])
async def test_an_oversize_body_is_a_413_however_it_comes(fleet: Fleet, api_key: str, encoding: str) -> None:
    before = raw_counters(fleet.store, key_id(api_key))
    large = json.dumps({"model": "m", "x": "a" * 2 * MAX_BODY}).encode()
    if encoding == "chunked":
        request = head(api_key, "Host: x", "Transfer-Encoding: chunked") + b"%x\r\n" % len(large) + large
    elif encoding == "gzip":
        squeezed = gzip.compress(large)
        assert len(squeezed) < MAX_BODY / 10
        request = head(api_key, "Host: x", "Content-Encoding: gzip", f"Content-Length: {len(squeezed)}") + squeezed
    else:
        request = head(api_key, "Host: x", f"Content-Length: {len(large)}") + large
    status, answer, _ = await exchange(fleet, request)
    assert status == 413
    assert json.loads(answer)["error"]["code"] == "request_too_large"
    assert raw_counters(fleet.store, key_id(api_key)) == before


async def test_a_body_that_is_not_the_gzip_it_claims_is_a_400(fleet: Fleet, api_key: str) -> None:
    status, answer, _ = await exchange(fleet, head(api_key, "Host: x", "Content-Encoding: gzip", LENGTH) + BODY)
    assert status == 400
    assert json.loads(answer)["error"]["type"] == "invalid_request_error"


def resident_kib(fleet: Fleet) -> int:
    """Of the nodes, without their store."""
    total = 0
    for task in Path(f"/proc/{fleet.process.pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            if b"serve" in Path(f"/proc/{child}/cmdline").read_bytes().split(b"\0"):
                lines = Path(f"/proc/{child}/status").read_text().splitlines()
                total += next(int(line.split()[1]) for line in lines if line.startswith("VmRSS"))
    return total


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="reads /proc")
async def test_oversize_bodies_leave_memory_flat(fleet: Fleet, api_key: str) -> None:
    squeezed = gzip.compress(b'{"x":"' + b"a" * 3 * MAX_BODY + b'"}')
    request = head(api_key, "Host: x", "Content-Encoding: gzip", f"Content-Length: {len(squeezed)}") + squeezed

    async def flood() -> None:
        for _ in range(5):
            answers = await asyncio.gather(*(exchange(fleet, request) for _ in range(10)))
            statuses = {status for status, _, _ in answers}
            # Ten of the largest are more than the budget for all bodies.
            assert 413 in statuses
            assert statuses <= {413, 503}

    await flood()
    before = resident_kib(fleet)
    await flood()
    # 3 GB were sent, unpacked.
    assert resident_kib(fleet) - before < 64 * 1024
    async with many_connections() as session:
        assert (await chat(session, fleet.nodes[0], api_key, max_tokens=5))[0].status == 200
