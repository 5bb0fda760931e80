"""The connections to one target, and the requests that wait for one."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING

from .alarm import clock_ns
from .connection import IDLE, Connection
from .spool import CONNECT, NEVER_SENT, TIMEOUT

if TYPE_CHECKING:
    from .sender import Sender
    from .targets import Target


class Pool:
    """Grows by one connection whenever a request finds none idle, up to ``max_connections``.

    At that bound requests wait, first come first served; their latency counts from the due time all the same. The idle
    connection used last is used first, so that no more are kept warm than the load needs.
    """

    __slots__ = (
        "_address",
        "_all",
        "_connecting",
        "_idle",
        "_max_connections",
        "_target",
        "_tasks",
        "_tls",
        "_waiting",
        "sender",
    )

    def __init__(self, sender: Sender, target: Target, max_connections: int) -> None:
        self.sender = sender
        self._target = target
        self._max_connections = max_connections
        self._tls = target.tls_context()
        self._address = target.host
        self._all: set[Connection] = set()
        self._idle: dict[Connection, None] = {}  # an ordered set
        self._waiting: deque[int] = deque()
        self._connecting = 0
        self._tasks: set[asyncio.Task[None]] = set()

    async def open(self, count: int) -> None:
        """Opens the first ``count`` connections. Raises OSError (TimeoutError is one) when none can be opened."""
        loop = asyncio.get_running_loop()
        addresses = await loop.getaddrinfo(self._target.host, self._target.port, proto=6)  # 6 = TCP
        failure: OSError = OSError("no address")
        for *_, address in addresses:  # the one that works is kept: a name must not be looked up per connection
            self._address = str(address[0])
            try:
                await self._open_one()
                break
            except OSError as error:
                failure = error
        else:
            raise failure
        await asyncio.gather(*(self._open_one() for _ in range(min(count, self._max_connections) - 1)))

    def dispatch(self, index: int, now_ns: int) -> None:
        """Sends a request now, or as soon as a connection is free."""
        if self._idle:
            self._send(self._idle.popitem()[0], index, now_ns)
        else:
            self._waiting.append(index)
            self._grow()
            if len(self._waiting) > self._connecting:
                self.sender.all_busy += 1

    def release(self, connection: Connection) -> None:
        if self._waiting:
            self._send(connection, self._waiting.popleft(), clock_ns())
        else:
            self._idle[connection] = None

    def remove(self, connection: Connection) -> None:
        self._all.discard(connection)
        self._idle.pop(connection, None)
        if self._waiting:
            self._grow()

    def sweep(self, now_ns: int) -> None:
        """Ends what is past its deadline: O(connections), instead of a timer per request."""
        for connection in [c for c in self._all if c.index != IDLE and c.deadline_ns <= now_ns]:
            connection.fail(now_ns, TIMEOUT)
        while self._waiting and self.sender.deadline_ns(self._waiting[0]) <= now_ns:
            self.sender.finish(self._waiting.popleft(), NEVER_SENT, now_ns, TIMEOUT, b"", 0)

    def close(self, error: int) -> None:
        """Ends whatever is still under way as ``error``."""
        now_ns = clock_ns()
        while self._waiting:
            self.sender.finish(self._waiting.popleft(), NEVER_SENT, now_ns, error, b"", 0)
        for task in self._tasks:
            task.cancel()
        for connection in list(self._all):
            connection.fail(now_ns, error)

    def _send(self, connection: Connection, index: int, now_ns: int) -> None:
        sender = self.sender
        connection.send(index, sender.renderer.render(index), now_ns, sender.deadline_ns(index))

    def _grow(self) -> None:
        while self._connecting < len(self._waiting) and len(self._all) + self._connecting < self._max_connections:
            self._connecting += 1
            task = asyncio.get_running_loop().create_task(self._connect_for_waiting())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _connect_for_waiting(self) -> None:
        try:
            connection = await self._connect()
        except OSError:
            self._connecting -= 1
            if self._waiting:
                self.sender.finish(self._waiting.popleft(), NEVER_SENT, clock_ns(), CONNECT, b"", 0)
                self._grow()
        except asyncio.CancelledError:
            self._connecting -= 1
            raise
        else:
            self._connecting -= 1
            self._all.add(connection)
            self.release(connection)

    async def _open_one(self) -> None:
        connection = await self._connect()
        self._all.add(connection)
        self.release(connection)

    async def _connect(self) -> Connection:
        async with asyncio.timeout(self.sender.timeout_s):
            _, connection = await asyncio.get_running_loop().create_connection(
                lambda: Connection(self),
                self._address,
                self._target.port,
                ssl=self._tls,
                server_hostname=self._target.host if self._tls else None,
            )
        return connection
