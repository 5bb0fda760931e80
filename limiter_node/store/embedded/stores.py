"""Embedded stores: real server processes on 127.0.0.1, a cluster or a single one, that live as long as their parent.

Owns their start, how they become a cluster, and their end. Nothing is written to disk but logs and the cluster's node
files, in a private directory that is removed at the end. Neighbours: `binary` finds the program, `server` is a process
of it, `cluster_setup` makes a cluster of several.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from limiter_node.errors import ConfigError
from limiter_node.processes import free_ports, port_is_free
from limiter_node.store.embedded.binary import StoreError, server_binary
from limiter_node.store.embedded.cluster_setup import ClusterMember, form_cluster
from limiter_node.store.embedded.server import HOST, EmbeddedServer, server_config

MASTERS = 3
START_TIMEOUT_S = 20.0
_POLL_S = 0.01
_ANSWER_S = 1.0
_ATTEMPTS = 5

Mode = Literal["cluster", "single"]


class _PortTaken(Exception):
    """Raised when somebody took a port of ours between our look and the server's bind."""


class EmbeddedStore:
    """A store for one machine, as an async context manager: demos, tests, development.

    Weakness: nothing survives its end, and a master that is killed without a replica takes its counters with it.

    `port` is the first server's (masters on PORT, PORT+1, PORT+2, then the replicas of each in turn), 0 for any free
    ones. `binary` is the path of a system server. `extra_config` is given to each server as ``--NAME VALUE``.
    """

    def __init__(
        self,
        mode: Mode = "cluster",
        *,
        port: int = 0,
        replicas: int = 0,
        binary: str | None = None,
        extra_config: dict[str, str] | None = None,
    ) -> None:
        if mode == "single" and replicas:
            raise ConfigError("--replicas needs a cluster; a single embedded store has none")
        count = MASTERS * (1 + replicas) if mode == "cluster" else 1
        if port and port + count - 1 > 65535:
            raise ConfigError(f"--port {port} is too high: {count} servers need ports up to {port + count - 1}")
        self.mode: Mode = mode
        self.servers: list[EmbeddedServer] = []
        self._port = port
        self._replicas = replicas
        self._count = count
        self._binary = binary
        self._extra_config = extra_config or {}
        self._directory: Path | None = None

    @property
    def url(self) -> str:
        """The store's URL, for ``--store``."""
        masters = [server for server in self.servers if server.master_port is None]
        scheme = "redis+cluster" if self.mode == "cluster" else "redis"
        return f"{scheme}://" + ",".join(f"{HOST}:{server.port}" for server in masters)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    async def start(self) -> None:
        """Start all servers and wait until they are ready. Raises StoreError or ConfigError, and then nothing runs."""
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                await self._start()
                return
            except _PortTaken as error:
                self.stop()
                # With a port of the caller's choice only the bus ports are ours to choose again.
                if attempt == _ATTEMPTS or self._taken():
                    raise StoreError(self._taken() or str(error)) from None
            except BaseException:
                self.stop()
                raise

    def stop(self) -> None:
        """End all servers and remove their files. May be called at any time, also twice."""
        for server in self.servers:
            if server.process is not None:
                server.process.kill()
        for server in self.servers:
            server.kill()
        if self._directory is not None:
            shutil.rmtree(self._directory, ignore_errors=True)
            self._directory = None

    async def _start(self) -> None:
        if message := self._taken():
            raise StoreError(message)
        self._directory = Path(tempfile.mkdtemp(prefix="limiter-store-"))
        binary = server_binary(self._binary, self._directory)
        self.servers = self._plan(binary, self._directory)
        for server in self.servers:
            server.start()
        try:
            async with asyncio.timeout(START_TIMEOUT_S), contextlib.AsyncExitStack() as stack:
                clients = [await stack.enter_async_context(_client(server.port)) for server in self.servers]
                for server, client in zip(self.servers, clients, strict=True):
                    await self._answering(server, client)
                if self.mode == "cluster":
                    await form_cluster(
                        [
                            ClusterMember(server.port, server.bus_port, server.master_port, client)
                            for server, client in zip(self.servers, clients, strict=True)
                        ]
                    )
        except TimeoutError:
            raise StoreError(f"the embedded store was not ready within {START_TIMEOUT_S:.0f} s") from None
        except (RedisError, OSError) as error:
            raise StoreError(f"the embedded store could not be set up: {error}") from None

    def _taken(self) -> str | None:
        if self._port:
            for port in range(self._port, self._port + self._count):
                if not port_is_free(HOST, port):
                    return f"port {port} is in use: choose another with --port"
        return None

    def _plan(self, binary: str, directory: Path) -> list[EmbeddedServer]:
        if self._port:
            ports = list(range(self._port, self._port + self._count))
            bus_ports = free_ports(self._count, HOST, avoid=ports)
        else:
            chosen = free_ports(2 * self._count, HOST)
            ports, bus_ports = chosen[: self._count], chosen[self._count :]
        return [
            self._server(binary, directory, port, bus_port, self._master_of(index, ports))
            for index, (port, bus_port) in enumerate(zip(ports, bus_ports, strict=True))
        ]

    def _master_of(self, index: int, ports: Sequence[int]) -> int | None:
        if self.mode == "single" or index < MASTERS:
            return None
        return ports[(index - MASTERS) // self._replicas]

    def _server(
        self, binary: str, directory: Path, port: int, bus_port: int, master_port: int | None
    ) -> EmbeddedServer:
        own = directory / str(port)
        own.mkdir()
        config = server_config(port, own, bus_port if self.mode == "cluster" else 0) | self._extra_config
        command = [binary, *(word for name, value in config.items() for word in (f"--{name}", value))]
        return EmbeddedServer(port, bus_port if self.mode == "cluster" else 0, master_port, command, own)

    @staticmethod
    async def _answering(server: EmbeddedServer, client: Redis) -> None:
        while True:
            # The process first: another server that answers on this port is not ours.
            if server.exit_code is not None:
                reason = server.failure()
                if "bind:" in reason or "listening" in reason:
                    raise _PortTaken(f"port {server.port} is in use: {reason}")
                raise StoreError(f"the store server on port {server.port} ended at start: {reason}")
            with contextlib.suppress(RedisError, OSError, TimeoutError):
                # Bounded, because another program on the port may accept and never answer.
                async with asyncio.timeout(_ANSWER_S):
                    info = await client.info("server")
                if info["process_id"] == server.pid:
                    return
            await asyncio.sleep(_POLL_S)


def _client(port: int) -> Redis:
    # No retries: a server that is still starting is asked again by us, each few ms.
    return Redis(host=HOST, port=port, protocol=2, retry=Retry(NoBackoff(), 0))
