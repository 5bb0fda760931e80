"""Bytes and bodies that nobody thought of: never a 500, never a hang, nothing counted but what was answered by 200.

Seeded, so that what fails fails again. ``FUZZ_ROUNDS`` makes it longer (`make fuzz`).
"""

from __future__ import annotations

import asyncio
import json
import os
from copy import deepcopy
from random import Random
from typing import Any

import pytest
from aiohttp import ClientSession
from fleet import Fleet, many_connections, rate_limits

ROUNDS = int(os.environ.get("FUZZ_ROUNDS", "1"))
RAW, BODIES = 300 * ROUNDS, 600 * ROUNDS
AT_ONCE = 20

ROUTES: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {
        "model": "gpt-4o",
        "messages": [
            {"role": "user", "content": "Hi"},
            {"role": "assistant", "content": [{"type": "text", "text": "x"}]},
        ],
        "max_tokens": 5,
        "n": 1,
        "stop": ["a"],
        "stream": False,
        "tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}],
        "response_format": {"type": "json_schema", "json_schema": {"name": "s", "schema": {"type": "object"}}},
    },
    "/v1/completions": {
        "model": "gpt-4o",
        "prompt": ["Hi", "you"],
        "max_tokens": 5,
        "n": 1,
        "best_of": 2,
        "echo": True,
    },
    "/v1/responses": {
        "model": "gpt-4o",
        "input": [{"role": "user", "content": [{"type": "input_text", "text": "Hi"}]}],
        "instructions": "Be brief",
        "max_output_tokens": 5,
    },
    "/v1/embeddings": {"model": "text-embedding-3-small", "input": ["Hi"], "dimensions": 8, "encoding_format": "float"},
}
ODD: list[Any] = [
    None, True, False, -1, 0, 1, 2**31, 2**63, 2**64, -(2**64), 1.0, 1e400, float("nan"), 0.5, "", "5", "\0", "\ud800",
    "x" * 300, [], [[]], {}, {"type": None}, [None], ["a", 1], [1, "a"], {"a": {"b": {}}}, "sk-x", "{}", "\r\n",
]  # fmt: skip


