"""What the faults of a node's edge share: nodes in front of a scripted service, and callers by hand, who may leave."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chaos_scene import Outcome, Scene, eventually, scene, write_keys
from gateway.scripted_service import Asked, Script, ScriptedService, completion, http, running_service

CHAT = "/v1/chat/completions"
LOAD_MODEL = "load"
TEXT, TEXT_TOKENS = "Hello there you", 3
"""What the service says, unless a test has it say something else."""
PATIENCE_S = 10.0


@dataclass(frozen=True)
class Answer:
    """A response, read to its end."""

    status: int
    headers: dict[str, str]
    """By lowered name."""
    body: bytes

    @property
    def error(self) -> dict[str, Any]:
        """OpenAI's error in the body."""
        error = json.loads(self.body)["error"]
        assert isinstance(error, dict)
        return error


def http_request(key: str | None, body: bytes, *lines: str, path: str = CHAT, method: str = "POST") -> bytes:
    """A request's bytes."""
    fields = ["Host: n", "Content-Type: application/json", f"Content-Length: {len(body)}", *lines]
    if key is not None:
        fields.append(f"Authorization: Bearer {key}")
    return "\r\n".join([f"{method} {path} HTTP/1.1", *fields, "", ""]).encode() + body


def address(url: str) -> tuple[str, int]:
    host, _, port = url.partition("://")[2].rpartition(":")
    return host, int(port)


async def ask(url: str, key: str | None, body: bytes = b"", *lines: str, **where: str) -> Answer:
    """One request on a connection of its own."""
    reader, writer = await asyncio.open_connection(*address(url))
    try:
        async with asyncio.timeout(PATIENCE_S):
            writer.write(http_request(key, body, *lines, **where))
            return await read_answer(reader, has_body=where.get("method") != "HEAD")
    finally:
        writer.transport.abort()


async def read_answer(reader: asyncio.StreamReader, *, has_body: bool = True) -> Answer:
    """Read one response."""
    head = await reader.readuntil(b"\r\n\r\n")
    status, *fields = head.decode("latin-1").split("\r\n")[:-2]
    headers: dict[str, str] = {}
    for field in fields:
        name, _, value = field.partition(": ")
        headers[name.lower()] = value
    body = b""
    if has_body and "content-length" in headers:
        body = await reader.readexactly(int(headers["content-length"]))
    elif has_body and headers.get("transfer-encoding") == "chunked":
        while size := int(await reader.readuntil(b"\r\n"), 16):
            body += await reader.readexactly(size)
            await reader.readexactly(2)
        await reader.readexactly(2)
    return Answer(int(status.split()[1]), headers, body)


async def ask_and_leave(
    url: str,
    key: str,
    body: bytes,
    *,
    seen: bytes = b"",
    after: int = 0,
    when: Awaitable[object] | None = None,
    path: str = CHAT,
) -> None:
    """Ask, and close the connection as soon as `seen`, or that many bytes, have come back; or when `when` has ended."""
    reader, writer = await asyncio.open_connection(*address(url))
    try:
        async with asyncio.timeout(PATIENCE_S):
            writer.write(http_request(key, body, path=path))
            if when is not None:
                await when
            held = b""
            while (seen and seen not in held) or len(held) < after:
                data = await reader.read(65_536 if not after else after - len(held))
                if not data:
                    break
                held += data
    finally:
        writer.transport.abort()


def chat(model: str, content: str = "Hello", **fields: object) -> bytes:
    """A chat request's body."""
    return json.dumps({"model": model, "messages": [{"role": "user", "content": content}], **fields}).encode()


class Edge:
    """Nodes in front of a service that does what its model's name says."""

    def __init__(self, on: Scene, service: ScriptedService, scripts: dict[str, Script]) -> None:
        self.on, self.service, self.scripts = on, service, scripts
        self.node = on.fleet.nodes[0]

    def asked(self, model: str) -> int:
        """How often the service was asked for that model."""
        return sum(asked.fields["model"] == model for asked in self.service.asked if asked.body)

    async def keys(self, name: str, count: int, rpm: int = 1_000_000) -> tuple[Path, list[str]]:
        """Declare so many keys; their file and the keys."""
        path = write_keys(self.on.directory / f"{name}.toml", rpm, name, count)
        await self.on.declare(path)
        return path, [f"sk-{name}-{number}" for number in range(count)]

    async def output_of(self, keys: Path) -> list[int]:
        """Output tokens in the windows of these keys, in the file's order."""
        return [usage.used.output_tokens for usage in await self.on.usages(keys)]

    async def settles_at(self, keys: Path, expected: Sequence[int], names: Sequence[str]) -> None:
        """Wait until the windows hold these output tokens; fails with those that don't."""

        async def is_settled() -> bool:
            return await self.output_of(keys) == list(expected)

        try:
            await eventually(is_settled, PATIENCE_S)
        except TimeoutError:
            held = await self.output_of(keys)
            wrong = {name: pair for name, *pair in zip(names, held, expected, strict=True) if pair[0] != pair[1]}
            raise AssertionError(f"charged, and what is right: {wrong}") from None

    async def beside_load(self, cases: Callable[[], Awaitable[None]], seconds: float = 6, qps: int = 50) -> Outcome:
        """Let the cases happen while others ask on; what these saw."""
        return await self.on.under_load(cases, seconds, qps=qps, before_s=0.5, arguments=("--model", LOAD_MODEL))


async def _answers_load(_asked: Asked, writer: asyncio.StreamWriter) -> None:
    usage = {"prompt_tokens": 1, "completion_tokens": TEXT_TOKENS, "total_tokens": 1 + TEXT_TOKENS}
    writer.write(http(completion(usage)))


@asynccontextmanager
async def edge(
    directory: Path, binary: str | None, scripts: Mapping[str, Script] | None = None, *arguments: str
) -> AsyncIterator[Edge]:
    """Two nodes, started with `arguments`, in front of a service with these scripts by model."""
    async with running_service() as service:
        known: dict[str, Script] = {LOAD_MODEL: _answers_load, **(scripts or {})}

        async def script(asked: Asked, writer: asyncio.StreamWriter) -> None:
            model = asked.fields.get("model", LOAD_MODEL) if asked.body else LOAD_MODEL
            await known[model](asked, writer)

        service.script = script
        async with scene(directory, binary, "--upstream", service.base_url, *arguments, rpm=1_000_000) as on:
            yield Edge(on, service, known)


def assert_unharmed(outcome: Outcome) -> None:
    """Nobody beside the fault noticed."""
    assert not outcome.errors, outcome
    assert outcome.rejected == 0, outcome
    assert outcome.admitted == outcome.requests, outcome
    assert outcome.proved, outcome.audit
