"""``python -m attack.service``: a service that does what the model's name says (``good``, ``bomb``, ``drips``, …), on a
free port of loopback, which it prints. ``--sink``: a server that takes any request and answers 401. ``--bomb``: make
the bomb before the first request asks for it, which takes seconds.

It makes its other bytes at the start and gives way to all others on its cores.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import sys
from collections.abc import Awaitable, Callable
from typing import cast

import uvloop

from .bodies import MIB, bomb

USAGE = {"prompt_tokens": 8, "completion_tokens": 2, "total_tokens": 10}
_MODEL = re.compile(rb'"model":\s*"([^"]*)"')
_LENGTH = re.compile(rb"content-length:\s*(\d+)", re.IGNORECASE)
THINKS_S = 30.0
DRIP_S = 0.2
BOMB_MIB = 1_024

Say = Callable[[asyncio.StreamWriter], Awaitable[None]]


def _whole(body: bytes, status: str = "200 OK", *lines: str) -> bytes:
    fields = ["Content-Type: application/json", f"Content-Length: {len(body)}", *lines]
    return "\r\n".join([f"HTTP/1.1 {status}", *fields, "", ""]).encode() + body


def _chunked(content_type: str, status: str = "200 OK", *lines: str) -> bytes:
    fields = [f"Content-Type: {content_type}", "Transfer-Encoding: chunked", *lines]
    return "\r\n".join([f"HTTP/1.1 {status}", *fields, "", ""]).encode()


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def _event(text: str | None = None, finish: str | None = None) -> bytes:
    delta = {} if text is None else {"content": text}
    choices = [{"index": 0, "delta": delta, "finish_reason": finish}]
    fields = {"id": "x", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": choices}
    return b"data: %b\n\n" % json.dumps(fields).encode()


ANSWER = json.dumps(
    {
        "id": "x",
        "object": "chat.completion",
        "created": 1,
        "model": "m",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": "Hello you"}, "finish_reason": "stop"}],
        "usage": USAGE,
    }
).encode()
GOOD = _whole(ANSWER)
STREAM, JSON = _chunked("text/event-stream"), _chunked("application/json")
DONE = b"data: [DONE]\n\n"
LARGE_START = b'{"object":"list","data":[{"object":"embedding","index":0,"embedding":['
LARGE_END = b'0]}],"usage":{"prompt_tokens":8,"total_tokens":8}}'
NUMBERS = b"0.015625," * (MIB // 9)


async def _thinks(writer: asyncio.StreamWriter) -> None:
    await asyncio.sleep(THINKS_S)
    writer.write(GOOD)


async def _write_large(writer: asyncio.StreamWriter, start: bytes, unit: bytes, end: bytes) -> None:
    writer.write(start)
    for _ in range(100 * 1_000_000 // len(unit)):
        writer.write(unit)
        await writer.drain()
    writer.write(end)


async def _large(writer: asyncio.StreamWriter) -> None:
    await _write_large(writer, JSON + _chunk(LARGE_START), _chunk(NUMBERS), _chunk(LARGE_END) + b"0\r\n\r\n")


async def _large_stream(writer: asyncio.StreamWriter) -> None:
    unit = _chunk(_event("word " * 200) * 50)
    await _write_large(writer, STREAM, unit, _chunk(_event(finish="stop") + DONE) + b"0\r\n\r\n")


async def _one_event(writer: asyncio.StreamWriter) -> None:
    start = STREAM + _chunk(b'data: {"choices":[{"index":0,"delta":{"content":"')
    await _write_large(writer, start, _chunk(b"a " * (MIB // 2)), _chunk(b'"}}]}\n\n' + DONE) + b"0\r\n\r\n")


async def _large_error(writer: asyncio.StreamWriter) -> None:
    start = _chunked("application/json", "400 Bad Request") + _chunk(b'{"error":{"message":"')
    await _write_large(writer, start, _chunk(b"a " * (MIB // 2)), _chunk(b'"}}') + b"0\r\n\r\n")


def _bomb(content_type: str, status: str = "200 OK") -> Say:
    async def say(writer: asyncio.StreamWriter) -> None:
        packed = bomb(BOMB_MIB)
        head = [f"HTTP/1.1 {status}", f"Content-Type: {content_type}", "Content-Encoding: gzip"]
        writer.write("\r\n".join([*head, f"Content-Length: {len(packed)}", "", ""]).encode() + packed)

    return say


def _for_ever(start: bytes, unit: bytes, every_s: float = DRIP_S) -> Say:
    async def say(writer: asyncio.StreamWriter) -> None:
        writer.write(start)
        while not writer.is_closing():
            writer.write(unit)
            await writer.drain()
            await asyncio.sleep(every_s)

    return say


def _tiny(start: bytes, body: bytes) -> Say:
    async def say(writer: asyncio.StreamWriter) -> None:
        writer.write(start)
        chunks = [b"1\r\n%c\r\n" % byte for byte in body]
        for first in range(0, len(chunks), 500):
            writer.write(b"".join(chunks[first : first + 500]))
            await writer.drain()
        writer.write(b"0\r\n\r\n")

    return say


def _padded() -> bytes:
    fields = json.loads(ANSWER)
    fields["choices"][0]["message"]["content"] = "a " * 4_800
    return json.dumps(fields).encode()


def _at_once(unit: bytes, count: int = 100_000) -> Say:
    async def say(writer: asyncio.StreamWriter) -> None:
        writer.write(STREAM)
        for _ in range(count // 1_000):
            writer.write(_chunk(unit * 1_000))
            await writer.drain()
        writer.write(_chunk(_event(finish="stop") + DONE) + b"0\r\n\r\n")

    return say


async def _good(writer: asyncio.StreamWriter) -> None:
    writer.write(GOOD)


SAYS: dict[str, Say] = {
    "good": _good,
    "thinks": _thinks,
    "large": _large,
    "large stream": _large_stream,
    "bomb": _bomb("application/json"),
    "bomb error": _bomb("application/json", "400 Bad Request"),
    "bomb stream": _bomb("text/event-stream"),
    "pings after done": _for_ever(
        STREAM + _chunk(_event("Hello")) + _chunk(_event(finish="stop")) + _chunk(DONE), _chunk(b": ping\n\n")
    ),
    "events after done": _for_ever(
        STREAM + _chunk(_event("Hello")) + _chunk(_event(finish="stop")) + _chunk(DONE), _chunk(_event("more")), 0.01
    ),
    "more after whole": _for_ever(JSON + _chunk(ANSWER), _chunk(b" ")),
    "103s": _for_ever(b"", b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n", 0.01),
    "headers": _for_ever(b"HTTP/1.1 200 OK\r\n", b"X-More: and more\r\n", 0.001),
    "one header": _for_ever(b"HTTP/1.1 200 OK\r\nX-More: ", b"and more " * 100, 0.001),
    "drips head": _for_ever(b"HTTP/1.1 200 OK\r\nX-More: ", b"a"),
    "trailers": _for_ever(
        STREAM + _chunk(_event("Hello")) + _chunk(_event(finish="stop") + DONE) + b"0\r\n", b"X-More: a\r\n", 0.01
    ),
    "extensions": _for_ever(STREAM + _chunk(_event("Hello")) + b"5;a=", b"a" * 1_000, 0.001),
    "drips": _for_ever(JSON + _chunk(b'{"choices":[{"index":0,"message":{"content":"'), _chunk(b"a")),
    "drips stream": _for_ever(STREAM + _chunk(b'data: {"choices":[{"delta":{"content":"'), _chunk(b"a")),
    "tiny chunks": _tiny(JSON, _padded()),
    "tiny chunks stream": _tiny(STREAM, _event("a") * 60 + _event(finish="stop") + DONE),
    "many events": _at_once(_event("a")),
    "many usages": _at_once(b"data: %b\n\n" % json.dumps({"choices": [], "usage": USAGE}).encode()),
    "one event": _one_event,
    "one line": _for_ever(STREAM, _chunk(b"a" * 65_536), 0.001),
    "large error": _large_error,
}


async def _serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.transport.set_write_buffer_limits(256 * 1024)
    try:
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            length = _LENGTH.search(head)
            body = await reader.readexactly(int(length[1]) if length else 0)
            model = _MODEL.search(body)
            del body
            await SAYS[model[1].decode() if model else "good"](writer)
            await writer.drain()
    except (asyncio.IncompleteReadError, OSError, RuntimeError):
        pass
    finally:
        writer.close()


class Sink(asyncio.Protocol):
    """Takes a request of any size, keeps nothing of it and answers 401."""

    _ANSWER = _whole(b'{"error":{"message":"No."}}', "401 Unauthorized")

    def __init__(self) -> None:
        self._head = b""
        self._left = 0
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's isn't one by its class

    def data_received(self, data: bytes) -> None:
        if not self._left:
            head, found, rest = (self._head + data).partition(b"\r\n\r\n")
            if not found:
                self._head = head
                return
            length = _LENGTH.search(head)
            self._head, self._left = b"", int(length[1]) if length else 0
            data = rest
        self._left = max(0, self._left - len(data))
        if not self._left and self._transport is not None:
            self._transport.write(self._ANSWER)


async def _run(sink: bool) -> None:
    if sink:
        server = await asyncio.get_running_loop().create_server(Sink, "127.0.0.1", 0, backlog=4_096)
    else:
        if "--bomb" in sys.argv:
            bomb(BOMB_MIB)
        server = await asyncio.start_server(_serve, "127.0.0.1", 0, backlog=4_096, limit=MIB)
    print(server.sockets[0].getsockname()[1], flush=True)
    # Its parent closes stdin; that ends it.
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    os._exit(0)


def main() -> None:
    """Serve until stdin is closed."""
    if "--benign" not in sys.argv:
        os.nice(10)
    uvloop.run(_run("--sink" in sys.argv))


if __name__ == "__main__":
    main()
