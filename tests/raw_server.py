"""A server on loopback whose connections a test handles itself, and which leaves none of them open."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Awaitable, Callable

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]

END_S = 20
"""Seconds until a connection that doesn't end is an error."""


class RawServer:
    """Serve each connection on 127.0.0.1:`port` with `handler`; at the end, end the handlers and every connection.

    `asyncio.start_server` doesn't know the connections whose handler has not begun, whose TLS handshake is under way,
    or whose client doesn't read. They stay open until the garbage collector finds them and warns, in a later test.
    This server keeps each connection from its accept on.

    A connection is closed when its handler returns. A handler may leave it to the server that its client has gone
    (EOFError, OSError); any other error of a handler is raised at the end.
    """

    def __init__(self, handler: Handler, port: int = 0, tls: ssl.SSLContext | None = None) -> None:
        self.port = port
        self._handler = handler
        self._tls = tls
        self._connections: dict[asyncio.Task[None], socket.socket] = {}

    @property
    def accepted(self) -> int:
        """The number of connections so far."""
        return len(self._connections)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def __aenter__(self) -> RawServer:
        self._listening = socket.create_server(("127.0.0.1", self.port))
        self._listening.setblocking(False)
        self.port = self._listening.getsockname()[1]
        asyncio.get_running_loop().add_reader(self._listening, self._accept)
        return self

    async def __aexit__(self, _type: object, error: BaseException | None, _traceback: object) -> None:
        self.stop_listening()
        await asyncio.sleep(0)  # each task has begun: its transport has the socket, and closes it
        for task in self._connections:
            task.cancel()
        errors = await asyncio.gather(*self._connections, return_exceptions=True)
        for connection in self._connections.values():
            with contextlib.suppress(OSError):  # it is closed
                connection.shutdown(socket.SHUT_RDWR)  # a transport closes its socket then, whatever it waits for
        async with asyncio.timeout(END_S):
            while any(connection.fileno() >= 0 for connection in self._connections.values()):
                await asyncio.sleep(0)
        failures = [each for each in errors if isinstance(each, Exception)]
        if failures and error is None:
            raise ExceptionGroup("handlers failed", failures)

    def stop_listening(self) -> None:
        """Refuse new connections; those that are open stay."""
        if self._listening.fileno() >= 0:
            asyncio.get_running_loop().remove_reader(self._listening)
            self._listening.close()

    def _accept(self) -> None:
        with contextlib.suppress(BlockingIOError, ConnectionAbortedError):
            connection, _ = self._listening.accept()
            connection.setblocking(False)
            self._connections[asyncio.create_task(self._serve(connection))] = connection

    async def _serve(self, connection: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader()
        protocol = asyncio.StreamReaderProtocol(reader)
        with contextlib.suppress(EOFError, OSError):
            transport, _ = await loop.connect_accepted_socket(lambda: protocol, connection, ssl=self._tls)
            writer = asyncio.StreamWriter(transport, protocol, reader, loop)
            try:
                await self._handler(reader, writer)
            finally:
                writer.close()
