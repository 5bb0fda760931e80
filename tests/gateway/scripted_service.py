"""An OpenAI-compatible service that does what a test tells it, down to the bytes on the wire."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from raw_server import RawServer

USAGE = {"prompt_tokens": 5, "completion_tokens": 3, "total_tokens": 8}


@dataclass
class Asked:
    """One request, as it came."""

    method: str
    path: str
    headers: dict[str, str]
    """By lowered name. A name that came twice is a failure of the gateway."""
    body: bytes
    connection: int
    """The connections are numbered from 1."""
    left: asyncio.Event = field(default_factory=asyncio.Event)
    """Whoever asked has closed the connection."""

    @property
    def fields(self) -> dict[str, Any]:
        """The body; every field once."""

        def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
            assert len({name for name, _ in pairs}) == len(pairs), pairs
            return dict(pairs)

        fields = json.loads(self.body, object_pairs_hook=once)
        assert isinstance(fields, dict)
        return fields


Script = Callable[[Asked, asyncio.StreamWriter], Awaitable[None]]


class ScriptedService:
    """`script` answers; closing the writer closes the connection, else it is kept."""

    def __init__(self) -> None:
        self.script: Script = answers_chat
        self.asked: list[Asked] = []
        self.connections = 0
        self.base_url = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        number = self.connections
        while (head := await reader.readuntil(b"\r\n\r\n")) and not writer.is_closing():
            line, *lines = head.decode("latin-1").removesuffix("\r\n\r\n").split("\r\n")
            method, path, _ = line.split(" ")
            headers: dict[str, str] = {}
            for each in lines:
                name, _, value = each.partition(":")
                assert name.lower() not in headers, f"{name} came twice"
                headers[name.lower()] = value.strip()
            body = await reader.readexactly(int(headers.get("content-length", 0)))
            asked = Asked(method, path, headers, body, number)
            self.asked.append(asked)
            watching = asyncio.create_task(self._watch(reader, asked))
            try:
                await self.script(asked, writer)
                await writer.drain()
            except ConnectionError:  # it noticed while it wrote
                asked.left.set()
                raise
            finally:
                watching.cancel()

    async def _watch(self, reader: asyncio.StreamReader, asked: Asked) -> None:
        while not reader.at_eof() and reader.exception() is None:  # nothing is read away from the next request
            await asyncio.sleep(0.002)
        asked.left.set()


@asynccontextmanager
async def running_service(port: int = 0) -> AsyncIterator[ScriptedService]:
    """On a free port of loopback, or on that one."""
    service = ScriptedService()
    async with RawServer(service.serve, port) as server:
        service.base_url = f"{server.url}/v1"
        yield service


def http(body: bytes, status: int = 200, content_type: str = "application/json", **headers: str) -> bytes:
    """A response with its length; `_` in a header's name stands for `-`."""
    lines = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
    head = f"HTTP/1.1 {status} Whatever\r\nContent-Type: {content_type}\r\nContent-Length: {len(body)}\r\n{lines}\r\n"
    return head.encode() + body


def says(response: bytes, *, then_close: bool = False) -> Script:
    """A script that always writes this."""

    async def script(_asked: Asked, writer: asyncio.StreamWriter) -> None:
        writer.write(response)
        if then_close:
            writer.close()

    return script


def completion(usage: dict[str, Any] | None = USAGE, **fields: Any) -> bytes:
    """A chat completion, spelled as ours never is."""
    message = {"role": "assistant", "content": "Hello there you"}
    answer = {
        "id": "chatcmpl-x",
        "object": "chat.completion",
        "vendor_field": [1.50, "é"],
        "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
        "usage": usage,
        **fields,
    }
    return json.dumps(answer, indent=1).encode()


async def answers_chat(_asked: Asked, writer: asyncio.StreamWriter) -> None:
    """As a service should."""
    writer.write(http(completion()))


STREAM_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\nTransfer-Encoding: chunked\r\n\r\n"
STREAM_END = b"0\r\n\r\n"


def framed(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def chunk(text: str | None = None, finish: str | None = None, usage: dict[str, Any] | None = None) -> bytes:
    """One event of a chat's stream; neither text nor finish: the usage by itself."""
    fields: dict[str, Any] = {"id": "chatcmpl-x", "object": "chat.completion.chunk", "choices": []}
    if text is not None or finish is not None:
        delta = {} if text is None else {"content": text}
        fields["choices"] = [{"index": 0, "delta": delta, "finish_reason": finish}]
    if usage is not None:
        fields["usage"] = usage
    return b"data: %b\n\n" % json.dumps(fields).encode()


DONE = b"data: [DONE]\n\n"


def streams(*parts: bytes, end: bytes = STREAM_END, then_close: bool = False) -> Script:
    """A script that writes a stream, each part by itself."""

    async def script(_asked: Asked, writer: asyncio.StreamWriter) -> None:
        writer.write(STREAM_HEAD)
        for part in parts:
            writer.write(framed(part))
            await writer.drain()
        writer.write(end)
        if then_close:
            writer.close()

    return script
