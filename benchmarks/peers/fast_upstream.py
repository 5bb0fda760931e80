"""A service that costs nothing to ask: it answers any request with the same completion, or the same stream.

    python -m benchmarks.peers.fast_upstream TOKENS RATE

prints its port. A stream is `TOKENS` chunks, each written by itself, `RATE` of them a second in every stream, and the
usage where it is asked for. Closed on purpose: no parsing beyond framing, no generation, one process.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

import uvloop

from benchmarks.lib.servers import OTHER_CORES, pin, stop

_TEXT = "The quick brown fox jumps over the lazy dog and thinks about it. " * 8
_ANSWER = (
    b'{"id":"chatcmpl-1","object":"chat.completion","created":1700000000,"model":"gpt-4o","choices":[{"index":0,'
    b'"message":{"role":"assistant","content":"%b","refusal":null},"logprobs":null,"finish_reason":"stop"}],'
    b'"usage":{"prompt_tokens":25,"completion_tokens":120,"total_tokens":145}}' % _TEXT.encode()
)
_CHUNK = (
    b'data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1700000000,"model":"gpt-4o","choices":'
    b'[{"index":0,"delta":{%b},"logprobs":null,"finish_reason":%b}]}\n\n'
)
_USAGE = (
    b'data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1700000000,"model":"gpt-4o","choices":[],'
    b'"usage":{"prompt_tokens":25,"completion_tokens":%d,"total_tokens":145}}\n\n'
)
_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: %b\r\n%b\r\n\r\n"
_WHOLE = _HEAD % (b"application/json", b"Content-Length: %d" % len(_ANSWER)) + _ANSWER
_STREAM = _HEAD % (b"text/event-stream", b"Transfer-Encoding: chunked")


def _framed(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


class _Connection(asyncio.Protocol):
    """Answer one request at a time."""

    def __init__(self, tokens: int, rate: float) -> None:
        self._tokens, self._rate = tokens, rate
        self._buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's are not derived from it

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while (end := self._buffer.find(b"\r\n\r\n")) >= 0:
            head = self._buffer[:end].lower()
            at = head.find(b"content-length:")
            length = int(head[at + 15 :].split(b"\r\n", 1)[0]) if at >= 0 else 0
            if len(self._buffer) < end + 4 + length:
                return
            body, self._buffer = self._buffer[end + 4 : end + 4 + length], self._buffer[end + 4 + length :]
            if b'"stream":true' in body or b'"stream": true' in body:
                asyncio.get_running_loop().create_task(self._stream(b"include_usage" in body))
            else:
                self._transport.write(_WHOLE)

    async def _stream(self, with_usage: bool) -> None:
        transport, clock = self._transport, asyncio.get_running_loop().time
        transport.write(_STREAM)
        begin = clock()
        for number in range(self._tokens):
            await asyncio.sleep(max(0.0, begin + number / self._rate - clock()))
            transport.write(_framed(_CHUNK % (b'"content":" dog"', b"null")))
        usage = _USAGE % self._tokens if with_usage else b""
        ending = (_CHUNK % (b"", b'"stop"'), usage, b"data: [DONE]\n\n")
        transport.write(b"".join(_framed(each) for each in ending if each) + b"0\r\n\r\n")


async def _serve(tokens: int, rate: float) -> None:
    server = await asyncio.get_running_loop().create_server(lambda: _Connection(tokens, rate), "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


@contextmanager
def running_fast_upstream(tokens: int = 100, rate: float = 1_000.0) -> Iterator[int]:
    """Run the service on the cores that are not the server's; yield its port."""
    command = [sys.executable, "-m", "benchmarks.peers.fast_upstream", str(tokens), str(rate)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        port = int(process.stdout.readline())
        pin(process.pid, OTHER_CORES)
        yield port
    finally:
        stop(process)


if __name__ == "__main__":
    uvloop.run(_serve(int(sys.argv[1]), float(sys.argv[2])))
