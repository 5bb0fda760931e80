"""A fleet as users start it: `limiter-node up`, real processes, real HTTP. Imported by the tests that need one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aiohttp import ClientResponse, ClientSession, TCPConnector
from ports import free_ports
from store_tools import declare, new_api_key


@dataclass(frozen=True)
class Fleet:
    """Running nodes, their store and how to use them."""

    nodes: tuple[str, ...]
    store: str
    process: subprocess.Popen[str]
    admin: tuple[str, ...] = ()
    """Where each node has its probes and metrics, if not on its own port."""

    def new_key(self, **limits: int | str) -> str:
        """A fresh API key with these limits, the others out of reach."""
        api_key = new_api_key()
        declare(self.store, api_key, **limits)  # type: ignore[arg-type]
        return api_key


@contextmanager
def running_fleet(
    directory: Path, *arguments: str, nodes: int = 2, program: Sequence[str] = (sys.executable, "-m", "limiter_node")
) -> Iterator[Fleet]:
    """`limiter-node up` on free ports; ended by SIGTERM, which must drain and exit 0."""
    if "--keys" not in arguments:
        keys = directory / "keys.toml"
        keys.write_text('[keys."sk-unused"]\n')
        arguments = ("--keys", str(keys), *arguments)
    command = [*program, "up", "--nodes", str(nodes), "--port", str(free_ports(nodes)[0])]
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("LIMITER_", "BENCH_"))}
    with (directory / "stderr").open("w") as errors:
        process = subprocess.Popen(
            [*command, *arguments], stdout=subprocess.PIPE, stderr=errors, text=True, env=environment
        )
    try:
        assert process.stdout is not None
        urls: dict[str, str] = {}
        admin: dict[str, str] = {}
        store = ""
        for line in process.stdout:
            match line.split():
                case ["store", url]:
                    store = url
                case ["node", name, "ready", url]:
                    urls[name] = url
                case ["node", name, "admin", url]:
                    admin[name] = url
                case ["ready"]:
                    break
        assert len(urls) == nodes, (directory / "stderr").read_text()
        yield Fleet(
            tuple(urls[name] for name in sorted(urls)), store, process, tuple(admin[name] for name in sorted(admin))
        )
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0, (directory / "stderr").read_text()
        # Nothing that a person should worry about was said while the tests ran.
        complaints = (directory / "stderr").read_text()
        assert "Traceback" not in complaints, complaints
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        if process.stdout is not None:
            process.stdout.close()


def many_connections() -> ClientSession:
    """A client with as many connections as there are requests at once."""
    return ClientSession(connector=TCPConnector(limit=0))


async def chat(
    session: ClientSession, node: str, api_key: str, content: str = "Hello", **fields: object
) -> tuple[ClientResponse, dict[str, object]]:
    """One chat completion; the response, read, and its body."""
    body = {"model": "gpt-4o", "messages": [{"role": "user", "content": content}], **fields}
    async with session.post(
        f"{node}/v1/chat/completions", json=body, headers={"Authorization": f"Bearer {api_key}"}
    ) as response:
        return response, await response.json()


async def rate_limits(session: ClientSession, node: str, api_key: str) -> dict[str, Any]:
    """What `GET /v1/rate_limits` tells the key."""
    async with session.get(f"{node}/v1/rate_limits", headers={"Authorization": f"Bearer {api_key}"}) as response:
        assert response.status == 200
        body: dict[str, Any] = await response.json()
        return body
