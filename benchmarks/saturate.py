"""A closed-loop load: as many requests as a node can answer, from a process of its own.

Closed loop on purpose: it finds the highest rate, not the latency at a rate (that is the benchmark client's, which is
open-loop). Requests are rendered before, responses are only framed, so that one core drives a node on another.

    python -m benchmarks.saturate PORT SECONDS CONNECTIONS REQUESTS_FILE  → one JSON line: answered, ok, seconds, total
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from itertools import cycle
from pathlib import Path
from typing import cast

import uvloop

SEPARATOR = b"\n===\n"


class _Connection(asyncio.Protocol):
    """One request at a time, the next as soon as the response is complete."""

    def __init__(self, requests: cycle[bytes]) -> None:
        self._requests = requests
        self._buffer = b""
        self.answered = self.ok = 0
        self.stopped = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.write(next(self._requests))

    def data_received(self, data: bytes) -> None:
        buffer = self._buffer + data if self._buffer else data
        end = buffer.find(b"\r\n\r\n")
        if end >= 0:
            at = buffer.find(b"Content-Length: ", 0, end)
            if len(buffer) >= end + 4 + int(buffer[at + 16 : buffer.find(b"\r\n", at)]):
                self.answered += 1
                self.ok += buffer.startswith(b"HTTP/1.1 200")
                self._buffer = b""
                if not self.stopped:
                    self._transport.write(next(self._requests))
                return
        self._buffer = buffer

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.stopped:
            sys.exit(f"the node closed a connection: {exc}")


async def _run(port: int, seconds: float, connections: int, requests: list[bytes]) -> dict[str, float]:
    loop = asyncio.get_running_loop()
    endless = cycle(requests)
    made = [
        (await loop.create_connection(lambda: _Connection(endless), "127.0.0.1", port))[1] for _ in range(connections)
    ]
    await asyncio.sleep(min(1.0, seconds / 4))  # warm-up
    answered, ok, start = sum(c.answered for c in made), sum(c.ok for c in made), time.perf_counter()
    await asyncio.sleep(seconds)
    result = {
        "answered": sum(c.answered for c in made) - answered,
        "ok": sum(c.ok for c in made) - ok,
        "seconds": time.perf_counter() - start,
        "total": sum(c.answered for c in made),
    }
    for connection in made:
        connection.stopped = True
        connection._transport.close()
    return result


def main() -> None:
    """Drive the node and print what came back."""
    port, seconds, connections, path = sys.argv[1:]
    requests = Path(path).read_bytes().split(SEPARATOR)
    print(json.dumps(uvloop.run(_run(int(port), float(seconds), int(connections), requests))))


if __name__ == "__main__":
    main()
