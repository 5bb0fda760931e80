"""TLS for a server's connections: accepts them, does the handshakes with a deadline, and counts those under way.

The event loop's own servers could do the handshakes, but they count them nowhere: connections that are opened and never
say a word would take all open files of the node. Here they count as connections, and end at a deadline. Whatever goes
wrong in a handshake (plain HTTP, another protocol version, a client that doesn't trust the certificate) closes the
connection and is logged nowhere: everybody can bring it about.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Sequence

from limiter_node.http.server.http_server import HttpServer
from limiter_node.http.server.tls import Certificate

LOOK_S = 5.0
"""How often the files of the certificate are looked at."""
_SHUTDOWN_S = 2.0
"""How long a closed connection waits for the client's own end of TLS."""
_SPARE = 50
"""Connections beyond `most` that still get their handshake, and then the server's 503 in place of a mere end."""
_AT_ONCE = 100
"""Connections accepted in one turn of the loop."""
_REST_S = 0.5
"""How long nothing is accepted where the system has no files or memory left."""


class Handshakes:
    """Accepts connections on `sockets`, which listen; `server` gets each when its handshake is done.

    `timeout_s` bounds a handshake. `most` bounds handshakes and connections together; what is beyond is closed.
    """

    def __init__(
        self,
        server: HttpServer,
        certificate: Certificate,
        sockets: Sequence[socket.socket],
        *,
        timeout_s: float,
        most: int,
    ) -> None:
        self._server, self._certificate, self._sockets = server, certificate, sockets
        self._timeout_s, self._most = timeout_s, most + _SPARE
        self._under_way: set[asyncio.Task[None]] = set()
        self._loop = asyncio.get_running_loop()
        self._looking = self._loop.call_later(LOOK_S, self._look)
        self._resting: asyncio.TimerHandle | None = None
        self._listen()

    def refuse_new(self) -> None:
        """Listen no more; handshakes under way go on."""
        if self._resting is not None:
            self._resting.cancel()
        for listening in self._sockets:
            self._loop.remove_reader(listening.fileno())
            listening.close()
        self._sockets = ()

    async def close(self) -> None:
        """End the handshakes under way, and look at the certificate no more."""
        self.refuse_new()
        self._looking.cancel()
        for task in self._under_way:
            task.cancel()
        await asyncio.gather(*self._under_way, return_exceptions=True)

    def _listen(self) -> None:
        for listening in self._sockets:
            self._loop.add_reader(listening.fileno(), self._accept, listening)

    def _accept(self, listening: socket.socket) -> None:
        for _ in range(_AT_ONCE):
            try:
                accepted, _address = listening.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError:
                for each in self._sockets:
                    self._loop.remove_reader(each.fileno())
                self._resting = self._loop.call_later(_REST_S, self._listen)
                return
            if len(self._under_way) + self._server.connection_count >= self._most:
                accepted.close()
                continue
            accepted.setblocking(False)
            task = self._loop.create_task(self._shake_hands(accepted))
            self._under_way.add(task)
            task.add_done_callback(self._under_way.discard)

    async def _shake_hands(self, accepted: socket.socket) -> None:
        try:
            await self._loop.connect_accepted_socket(
                self._server,
                accepted,
                ssl=self._certificate.context,
                ssl_handshake_timeout=self._timeout_s,
                ssl_shutdown_timeout=_SHUTDOWN_S,
            )
        except OSError:  # what TLS and the connection may raise is one; the transport has closed the socket
            return

    def _look(self) -> None:
        self._certificate.refresh()
        self._looking = self._loop.call_later(LOOK_S, self._look)