def odd(rng: Random) -> Any:
    return deepcopy(rng.choice(ODD))


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The path of everything in a document."""
    found = [path]
    if isinstance(value, dict):
        for key in value:
            found += places(value[key], (*path, key))
    elif isinstance(value, list):
        for index in range(len(value)):
            found += places(value[index], (*path, index))
    return found


def changed(document: Any, rng: Random) -> Any:
    """A copy in which one to three places hold something odd, are gone, or have a neighbour that nobody asked for."""
    copy = json.loads(json.dumps(document))
    for _ in range(rng.randint(1, 3)):
        path = rng.choice(places(copy))
        if not path:
            if rng.random() < 0.1:
                return odd(rng)
            continue
        holder = copy
        for step in path[:-1]:
            holder = holder[step]
        match rng.randrange(4):
            case 0 if isinstance(holder, dict):
                del holder[path[-1]]
            case 1 if isinstance(holder, dict):
                holder[rng.choice(("user", "x", "seed", "logprobs", "", "__class__"))] = odd(rng)
            case 2 if isinstance(holder, list):
                holder.append(odd(rng))
            case _:
                holder[path[-1]] = odd(rng)
    return copy


def written(document: Any, rng: Random) -> bytes:
    """As JSON, now and then broken."""
    body = json.dumps(document).encode("utf-8", "surrogatepass")
    match rng.randrange(8):
        case 0:
            return body[: rng.randrange(len(body) + 1)]
        case 1:
            at = rng.randrange(len(body) + 1)
            return body[:at] + bytes(rng.choices(range(256), k=rng.randint(1, 8))) + body[at:]
        case 2:
            return body.replace(b'"', b"", 1)
        case _:
            return body


@pytest.mark.timeout(60 + 3 * ROUNDS)
async def test_bodies(fleet: Fleet) -> None:
    rng, api_key = Random(20261), fleet.new_key()
    answered = admitted = 0

    async def ask(session: ClientSession, path: str, body: bytes) -> None:
        nonlocal answered, admitted
        headers = {"Authorization": f"Bearer {api_key}", "Content-Type": "application/json"}
        async with (
            asyncio.timeout(20),
            session.post(f"{rng.choice(fleet.nodes)}{path}", data=body, headers=headers) as response,
        ):
            read = await response.read()
        assert response.status in (200, 400, 413, 429), (response.status, body, read)
        if response.status != 200:
            error = json.loads(read)["error"]
            assert error["message"], body
            assert api_key not in read.decode()
        answered += 1
        admitted += response.status == 200

    async with many_connections() as session:
        cases = [(path, written(changed(ROUTES[path], rng), rng)) for path in rng.choices(list(ROUTES), k=BODIES)]
        for start in range(0, BODIES, AT_ONCE):
            await asyncio.gather(*(ask(session, *case) for case in cases[start : start + AT_ONCE]))
        assert answered == BODIES
        assert 0 < admitted < BODIES / 2
        limits = await rate_limits(session, fleet.nodes[0], api_key)
        assert limits["used"]["requests"] == admitted, "what was refused counts for nothing"


CONTROL = (b"\r\n", b"\n", b"\r", b"\0", b": ", b"Transfer-Encoding: chunked\r\n", b"\xff")


def request(api_key: str, path: str, rng: Random) -> bytes:
    """A whole request, and then bytes of it changed, taken out, doubled or put in."""
    body = json.dumps(ROUTES[path]).encode()
    raw = bytearray(
        b"POST %b HTTP/1.1\r\nHost: node\r\nAuthorization: Bearer %b\r\nContent-Length: %d\r\n\r\n%b"
        % (path.encode(), api_key.encode(), len(body), body)
    )
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(raw) - len(body) if rng.random() < 0.8 else len(raw))
        match rng.randrange(5):
            case 0:
                raw[at] = rng.randrange(256)
            case 1:
                del raw[at : at + rng.randint(1, 12)]
            case 2:
                raw[at:at] = raw[at : at + rng.randint(1, 40)]
            case 3:
                raw[at:at] = rng.choice(
                    (b"\r\n", b"\n", b"\r", b"\0", b": ", b"Transfer-Encoding: chunked\r\n", b"\xff")
                )
            case _:
                del raw[at:]
                break
    return bytes(raw)


@pytest.mark.timeout(60 + 3 * ROUNDS)
async def test_raw_bytes(fleet: Fleet) -> None:
    rng, api_key = Random(20262), fleet.new_key()
    host, _, port = fleet.nodes[0].removeprefix("http://").rpartition(":")
    admitted = 0

    async def send(raw: bytes) -> None:
        """All of it, and then nothing more: so the node knows that nothing else will come."""
        nonlocal admitted
        reader, writer = await asyncio.open_connection(host, int(port))
        try:
            async with asyncio.timeout(20):
                writer.write(raw)
                writer.write_eof()
                read = await reader.read()
        except ConnectionResetError:
            return  # it was closed before all was read
        finally:
            writer.transport.abort()
        if read:
            status = int(read.split(b" ", 2)[1])
            assert status != 500, (raw, read)
            assert 200 <= status < 600, (raw, read)
            if not (b"200 OK" in read and b"x-limiter-reserved-output" in read):
                assert api_key.encode() not in read
        admitted += read.count(b"x-limiter-reserved-output")

    cases = [request(api_key, path, rng) for path in rng.choices(list(ROUTES), k=RAW)]
    for start in range(0, RAW, AT_ONCE):
        await asyncio.gather(*(send(case) for case in cases[start : start + AT_ONCE]))
    async with many_connections() as session:
        async with session.get(f"{fleet.nodes[0]}/healthz") as response:
            assert response.status == 200
        used = (await rate_limits(session, fleet.nodes[0], api_key))["used"]["requests"]
        # A node that finds its client gone when it has the verdict has counted the request, and nobody has the answer.
        assert admitted <= used <= RAW
