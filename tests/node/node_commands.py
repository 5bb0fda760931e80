"""``limiter-node`` as a process under test, and how its tests ask, wait and look for what is left."""

from __future__ import annotations

import asyncio
import inspect
import re
import signal
import sys
from asyncio.subprocess import Process
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import pytest

from limiter_node.http.server.aiohttp_private import MISSING
from limiter_node.processes import port_is_free
from limiter_node.store.url import parse_store_url

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends children with their parent")


@dataclass
class Command:
    """A running ``limiter-node`` and what it has written; ends with the test that started it."""

    process: Process

    async def line(self, pattern: str) -> re.Match[str]:
        """The next line on stdout that matches; fails when the command ends or takes 20 s."""
        assert self.process.stdout is not None
        async with asyncio.timeout(20):
            while raw := await self.process.stdout.readline():
                if match := re.fullmatch(pattern, raw.decode().rstrip("\n")):
                    return match
        pytest.fail(f"ended before {pattern!r}: {await self.errors()}")

    async def errors(self) -> str:
        """All of stderr, once the command has ended, but for what nodes say of an older aiohttp."""
        assert self.process.stderr is not None
        async with asyncio.timeout(20):
            lines = (await self.process.stderr.read()).decode().splitlines(keepends=True)
        return "".join(line for line in lines if not MISSING or "the node serves by its public API" not in line)

    async def errors_until(self, text: str) -> str:
        """What comes on stderr up to a line with this text; fails when the command ends or takes 20 s."""
        assert self.process.stderr is not None
        lines: list[str] = []
        async with asyncio.timeout(20):
            while raw := await self.process.stderr.readline():
                lines.append(raw.decode())
                if text in lines[-1]:
                    return "".join(lines)
        pytest.fail(f"ended before {text!r}: {''.join(lines)}")

    async def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Send a signal; the exit code."""
        self.process.send_signal(number)
        return await self.ended()

    async def ended(self) -> int:
        """The exit code, as soon as it has ended; fails after 20 s."""
        async with asyncio.timeout(20):
            return await self.process.wait()

    def children(self) -> list[int]:
        """The process ids of its children (Linux)."""
        task = Path(f"/proc/{self.process.pid}/task")
        return [int(pid) for each in task.iterdir() for pid in (each / "children").read_text().split()]


StartCommand = Callable[..., Awaitable[Command]]


async def eventually(condition: Callable[[], object], timeout_s: float = 10) -> None:
    """Wait until something outside this process is so; `condition` may be asynchronous."""
    async with asyncio.timeout(timeout_s):
        while True:
            value = condition()
            if await value if inspect.isawaitable(value) else value:
                return
            await asyncio.sleep(0.01)


async def ask(base_url: str, key: str) -> tuple[int, str]:
    """One request: status, node."""
    body = {"model": "gpt-4o", "messages": [{"role": "user", "content": "Hello"}]}
    async with (
        aiohttp.ClientSession() as session,
        session.post(
            f"{base_url}/v1/chat/completions", json=body, headers={"authorization": f"Bearer {key}"}
        ) as response,
    ):
        await response.read()
        return response.status, response.headers.get("x-limiter-node", "")


async def readiness(base_url: str) -> tuple[int, str]:
    """What ``/readyz`` says: its status, and why the node isn't ready."""
    async with aiohttp.ClientSession() as session, session.get(f"{base_url}/readyz") as response:
        body = await response.json()
        return response.status, body.get("error", {}).get("message", "")


async def listening(base_url: str) -> None:
    """Wait until the node is alive, ready or not."""

    async def is_alive() -> bool:
        with suppress(aiohttp.ClientConnectionError):
            async with aiohttp.ClientSession() as session, session.get(f"{base_url}/healthz") as response:
                return response.status == 200
        return False

    await eventually(is_alive, 20)


def store_ports(url: str) -> list[int]:
    return [port for _, port in parse_store_url(url).endpoints]


def all_free(ports: list[int]) -> bool:
    return all(port_is_free("127.0.0.1", port) for port in ports)


def node_process(command: Command, url: str) -> int:
    """The process id of the node that listens at that URL."""
    port = url.rpartition(":")[2]
    for pid in command.children():
        if f"--port={port}\0" in Path(f"/proc/{pid}/cmdline").read_text():
            return pid
    raise AssertionError(f"no node at {url}")


def alive(pid: int) -> bool:
    try:
        # A zombie has ended; that nobody has waited for it is our container's business.
        return " Z " not in Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
