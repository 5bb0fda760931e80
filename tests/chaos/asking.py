"""Single requests to a node, by hand: which node, which key, how many in one turn of its event loop, and what it said.

Without an HTTP library, so that a test knows when a request has left, and asks some thousands a second.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from chaos_scene import Scene
from test_client_faults import node_pids

_BODY = b'{"model":"gpt-4o","max_tokens":5,"messages":[{"role":"user","content":"Hi"}]}'
_HEAD = (
    b"POST /v1/chat/completions HTTP/1.1\r\nHost: n\r\nAuthorization: Bearer %b\r\n"
    b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n"
)
_ANSWERED_WITHIN_S = 5.0


@dataclass(frozen=True)
class Answer:
    """A node's response."""

    status: int
    headers: dict[str, str]

    @property
    def is_degraded(self) -> bool:
        """Whether it was decided without the store."""
        return "x-limiter-degraded" in self.headers

    @property
    def limit(self) -> int:
        """The limit of requests that was told."""
        return int(self.headers["x-ratelimit-limit-requests"])


class Connection:
    """A kept connection to a node."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    @classmethod
    async def to(cls, url: str) -> Connection:
        host, _, port = url.removeprefix("http://").rpartition(":")
        return cls(*await asyncio.open_connection(host, int(port)))

    async def send(self, key: str) -> None:
        """Send a request of that key; the system has it when this returns."""
        self._writer.write(_HEAD % (key.encode(), len(_BODY)) + _BODY)
        await self._writer.drain()

    async def receive(self) -> Answer:
        """The answer to the request that was sent."""
        async with asyncio.timeout(_ANSWERED_WITHIN_S):
            head = await self._reader.readuntil(b"\r\n\r\n")
            status, *lines = head.decode("latin-1").split("\r\n")[:-2]
            headers = dict(line.lower().split(": ", 1) for line in lines)
            await self._reader.readexactly(int(headers["content-length"]))
        return Answer(int(status.split()[1]), headers)

    def close(self) -> None:
        self._writer.transport.abort()


def node_pid(on: Scene, node: int) -> int:
    """The process id of the node with that number, from 0."""
    port = on.fleet.nodes[node].rpartition(":")[2]
    for pid in node_pids(on):
        if f"--port={port}\0" in Path(f"/proc/{pid}/cmdline").read_text():
            return pid
    raise AssertionError(f"no node at port {port}")


async def ask(on: Scene, node: int, key: str) -> Answer:
    """One request."""
    connection = await Connection.to(on.fleet.nodes[node])
    try:
        await connection.send(key)
        return await connection.receive()
    finally:
        connection.close()


async def ask_at_once(on: Scene, node: int, key: str, count: int) -> list[Answer]:
    """So many requests, which the node finds in one turn of its event loop: it stands still while they are sent."""
    connections = [await Connection.to(on.fleet.nodes[node]) for _ in range(count)]
    pid = node_pid(on, node)
    try:
        for connection in connections:  # so that the node has accepted it: that takes turns of its own
            await connection.send("sk-nobody")
            assert (await connection.receive()).status == 401
        os.kill(pid, signal.SIGSTOP)
        try:
            for connection in connections:
                await connection.send(key)
        finally:
            os.kill(pid, signal.SIGCONT)
        return list(await asyncio.gather(*(connection.receive() for connection in connections)))
    finally:
        for connection in connections:
            connection.close()


async def ask_each(on: Scene, node: int, keys: Iterable[str], connections: int = 16) -> dict[int, int]:
    """One request of each key, some at a time; how many answers had which status."""
    statuses: dict[int, int] = {}
    left = iter(keys)

    async def work() -> None:
        connection = await Connection.to(on.fleet.nodes[node])
        try:
            for key in left:
                await connection.send(key)
                status = (await connection.receive()).status
                statuses[status] = statuses.get(status, 0) + 1
        finally:
            connection.close()

    await asyncio.gather(*(work() for _ in range(connections)))
    return statuses


def admitted(answers: Sequence[Answer]) -> int:
    """How many were."""
    return sum(answer.status == 200 for answer in answers)
