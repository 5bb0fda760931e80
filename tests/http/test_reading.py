"""Requests of any size are read alike, and what is large holds up nobody."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import tracemalloc
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import orjson
import pytest
from test_token_process import exact, noise, prose
from yarl import URL

from limiter_node import second_process as worker_process
from limiter_node.decisions import Need
from limiter_node.errors import Overloaded
from limiter_node.http.requests.fields import InvalidRequest
from limiter_node.http.requests.json_body import MAX_VALUES, check_values
from limiter_node.http.requests.limited_routes import LIMITED_ROUTES
from limiter_node.http.requests.reader import LARGE_VALUES, SMALL_BYTES, RequestReader, is_large
from limiter_node.telemetry import Telemetry
from limiter_node.tokens import cache as token_cache
from limiter_node.tokens.process import INLINE_CHARS
from limiter_node.upstream.errors import NotServed, UnknownModel
from limiter_node.upstream.gateway.service import Service
from limiter_node.upstream.gateway.upstream import Gateway
from limiter_node.upstream.interface import Prepared
from limiter_node.upstream.mock.model import MockModel
from limiter_node.upstream.rendered import RenderedUpstream

CHAT, COMPLETION, RESPONSES, EMBEDDING = LIMITED_ROUTES
SERVICE = Service(
    name="s", urls=(URL("http://127.0.0.1:1/v1"),), key="secret", models=("gpt-*",), rename=(("gpt-4", "other"),)
)


@pytest.fixture
async def reader() -> AsyncIterator[RequestReader]:
    gateway = Gateway([SERVICE], Telemetry())
    reader = RequestReader(gateway)
    yield reader
    await reader.close()
    await gateway.close()


def chat(*contents: Any, model: str = "gpt-4o", **fields: Any) -> bytes:
    messages = [{"role": "user", "content": content} for content in contents]
    return orjson.dumps({"model": model, "messages": messages, **fields})


def facts(prepared: Prepared) -> tuple[Any, bytes]:
    """What a service would be told, and how its answer would be read."""
    return prepared._outline, prepared._body.with_cap(7)  # type: ignore[attr-defined]


async def read_here(reader: RequestReader, path: str, body: bytes) -> tuple[Need, tuple[Any, bytes]]:
    """As a small request is read."""
    route, upstream = LIMITED_ROUTES[path], reader._upstream
    asked = route.parse(body)
    draft = upstream.drafter.draft(asked, body)
    return route.need(asked, draft), facts(upstream.prepared(draft))


PARTS = [{"type": "text", "text": noise(9_000, 21)}, {"type": "text", "text": "hello"}]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (CHAT, chat(prose(3_000, 1))),
        (CHAT, chat(prose(30_000, 1), "short", max_tokens=5)),
        (CHAT, chat(prose(70_000, 1), "short", n=2)),
        (CHAT, chat(noise(40_000, 2), PARTS, n=2, stream=True)),
        (CHAT, chat(prose(90_000, 3), model="gpt-4", max_completion_tokens=9)),
        (CHAT, b" " + chat(prose(90_000, 3), max_tokens=9) + b"\r\n"),
        (CHAT, chat("Hi", tools=[{"type": "function", "function": {"name": "f", "description": "x" * 70_000}}])),
        (CHAT, b'{"max_tokens":9,' + chat(prose(90_000, 3), max_tokens=5)[1:]),
        (COMPLETION, orjson.dumps({"model": "gpt-4o", "prompt": [prose(400, n) for n in range(300)], "n": 2})),
        (COMPLETION, orjson.dumps({"model": "gpt-4o", "prompt": [[n] * 100 for n in range(300)]})),
        (RESPONSES, orjson.dumps({"model": "gpt-4o", "input": prose(90_000, 4), "instructions": "Be short."})),
        (EMBEDDING, orjson.dumps({"model": "gpt-4o", "input": [prose(400, n) for n in range(300)]})),
        (EMBEDDING, orjson.dumps({"model": "gpt-4o", "input": [prose(400, n) for n in range(30)]})),
    ],
)
async def test_a_request_of_any_size_is_read_alike(reader: RequestReader, path: str, body: bytes) -> None:
    need, prepared = await reader.read(LIMITED_ROUTES[path], body)
    assert (need, facts(prepared)) == await read_here(reader, path, body)
    assert reader.worker.answered == is_large(body) or len(body) < SMALL_BYTES


@pytest.mark.parametrize(
    "body",
    [
        chat(prose(90_000, 5), n=0),
        chat(prose(90_000, 5), stream_options={}),
        chat(prose(90_000, 5))[:-1],
        chat(prose(90_000, 5), n_predict=5),
        chat(prose(90_000, 5), Max_Tokens=5),
        chat(prose(90_000, 5), model="unknown"),
        chat(prose(90_000, 5), model="gpt-4")[:-1] + b',"x":' + b"[" * 600 + b"]" * 600 + b"}",
        b"[" + b"1," * 50_000 + b"1]",
        b"x" * 100_000,
        b"",
    ],
)
async def test_what_is_refused_is_refused_alike(reader: RequestReader, body: bytes) -> None:
    with pytest.raises((InvalidRequest, NotServed)) as here:
        await read_here(reader, CHAT, body)
    with pytest.raises(type(here.value)) as apart:
        await reader.read(LIMITED_ROUTES[CHAT], body)
    assert vars(apart.value) == vars(here.value)
    assert str(apart.value) == str(here.value)


async def test_a_model_that_nobody_serves_is_told_by_its_name(reader: RequestReader) -> None:
    with pytest.raises(UnknownModel) as error:
        await reader.read(LIMITED_ROUTES[CHAT], chat(prose(90_000, 5), model="unknown"))
    assert error.value.model == "unknown"


def test_what_is_large() -> None:
    assert not is_large(b"x" * SMALL_BYTES)
    assert is_large(b"x" * (SMALL_BYTES + 1))
    assert not is_large(b"[{,:" * (LARGE_VALUES // 4))
    assert is_large(b"[{,:" * (LARGE_VALUES // 4) + b",")


# A bound on values


def values(count: int) -> bytes:
    """A body of at least so many."""
    return chat("Hi")[:-1] + b',"x":[' + b"[]," * (count // 2) + b"[]]}"


async def test_too_many_values_are_refused_before_they_are_parsed(reader: RequestReader) -> None:
    body = values(MAX_VALUES + 2)
    with pytest.raises(InvalidRequest) as error:
        await reader.read(LIMITED_ROUTES[CHAT], body)
    assert error.value.message == "Your request has too many JSON values. Expected 1,000,000 or fewer."
    assert (error.value.param, error.value.code) == (None, "too_many_values")
    # Whatever is wrong with it beside that: it isn't parsed.
    with pytest.raises(InvalidRequest, match="too many JSON values"):
        await reader.read(LIMITED_ROUTES[CHAT], body[:-1])


def test_so_many_values_may_be() -> None:
    check_values(b"[" + b"1," * (MAX_VALUES - 1) + b"1]")
    with pytest.raises(InvalidRequest):
        check_values(b"[" + b"1," * MAX_VALUES + b"1]")
    check_values(b"1" * 2 * MAX_VALUES)


# What is large holds up nobody


class Turns:
    """Counts the turns of the event loop: not time, since where the machine is slow all is slow together."""

    def __enter__(self) -> Turns:
        self.count = 0
        self._task = asyncio.create_task(self._beat())
        return self

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(0)
            self.count += 1

    def __exit__(self, *_: object) -> None:
        self._task.cancel()


async def test_the_loop_turns_while_a_large_request_is_read(reader: RequestReader) -> None:
    await reader.read(LIMITED_ROUTES[CHAT], chat(prose(90_000, 6)))  # the process runs
    body = chat(noise(1_500_000, 30))
    with Turns() as turns:
        need, _ = await reader.read(LIMITED_ROUTES[CHAT], body)
    assert need.input_tokens > 600_000
    # The body goes over in parts, a turn or more for each.
    assert turns.count > len(body) // worker_process.PART_BYTES


async def test_the_node_looks_at_no_byte_of_a_large_request(
    reader: RequestReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    def looks(*_: object) -> None:
        raise AssertionError("parsed in the node")

    for name in ("loads", "dumps"):
        monkeypatch.setattr(orjson, name, looks)
    need, prepared = await reader.read(LIMITED_ROUTES[CHAT], LARGE)
    assert need.input_tokens == exact(TEXT, "gpt-4o") + 7
    assert prepared._body.data is LARGE  # type: ignore[attr-defined]


TEXT = prose(90_000, 8)
LARGE = chat(TEXT, max_tokens=5)


async def test_short_work_goes_first(reader: RequestReader, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_process, "_BYTES_PER_S", 0)
    done: list[int] = []

    async def read(size: int) -> None:
        await reader.read(LIMITED_ROUTES[CHAT], chat(prose(size, size)))
        done.append(size)

    await asyncio.gather(*map(read, (400_000, 300_000, 100_000, 200_000)))
    assert done == [100_000, 200_000, 300_000, 400_000]


async def test_what_waits_long_goes_first(reader: RequestReader, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_process, "_BYTES_PER_S", 10**15)  # a moment weighs more than any size
    done: list[int] = []

    async def read(size: int) -> None:
        await reader.read(LIMITED_ROUTES[CHAT], chat(prose(size, size)))
        done.append(size)

    sizes = (200_000, 300_000, 100_000)
    await asyncio.gather(*map(read, sizes))
    assert done == list(sizes)


async def test_who_has_left_is_passed_over(reader: RequestReader) -> None:
    first, second = (asyncio.create_task(reader.read(LIMITED_ROUTES[CHAT], chat(prose(400_000, n)))) for n in range(2))
    await asyncio.sleep(0)
    second.cancel()
    await first
    with suppress(asyncio.CancelledError):
        await second
    await reader.read(LIMITED_ROUTES[CHAT], chat(prose(90_000, 6)))
    assert reader.worker.answered == 2


async def test_who_has_left_leaves_no_body_behind(reader: RequestReader) -> None:
    tracemalloc.start()
    try:
        first = asyncio.create_task(reader.read(LIMITED_ROUTES[CHAT], chat(prose(400_000, 1))))
        await asyncio.sleep(0)
        held_bytes, _ = tracemalloc.get_traced_memory()
        for _ in range(20):
            leaving = asyncio.create_task(reader.read(LIMITED_ROUTES[CHAT], b"x" * 1_000_000))
            await asyncio.sleep(0)
            leaving.cancel()
            with suppress(asyncio.CancelledError):
                await leaving
            del leaving
        assert not first.done()
        assert tracemalloc.get_traced_memory()[0] - held_bytes < 5_000_000
    finally:
        tracemalloc.stop()
    await first


async def test_who_leaves_while_the_process_works_ends_nothing(reader: RequestReader) -> None:
    await reader.read(LIMITED_ROUTES[CHAT], chat(prose(90_000, 6)))
    process = reader.worker._process
    leaving = asyncio.create_task(reader.read(LIMITED_ROUTES[CHAT], chat(prose(400_000, 7))))
    await asyncio.sleep(0.001)
    leaving.cancel()
    with suppress(asyncio.CancelledError):
        await leaving
    need, _ = await reader.read(LIMITED_ROUTES[CHAT], chat(prose(90_000, 8)))
    assert need.input_tokens == exact(prose(90_000, 8), "gpt-4o") + 7
    assert reader.worker._process is process


async def test_a_process_that_dies_of_a_request_is_started_again(reader: RequestReader) -> None:
    await reader.read(LIMITED_ROUTES[CHAT], chat(prose(90_000, 6)))
    process = reader.worker._process
    assert process is not None
    os.kill(process.pid, signal.SIGSTOP)
    reading = asyncio.create_task(reader.read(LIMITED_ROUTES[CHAT], chat(prose(90_000, 9))))
    await asyncio.sleep(0)
    process.kill()
    need, _ = await reading
    assert need.input_tokens == exact(prose(90_000, 9), "gpt-4o") + 7


async def test_who_waits_when_the_node_stops_is_told_so(reader: RequestReader) -> None:
    reading = [asyncio.create_task(reader.read(LIMITED_ROUTES[CHAT], chat(prose(400_000, n)))) for n in range(3)]
    await asyncio.sleep(0)
    await reader.close()
    assert [type(each) for each in await asyncio.gather(*reading, return_exceptions=True)] == [Overloaded] * 3


def test_the_other_process_is_told_no_key(reader: RequestReader) -> None:
    greeting = reader.worker._greeting
    assert greeting is not None
    assert b"gpt-*" in greeting.head
    assert b"secret" not in greeting.head


async def test_the_other_process_has_no_key_in_its_environment(
    reader: RequestReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VLLM_KEY", "sk-of-the-service")
    await reader.read(LIMITED_ROUTES[CHAT], chat(prose(90_000, 6)))
    process = reader.worker._process
    assert process is not None
    has = await asyncio.to_thread(Path(f"/proc/{process.pid}/environ").read_bytes)
    assert b"PATH=" in has
    assert b"sk-of-the-service" not in has


async def test_what_the_mock_repeats_may_be_as_deep_as_json_is() -> None:
    """It is pickled on its way, which has another limit."""
    reader = RequestReader(RenderedUpstream(MockModel(latency_ms=0, length="fixed:1", seed=1)))
    text = orjson.dumps(prose(90_000, 6))
    try:
        for depth in (200, 900):
            deep = b"[" * depth + b"]" * depth
            body = b'{"model":"m","input":%b,"reasoning":{"x":%b}}' % (text, deep)
            with suppress(InvalidRequest):
                await reader.read(LIMITED_ROUTES[RESPONSES], body)
        assert reader.worker.answered == 2
    finally:
        await reader.close()


async def test_a_mistake_of_ours_ends_one_request_only(reader: RequestReader) -> None:
    with pytest.raises(RuntimeError, match="KeyError"):
        await reader.read(replace(LIMITED_ROUTES[CHAT], path="/v1/none"), LARGE)
    await reader.read(LIMITED_ROUTES[CHAT], LARGE)


def test_the_other_process_loads_no_server() -> None:
    """It starts while a request waits for it, and holds memory."""
    loads = "import sys, limiter_node.http.requests.reader_process, limiter_node.upstream.gateway.asking.drafting, "
    loads += "limiter_node.upstream.rendered; print(*sys.modules)"
    modules = subprocess.run([sys.executable, "-c", loads], capture_output=True, check=True, text=True).stdout.split()
    assert "limiter_node.http.requests.reader_process" in modules
    assert not {"aiohttp", "redis", "click", "prometheus_client"} & set(modules)


async def test_a_small_request_needs_no_process(reader: RequestReader) -> None:
    await reader.read(LIMITED_ROUTES[CHAT], chat(noise(INLINE_CHARS - 200, 2)))
    assert reader.worker._process is None


@pytest.mark.parametrize("repeats", [400, 5_000])
async def test_a_suffix_is_looked_up_once_for_all_prompts(
    reader: RequestReader, monkeypatch: pytest.MonkeyPatch, repeats: int
) -> None:
    suffix, digests = "hello " * 5 * repeats, []
    monkeypatch.setattr(token_cache, "sha256", lambda data: digests.append(len(data)) or sha256(data))
    body = orjson.dumps({"model": "gpt-4o", "prompt": [""] * 100, "suffix": suffix})
    need, _ = await read_here(reader, COMPLETION, body)
    assert need.input_tokens == 100 * (1 + exact(suffix, "gpt-4o"))
    assert len(digests) <= 2  # once to find it, once to keep it
    digests.clear()
    need, _ = await reader.read(LIMITED_ROUTES[COMPLETION], body)
    assert need.input_tokens == 100 * (1 + exact(suffix, "gpt-4o"))
    assert len(digests) <= 2


@pytest.mark.parametrize(("model", "names"), [("gpt-4", ("gpt-4", "other")), ("gpt-4o", ("gpt-4o",))])
@pytest.mark.parametrize("size", [1, INLINE_CHARS, SMALL_BYTES])
async def test_a_need_has_all_names_of_the_model(
    reader: RequestReader, model: str, names: tuple[str, ...], size: int
) -> None:
    """Read at once, in slices, and by the second process."""
    need, _ = await reader.read(LIMITED_ROUTES[CHAT], chat("word " * size, model=model))
    assert need.models == names
    assert reader.model_names(model) == names
    assert reader.model_names("served-by-nobody") == ("served-by-nobody",)


async def test_the_mock_calls_models_as_callers_do() -> None:
    upstream = RenderedUpstream(MockModel(latency_ms=0, length="fixed:4", seed=0))
    reader = RequestReader(upstream)
    need, _ = await reader.read(LIMITED_ROUTES[CHAT], chat("hello", model="gpt-4"))
    assert need.models == reader.model_names("gpt-4") == ("gpt-4",)
    await reader.close()
