"""Hands bytes from one connection to another and back, and does nothing else: the peer of `gateway`.

python -m benchmarks.peers.raw_relay PORT      → prints the port it listens on, then relays to PORT until SIGTERM
"""

from __future__ import annotations

import asyncio
import sys
from typing import cast

import uvloop


class _Service(asyncio.Protocol):
    def __init__(self, client: asyncio.Transport) -> None:
        self._client = client

    def data_received(self, data: bytes) -> None:
        self._client.write(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self._client.close()


class _Client(asyncio.Protocol):
    def __init__(self, port: int) -> None:
        self._port = port
        self._service: asyncio.Transport | None = None
        self._connecting: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's are not derived from it

    def data_received(self, data: bytes) -> None:
        self._connecting = asyncio.get_running_loop().create_task(self._pass(data))

    def connection_lost(self, exc: Exception | None) -> None:
        if self._service is not None:
            self._service.close()

    async def _pass(self, data: bytes) -> None:
        if self._service is None:
            loop = asyncio.get_running_loop()
            service, _ = await loop.create_connection(lambda: _Service(self._transport), "127.0.0.1", self._port)
            self._service = service
        self._service.write(data)


async def _serve(port: int) -> None:
    server = await asyncio.get_running_loop().create_server(lambda: _Client(port), "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(_serve(int(sys.argv[1])))
