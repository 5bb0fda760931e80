"""``python -m attack.others HOST PORT``: a client that behaves. Prints ``ready``; then, for each line on stdin (a JSON
object of ``seconds``, ``per_second``, ``model``), asks at that rate and prints the latencies as a JSON object.

Open-loop: each request is due at a time of its own, and its latency counts from then, whatever came before it.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections import Counter
from typing import Any, cast

import uvloop

from .bodies import OTHERS, chat, request

CONNECTIONS = 32
PATIENCE_S = 10.0
"""After the last request was due. A request that isn't answered by then, or not with 200, counts as so late."""


class Connection(asyncio.Protocol):
    """One request at a time; tells the client when its answer is whole."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._held = b""
        self._due = 0.0
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's isn't one by its class

    def send(self, shot: bytes, due: float) -> None:
        assert self.transport is not None
        self._held, self._due = b"", due
        self.transport.write(shot)

    def data_received(self, data: bytes) -> None:
        self._held += data
        head, found, rest = self._held.partition(b"\r\n\r\n")
        if not found:
            return
        fields = head.lower()
        if b"content-length:" in fields:
            whole = len(rest) >= int(fields.split(b"content-length:")[1].split(b"\r\n")[0])
        else:
            whole = rest.endswith(b"0\r\n\r\n")
        if whole:
            due, self._due = self._due, 0.0
            self._client.on_answer(self, head.split(b" ", 2)[1].decode(), time.monotonic() - due)

    def connection_lost(self, error: Exception | None) -> None:
        self._client.on_lost(self, "lost" if self._due else "")


class Client:
    """Asks at a steady rate on kept connections."""

    def __init__(self, host: str, port: int, shot: bytes) -> None:
        self._host, self._port, self._shot = host, port, shot
        self._idle: list[Connection] = []
        self._waiting: list[float] = []
        self._left = 0
        self._done = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self.latencies_ms: list[float] = []
        self.errors: Counter[str] = Counter()

    async def run(self, seconds: float, per_second: float) -> None:
        for _ in range(CONNECTIONS):
            await self._connect()
        count = int(seconds * per_second)
        self._left = count
        began = time.monotonic()
        for number in range(count):
            due = began + number / per_second
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            self._waiting.append(due)
            self._send()
        try:
            async with asyncio.timeout(PATIENCE_S):
                await self._done.wait()
        except TimeoutError:
            self.errors["no answer"] += self._left
        for connection in self._idle:
            if connection.transport is not None:
                connection.transport.abort()

    async def _connect(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            _, connection = await loop.create_connection(lambda: Connection(self), self._host, self._port)
        except OSError:
            return
        self._idle.append(connection)
        self._send()

    def _send(self) -> None:
        while self._waiting and self._idle:
            self._idle.pop().send(self._shot, self._waiting.pop(0))

    def on_answer(self, connection: Connection, status: str, latency_s: float) -> None:
        if status == "200":
            self.latencies_ms.append(latency_s * 1000)
        else:
            self.errors[status] += 1
        self._idle.append(connection)
        self._count()
        self._send()

    def on_lost(self, connection: Connection, error: str) -> None:
        if connection in self._idle:
            self._idle.remove(connection)
        if error:
            self.errors[error] += 1
            self._count()
        if self._left:
            task = asyncio.ensure_future(self._connect())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def _count(self) -> None:
        self._left -= 1
        if not self._left:
            self._done.set()


def quantile(values: list[float], share: float) -> float:
    """The value that this share of `values` isn't above."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def main() -> None:
    """Ask as often as it is told to."""
    host, port = sys.argv[1], int(sys.argv[2])
    print("ready", flush=True)
    for line in sys.stdin:
        order: dict[str, Any] = json.loads(line)

        async def asks(order: dict[str, Any] = order) -> Client:
            client = Client(host, port, request("/v1/chat/completions", OTHERS, chat(order["model"])))
            await client.run(order["seconds"], order["per_second"])
            return client

        client = uvloop.run(asks())
        latencies_ms = client.latencies_ms + [PATIENCE_S * 1000] * sum(client.errors.values())
        told = {
            "answers": len(client.latencies_ms),
            "errors": client.errors,
            "p50_ms": quantile(latencies_ms, 0.5),
            "p99_ms": quantile(latencies_ms, 0.99),
            "max_ms": max(latencies_ms),
        }
        print(json.dumps(told), flush=True)


if __name__ == "__main__":
    main()
