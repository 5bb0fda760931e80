"""A closed-loop load: as many requests as a server can answer, from a process of its own.

Closed loop on purpose: it finds the highest rate, not the latency at a rate (that is the benchmark client's, which is
open-loop). Requests are rendered before, responses are only framed, so that one core drives a server on another.

    python -m benchmarks.lib.saturate PORT SECONDS CONNECTIONS REQUESTS_FILE [PID …]

prints one JSON line: requests answered (and those by 200), bytes received and CPU seconds of the processes PID in so
many seconds after a warm-up, and the requests answered in all. The requests go round; `STAMP` in them becomes a number
that is new in every round.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Iterator, Sequence
from itertools import count
from pathlib import Path
from typing import Any, cast

import uvloop

from bench_client.servers.procfs import cpu_seconds

SEPARATOR = b"\n===\n"
STAMP = "@" * 16
"""Marks a place in texts that no server may have seen before, not even in an earlier load."""
_MARK = STAMP.encode()


def stamped(requests: Sequence[bytes]) -> Iterator[bytes]:
    for number in count(time.time_ns() // 1_000):
        stamp = b"%016d" % number
        for request in requests:
            yield request.replace(_MARK, stamp)


class _Connection(asyncio.Protocol):
    """Send one request at a time, the next as soon as the response is complete."""

    def __init__(self, requests: Iterator[bytes]) -> None:
        self._requests = requests
        self._buffer = b""
        self.answered = self.ok = self.received = 0
        self.stopped = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's are not derived from it
        self._transport.write(next(self._requests))

    def data_received(self, data: bytes) -> None:
        buffer = self._buffer + data if self._buffer else data
        end = buffer.find(b"\r\n\r\n")
        if end >= 0:
            at = buffer.find(b"Content-Length: ", 0, end)
            if len(buffer) >= end + 4 + int(buffer[at + 16 : buffer.find(b"\r\n", at)]):
                self.answered += 1
                self.ok += buffer.startswith(b"HTTP/1.1 200")
                self.received += len(buffer)
                self._buffer = b""
                if not self.stopped:
                    self._transport.write(next(self._requests))
                return
        self._buffer = buffer

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.stopped:
            sys.exit(f"the server closed a connection: {exc}")

    def stop(self) -> None:
        self.stopped = True
        self._transport.close()


async def _run(
    port: int, seconds: float, connections: int, requests: Sequence[bytes], pids: Sequence[int]
) -> dict[str, Any]:
    loop = asyncio.get_running_loop()
    endless = stamped(requests)
    made = [
        (await loop.create_connection(lambda: _Connection(endless), "127.0.0.1", port))[1] for _ in range(connections)
    ]

    def so_far() -> list[float]:
        return [
            time.perf_counter(),
            sum(c.answered for c in made),
            sum(c.ok for c in made),
            sum(c.received for c in made),
            *(cpu_seconds(pid) for pid in pids),
        ]

    await asyncio.sleep(min(1.0, seconds / 4))  # warm-up
    before = so_far()
    await asyncio.sleep(seconds)
    took, answered, ok, received, *cpu_s = (now - was for now, was in zip(so_far(), before, strict=True))
    for connection in made:
        connection.stop()
    total = sum(c.answered for c in made)
    return {"seconds": took, "answered": answered, "ok": ok, "bytes": received, "cpu_s": cpu_s, "total": total}


def main() -> None:
    """Drive the server and print what came back."""
    port, seconds, connections, path, *pids = sys.argv[1:]
    requests = Path(path).read_bytes().split(SEPARATOR)
    print(json.dumps(uvloop.run(_run(int(port), float(seconds), int(connections), requests, [*map(int, pids)]))))


if __name__ == "__main__":
    main()
