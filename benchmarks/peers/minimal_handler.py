"""The least that an aiohttp server can do with a request: parse its JSON and give a constant answer.

Made like a node otherwise: aiohttp's low-level server without the router, uvloop, the same garbage collector settings.

    python -m benchmarks.peers.minimal_handler PORT ANSWER_BYTES     → one line "ready", then serves until SIGTERM
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import orjson
import uvloop
from aiohttp import web

from benchmarks.lib.servers import Server, pin_apart, stop
from limiter_node.node_process import settle_collector
from limiter_node.processes import free_ports

_HEAD_BYTES = 148
"""What aiohttp writes before the body: status, type, length, date, its own name."""


@contextmanager
def running_minimal_handler(answer_bytes: int) -> Iterator[Server]:
    """Run the server as a process of its own; its answers, head and body, are that long."""
    (port,) = free_ports(1)
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.peers.minimal_handler", str(port), str(answer_bytes)],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        if process.stdout.readline() != "ready\n":
            sys.exit("the minimal handler did not start")
        pin_apart(process.pid, ())
        yield Server(port, process.pid)
    finally:
        stop(process)


async def _serve(port: int, answer_bytes: int) -> None:
    body = orjson.dumps({"content": "x" * (answer_bytes - _HEAD_BYTES - len('{"content":""}'))})

    async def answer(request: web.BaseRequest) -> web.Response:
        orjson.loads(await request.read())
        return web.Response(body=body, content_type="application/json")

    runner = web.ServerRunner(web.Server(answer, access_log=None))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port, backlog=1024).start()
    settle_collector()
    print("ready", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(_serve(*map(int, sys.argv[1:])))
