"""The connections to one target, and the requests that wait for one."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from bench_client.clock import clock_ns
from bench_client.load.prompts import RequestRenderer
from bench_client.records.spool import CONNECT, NEVER_SENT, TIMEOUT
from bench_client.sending.request_log import RequestLog
from bench_client.sending.target_connection import IDLE, TargetConnection
from bench_client.servers.targets import LoadTarget


class TargetPool:
    """Hold the connections to one target and the requests that wait for one.

    A request that finds no idle connection opens one more, up to ``max_connections``. At that bound requests wait,
    first come first served; their latency counts from the due time all the same. The idle connection used last is used
    first, so that no more are kept warm than the load needs.
    """

    __slots__ = (
        "_address",
        "_all",
        "_connecting",
        "_idle",
        "_max_connections",
        "_on_response",
        "_renderer",
        "_requests",
        "_target",
        "_tasks",
        "_tls",
        "_waiting",
        "all_busy",
    )

    def __init__(
        self,
        target: LoadTarget,
        requests: RequestLog,
        renderer: RequestRenderer,
        *,
        max_connections: int,
        on_response: Callable[[int], None],
    ) -> None:
        """``on_response`` gets the time of each complete response, in ``clock_ns``."""
        self.all_busy = 0
        """Requests that found ``max_connections`` connections, all of them in use."""
        self._target = target
        self._requests = requests
        self._renderer = renderer
        self._on_response = on_response
        self._max_connections = max_connections
        self._tls = target.tls_context()
        self._address = target.host
        self._all: set[TargetConnection] = set()
        self._idle: dict[TargetConnection, None] = {}  # an ordered set
        self._waiting: deque[int] = deque()
        self._connecting = 0
        self._tasks: set[asyncio.Task[None]] = set()

    async def open(self, count: int) -> None:
        """Open the first ``count`` connections. Raises OSError (TimeoutError is one) when none can be opened."""
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
        """Send a request now, or as soon as a connection is free."""
        if self._idle:
            self._send(self._idle.popitem()[0], index, now_ns)
        else:
            self._waiting.append(index)
            self._grow()
            if len(self._waiting) > self._connecting:
                self.all_busy += 1

    def sweep(self, now_ns: int) -> None:
        """End what is past its deadline: O(connections), instead of a timer per request."""
        for connection in [c for c in self._all if c.index != IDLE and c.deadline_ns <= now_ns]:
            connection.fail(now_ns, TIMEOUT)
        while self._waiting and self._requests.deadline_ns(self._waiting[0]) <= now_ns:
            self._requests.finish(self._waiting.popleft(), NEVER_SENT, now_ns, TIMEOUT, b"", 0)

    def close(self, error: int) -> None:
        """End all requests under way as ``error``."""
        now_ns = clock_ns()
        while self._waiting:
            self._requests.finish(self._waiting.popleft(), NEVER_SENT, now_ns, error, b"", 0)
        for task in self._tasks:
            task.cancel()
        for connection in list(self._all):
            connection.fail(now_ns, error)

    def _release(self, connection: TargetConnection) -> None:
        if self._waiting:
            self._send(connection, self._waiting.popleft(), clock_ns())
        else:
            self._idle[connection] = None

    def _remove(self, connection: TargetConnection) -> None:
        self._all.discard(connection)
        self._idle.pop(connection, None)
        if self._waiting:
            self._grow()

    def _send(self, connection: TargetConnection, index: int, now_ns: int) -> None:
        connection.send(index, self._renderer.render(index), now_ns, self._requests.deadline_ns(index))

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
                self._requests.finish(self._waiting.popleft(), NEVER_SENT, clock_ns(), CONNECT, b"", 0)
                self._grow()
        except asyncio.CancelledError:
            self._connecting -= 1
            raise
        else:
            self._connecting -= 1
            self._all.add(connection)
            self._release(connection)

    async def _open_one(self) -> None:
        connection = await self._connect()
        self._all.add(connection)
        self._release(connection)

    async def _connect(self) -> TargetConnection:
        async with asyncio.timeout(self._requests.timeout_s):
            _, connection = await asyncio.get_running_loop().create_connection(
                self._new_connection,
                self._address,
                self._target.port,
                ssl=self._tls,
                server_hostname=self._target.host if self._tls else None,
            )
        return connection

    def _new_connection(self) -> TargetConnection:
        return TargetConnection(
            self._requests, on_idle=self._release, on_closed=self._remove, on_response=self._on_response
        )
