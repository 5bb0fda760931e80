"""A load of clients that keep asking after a 503, from a process of its own.

    python -m benchmarks.lib.overload_load PORT SECONDS CONNECTIONS RATE PAUSE_S REQUESTS_FILE [PID …]

Requests are due at RATE a second (0: each connection asks again at once, whatever the response), and go out on idle
connections; a request that finds none isn't sent. A connection that got a 503 pauses for PAUSE_S. Prints one JSON line:
requests sent and unsent, answered in all, by 200, by 200 within `IN_TIME_S` of being sent, by 503; median and 99th
percentile of both in ms; CPU seconds of the processes PID. The first seconds, half of as many, are left out.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import uvloop

from bench_client.servers.procfs import cpu_seconds
from benchmarks.lib.saturate import SEPARATOR, stamped

IN_TIME_S = 0.3
_EVERY_S = 0.002


class _Load:
    """Hold what all connections share."""

    def __init__(self, requests: Iterator[bytes], *, closed: bool, pause_s: float) -> None:
        self.requests, self.closed, self.pause_s = requests, closed, pause_s
        self.idle: list[_Connection] = []
        self.counting = False
        self.sent = self.unsent = self.lost = 0
        self.good_s: list[float] = []
        self.shed_s: list[float] = []
        self.other = 0


class _Connection(asyncio.Protocol):
    def __init__(self, load: _Load) -> None:
        self._load = load
        self._buffer = b""
        self._sent_s = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._free()

    def send(self) -> None:
        self._load.sent += self._load.counting
        self._sent_s = time.perf_counter()
        self._transport.write(next(self._load.requests))

    def _free(self) -> None:
        if self._load.closed:
            self.send()
        else:
            self._load.idle.append(self)

    def data_received(self, data: bytes) -> None:
        buffer = self._buffer + data if self._buffer else data
        end = buffer.find(b"\r\n\r\n")
        if end >= 0:
            at = buffer.find(b"Content-Length: ", 0, end)
            if len(buffer) >= end + 4 + int(buffer[at + 16 : buffer.find(b"\r\n", at)]):
                load = self._load
                if load.counting:
                    took_s = time.perf_counter() - self._sent_s
                    if buffer.startswith(b"HTTP/1.1 200"):
                        load.good_s.append(took_s)
                    elif buffer.startswith(b"HTTP/1.1 503"):
                        load.shed_s.append(took_s)
                    else:
                        load.other += 1
                self._buffer = b""
                if load.pause_s and buffer.startswith(b"HTTP/1.1 503"):
                    asyncio.get_running_loop().call_later(load.pause_s, self._free)
                else:
                    self._free()
                return
        self._buffer = buffer

    def connection_lost(self, exc: Exception | None) -> None:
        self._load.lost += 1


def _percentiles(took_s: list[float]) -> list[float]:
    took_s.sort()
    return [round(1_000 * took_s[int(len(took_s) * share)], 1) for share in (0.5, 0.99)] if took_s else []


async def _run(
    port: int, seconds: float, connections: int, rate: float, pause_s: float, requests: list[bytes], pids: list[int]
) -> dict[str, Any]:
    loop = asyncio.get_running_loop()
    load = _Load(stamped(requests), closed=not rate, pause_s=pause_s)
    for _ in range(connections):
        await loop.create_connection(lambda: _Connection(load), "127.0.0.1", port)
    began_s = due_s = time.perf_counter()
    counting_from_s, end_s = began_s + seconds / 2, began_s + seconds * 1.5
    cpu_s: list[float] = []
    while (now_s := time.perf_counter()) < end_s:
        if not load.counting and now_s >= counting_from_s:
            load.counting, cpu_s = True, [cpu_seconds(pid) for pid in pids]
        if rate:
            due = int((now_s - due_s) * rate)
            due_s += due / rate
            for _ in range(due):
                if not load.idle:
                    load.unsent += load.counting
                else:
                    load.idle.pop().send()
        await asyncio.sleep(_EVERY_S)
    good, in_time = len(load.good_s), sum(each <= IN_TIME_S for each in load.good_s)
    return {
        "per_second": {
            "sent": load.sent / seconds,
            "unsent": load.unsent / seconds,
            "good": good / seconds,
            "good_in_time": in_time / seconds,
            "turned_away": len(load.shed_s) / seconds,
        },
        "other": load.other,
        "lost": load.lost,
        "good_ms": _percentiles(load.good_s),
        "turned_away_ms": _percentiles(load.shed_s),
        "cpu": [(cpu_seconds(pid) - was) / seconds for pid, was in zip(pids, cpu_s, strict=True)],
    }


def main() -> None:
    """Drive the server and print what came back."""
    port, seconds, connections, rate, pause_s, path, *pids = sys.argv[1:]
    requests = Path(path).read_bytes().split(SEPARATOR)
    seen = uvloop.run(
        _run(int(port), float(seconds), int(connections), float(rate), float(pause_s), requests, [*map(int, pids)])
    )
    print(json.dumps(seen))


if __name__ == "__main__":
    main()
