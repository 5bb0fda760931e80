"""Connections to services, kept alive between requests.

A service may close an idle connection just when it is used again (llama.cpp closes after every stream, without a
``Connection: close``). Such a request was not read, and may be sent again; one on a new connection may have been read.
`Exchange.was_used` tells them apart.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from yarl import URL

from limiter_node.upstream.gateway.wire.dialing import Dialer
from limiter_node.upstream.gateway.wire.service_connection import ServiceConnection

_LOOK_S: Final = 0.25
"""Seconds between two checks of deadlines. No request starts a timer, so a deadline is noticed that much late."""


class ConnectionPool:
    """Hold the connections of one node to the address `url`.

    Idle ones are kept for `keepalive_s`, the newest used first. `read_s`: see `ServiceConnection`.
    """

    def __init__(self, url: URL, dialer: Dialer, read_s: float, keepalive_s: float) -> None:
        self._url, self._dialer = url, dialer
        self.turns = dialer.turns
        self._read_s, self._keepalive_s = read_s, keepalive_s
        self._idle: dict[ServiceConnection, None] = {}
        """The idle connections, in the order in which they became idle."""
        self._all: set[ServiceConnection] = set()
        self._look_every_s = min(_LOOK_S, read_s / 4)
        self._looking: asyncio.TimerHandle | None = None
        self._closed: asyncio.Future[None] | None = None
        loop = asyncio.get_running_loop()
        self.now_s: Callable[[], float] = loop.time
        """The event loop's clock."""
        self._loop = loop

    async def connection(self, *, is_new: bool = False) -> ServiceConnection:
        """Return a connection for a request; `is_new`: one that has carried none. Raises `Unreachable`."""
        if not is_new:
            oldest_s = self.now_s() - self._keepalive_s
            while self._idle:
                connection, _ = self._idle.popitem()
                if connection.idle_since_s > oldest_s and connection.is_open:
                    return connection
                connection.abort()
        connection = await self._dialer.dial(self._url, lambda: ServiceConnection(self, self._read_s))
        self._all.add(connection)
        if self._looking is None:
            self._looking = self._loop.call_later(self._look_every_s, self._look)
        return connection

    def take_back(self, connection: ServiceConnection) -> None:
        """Keep a connection whose exchange has ended."""
        connection.was_used = True
        connection.idle_since_s = self.now_s()
        connection.deadline_s = connection.idle_since_s + self._keepalive_s
        self._idle[connection] = None

    def forget(self, connection: ServiceConnection) -> None:
        """Drop a connection that is closed."""
        self._all.discard(connection)
        if self._closed is not None and not self._all:
            self._closed.set_result(None)
            self._closed = None
        self._idle.pop(connection, None)

    async def close(self) -> None:
        """Close all connections, and return when they are closed."""
        if self._looking is not None:
            self._looking.cancel()
            self._looking = None
        for connection in tuple(self._all):
            connection.abort()
        if self._all:  # the event loop closes them in its next turns
            self._closed = self._loop.create_future()
            await self._closed

    def _look(self) -> None:
        now_s = self.now_s()
        for connection in tuple(self._all):
            connection.look(now_s)
        self._looking = self._loop.call_later(self._look_every_s, self._look) if self._all else None
