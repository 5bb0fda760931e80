"""Where a node listens: one address and its server, from opening it to closing the last connection."""

from __future__ import annotations

import asyncio
import errno
import socket

from limiter_node.addresses import format_host
from limiter_node.http.server.handshakes import Handshakes
from limiter_node.http.server.http_server import HttpServer
from limiter_node.http.server.tls import Certificate

_BACKLOG = 1_024


class Listener:
    """Serves `server` on `host` and `port`, with TLS if there is a `certificate`.

    With `shares_port` other processes of the same user that say so, too, may listen on the port, and the kernel
    divides new connections among them. Its weakness: connections that the kernel has made and this process has not
    accepted yet are reset when it stops listening.
    """

    def __init__(
        self,
        server: HttpServer,
        host: str,
        port: int,
        *,
        certificate: Certificate | None = None,
        handshake_s: float = 10.0,
        most_connections: int = 10_000,
        shares_port: bool = False,
    ) -> None:
        self._server, self._host, self.port = server, host, port
        self._certificate = certificate
        self._handshake_s, self._most_connections = handshake_s, most_connections
        self._shares_port = shares_port
        self._listening: asyncio.Server | None = None
        self._handshakes: Handshakes | None = None

    @property
    def address(self) -> str:
        """``host:port``, as messages show it."""
        return f"{format_host(self._host)}:{self.port}"

    async def open(self) -> None:
        """Listen; `port` is the real one from then on. Raises OSError."""
        if self._certificate is None:
            self._listening = await asyncio.get_running_loop().create_server(
                self._server,
                self._host,
                self.port,
                backlog=_BACKLOG,
                reuse_address=True,
                reuse_port=self._shares_port,
            )
            self.port = self._listening.sockets[0].getsockname()[1]
            return
        sockets = await self._sockets()
        self.port = sockets[0].getsockname()[1]
        self._handshakes = Handshakes(
            self._server, self._certificate, sockets, timeout_s=self._handshake_s, most=self._most_connections
        )

    def refuse_new(self) -> None:
        """Listen no more; connections that are open stay."""
        if self._listening is not None:
            self._listening.close()
            self._listening = None
        if self._handshakes is not None:
            self._handshakes.refuse_new()

    async def close(self, timeout_s: float) -> None:
        """Close all connections; requests under way have `timeout_s`, twice."""
        self.refuse_new()
        if self._handshakes is not None:
            await self._handshakes.close()
        await asyncio.sleep(0)  # what was accepted in this turn begins, and is closed below like all others
        self._server.pre_shutdown()
        await self._server.shutdown(timeout_s)

    async def _sockets(self) -> list[socket.socket]:
        """Sockets that listen on all addresses of the host, as the event loop's own servers make them."""
        found = await asyncio.get_running_loop().getaddrinfo(
            self._host, self.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        sockets: list[socket.socket] = []
        try:
            for family, _, _, _, address in dict.fromkeys(found):
                try:
                    sockets.append(self._socket(family, address))
                except OSError as error:
                    # As ::1 where IPv6 is switched off; another address of the host will do.
                    if error.errno not in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
                        raise
            if not sockets:
                raise OSError(errno.EADDRNOTAVAIL, "this machine has no such address")
        except BaseException:
            for each in sockets:
                each.close()
            raise
        return sockets

    def _socket(self, family: int, address: tuple[object, ...]) -> socket.socket:
        made = socket.socket(family, socket.SOCK_STREAM)
        try:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if self._shares_port:
                made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            if family == socket.AF_INET6:
                made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            made.bind(address)
            made.listen(_BACKLOG)
            made.setblocking(False)
        except BaseException:
            made.close()
            raise
        return made
