"""A load of streams: many at once from one node, read to their end, and the rates at which their tokens came."""

from __future__ import annotations

import asyncio
import sys
import time
from dataclasses import dataclass
from typing import cast

from bench_client.servers.procfs import cpu_seconds
from benchmarks.lib.loads import render
from benchmarks.lib.servers import Server

KEY = "sk-streams"
_TOKEN = b'"delta":{"content":'


class StreamReader(asyncio.Protocol):
    """Read one stream and count its tokens; keep nothing."""

    def __init__(self, request: bytes) -> None:
        self._request = request
        self._tail = b""
        self.tokens = 0
        self.first_s = self.last_s = 0.0
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's are not derived from it
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        data = self._tail + data
        # What could be the beginning of a token's mark is looked at again with what follows it.
        self._tail = data[-len(_TOKEN) + 1 :]
        if tokens := data.count(_TOKEN):
            self.last_s = time.perf_counter()
            self.first_s = self.first_s or self.last_s
            self.tokens += tokens
        if b"[DONE]" in data and not self.done.done():
            self.done.set_result(None)
            self._transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.done.done():
            self.done.set_exception(exc or ConnectionError("a stream ended too early"))


@dataclass(frozen=True, slots=True)
class StreamLoad:
    """Hold what one load showed: the rates of its streams in tokens per second, and the node's CPU in cores."""

    rates: list[float]
    cores: float


async def read_streams(node: Server, streams: int, tokens: int, ramp_s: float) -> StreamLoad:
    """Open the streams one after the other over `ramp_s`, as clients would come; read all of them to their end."""
    request = render(KEY, max_tokens=tokens, stream=True, messages=[{"role": "user", "content": "Hello"}])
    loop = asyncio.get_running_loop()
    readers: list[StreamReader] = []
    for _ in range(streams):
        _, reader = await loop.create_connection(lambda: StreamReader(request), "127.0.0.1", node.port)
        readers.append(reader)
        await asyncio.sleep(ramp_s / streams)
    before, since = cpu_seconds(node.pid), time.perf_counter()
    await asyncio.wait([each.done for each in readers], return_when=asyncio.FIRST_COMPLETED, timeout=300)
    cores = (cpu_seconds(node.pid) - before) / (time.perf_counter() - since)
    await asyncio.gather(*(each.done for each in readers))
    if any(each.tokens != tokens for each in readers):
        sys.exit("a stream didn't bring all of its tokens")
    return StreamLoad([(each.tokens - 1) / (each.last_s - each.first_s) for each in readers], cores)
