"""The owner of each slot, and one connection per master.

Refreshes are rate-limited and at most one at a time: a storm of errors makes one query, not one each. A MOVED reply
moves its slot at once, without waiting for the refresh it causes.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence

from limiter_node.errors import LimiterError, StoreUnavailable
from limiter_node.store.keyspace import SLOTS
from limiter_node.store.slots import Endpoint, redirect_endpoint
from limiter_node.store.url import StoreAddress
from limiter_node.store.wire.commands import Command
from limiter_node.store.wire.discovery import Discovery
from limiter_node.store.wire.store_connection import ServerConnection

log = logging.getLogger(__name__)

_REFRESH_EVERY_S, _REFRESH_S = 0.25, 2.0
_CHECK_EVERY_S = 0.1


class Topology:
    """The shards of one store, single or cluster; `owner` is the hot path and a list look-up."""

    def __init__(
        self, address: StoreAddress, *, client_name: str = "", stall_timeout_s: float = 1.0, replica_acks: int = 0
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._address = address
        self._tls = address.ssl_context()
        self._stall_timeout_s = stall_timeout_s
        self._replica_acks = replica_acks
        self._handshake = self._make_handshake(address, client_name)
        self._connections: dict[Endpoint, ServerConnection] = {}
        self._owners: list[ServerConnection | None] = [None] * SLOTS
        self._masters: set[ServerConnection] = set()
        self._discovery = Discovery(address) if address.cluster else None
        self._closed = False
        self._refreshing: asyncio.Task[None] | None = None
        self._checking: asyncio.TimerHandle | None = None
        self._problem = "not connected yet"
        self.refreshes = 0
        self._on_unsent: Callable[[Sequence[Command]], None] = _lose

    @staticmethod
    def _make_handshake(address: StoreAddress, client_name: str) -> tuple[tuple[str, ...], ...]:
        words: list[tuple[str, ...]] = []
        if address.username:  # whose password may be empty: a user with `nopass`
            words.append(("AUTH", address.username, address.password or ""))
        elif address.password:
            words.append(("AUTH", address.password))
        if address.db:
            words.append(("SELECT", str(address.db)))
        if client_name:
            words.append(("CLIENT", "SETNAME", client_name))
        return tuple(words)

    async def start(self, on_unsent: Callable[[Sequence[Command]], None]) -> None:
        """Find the shards. If the store is down, the search goes on after this returns.

        `on_unsent` is called with commands that were not sent, because their server is down or owns slots no longer.
        """
        self._on_unsent = on_unsent
        self._checking = self._loop.call_later(_CHECK_EVERY_S, self._check)
        if self._discovery is not None:
            await self._refresh(self._discovery)
        else:
            connection = self._connect(*self._address.endpoints[0])
            self._owners = [connection] * SLOTS
            self._masters = {connection}
            self._problem = ""
        for connection in self._masters:
            connection.connect()

    def owner(self, slot: int) -> ServerConnection | None:
        """Return the connection to the master of `slot`; None as long as none is known."""
        connection = self._owners[slot]
        if connection is None:
            self.refresh_soon()
        return connection

    def masters(self) -> list[ServerConnection]:
        """Return one connection per shard, in the order of their addresses."""
        return sorted(self._masters, key=lambda connection: (connection.host, connection.port))

    def is_master(self, connection: ServerConnection) -> bool:
        """Whether `connection` is one of `masters`."""
        return connection in self._masters

    def is_covered(self) -> bool:
        """Whether each slot has a known owner. O(slots): for rare use."""
        return None not in self._owners

    @property
    def problem(self) -> str:
        """Why some slot has no known owner; empty if each has one."""
        return self._problem

    def connection_to(self, slot: int, address: str) -> ServerConnection:
        """Return the connection to the server that a MOVED or ASK reply about `slot` names as ``host:port``."""
        asked = self._owners[slot]  # the server that sent the reply, unless the slot has moved meanwhile
        return self._connect(*redirect_endpoint(address, asked.host if asked else self._address.endpoints[0][0]))

    def on_moved(self, slot: int, address: str) -> None:
        """Believe a server's MOVED about `slot` at once, and ask for all slots soon."""
        connection = self.connection_to(slot, address)
        self._owners[slot] = connection
        self._masters.add(connection)
        self.refresh_soon()

    def refresh_soon(self) -> None:
        """Ask the cluster for the owners of slots, unless that is under way. No-op for a single server."""
        if self._discovery is not None and self._refreshing is None and not self._closed:
            self._refreshing = self._loop.create_task(self._refresh_later(self._discovery))

    async def _refresh_later(self, discovery: Discovery) -> None:
        try:
            while not self._closed:  # redis-py may swallow a cancellation
                await self._refresh(discovery)
                await asyncio.sleep(_REFRESH_EVERY_S)
                # While a shard is away the reply will change: a replica takes over or the master comes back.
                if not self._problem and all(connection.is_open for connection in self._masters):
                    return
        finally:
            self._refreshing = None

    async def _refresh(self, discovery: Discovery) -> None:
        self.refreshes += 1
        try:
            async with asyncio.timeout(_REFRESH_S):
                ranges = await discovery.ranges()
        except (LimiterError, TimeoutError) as error:
            reason = str(error) or "timed out"
            if not self._problem:
                log.warning("cluster topology: %s", reason, extra={"event": "topology_unknown"})
            self._problem = f"cannot read the cluster's topology: {reason}"
            return
        owners: list[ServerConnection | None] = [None] * SLOTS
        for each in reversed(ranges):  # where two name an owner of a slot, the first one counts
            owners[each.first : each.last + 1] = [self._connect(*each.master)] * (each.last + 1 - each.first)
        uncovered = owners.count(None)
        self._owners = owners
        self._masters = {connection for connection in owners if connection is not None}
        self._problem = f"{uncovered} slots of the cluster have no master" if uncovered else ""
        for address, connection in list(self._connections.items()):
            if connection not in self._masters:
                unsent = connection.take_waiting()
                if not connection.is_open:
                    del self._connections[address]
                    await connection.close()
                self._send_elsewhere(unsent)
        for connection in self._masters:
            connection.connect()

    def _connect(self, host: str, port: int) -> ServerConnection:
        connection = self._connections.get((host, port))
        if connection is None:
            connection = self._connections[host, port] = ServerConnection(
                host,
                port,
                handshake=self._handshake,
                tls=self._tls,
                stall_timeout_s=self._stall_timeout_s,
                replica_acks=self._replica_acks,
            )
        return connection

    def _send_elsewhere(self, unsent: Sequence[Command]) -> None:
        """Hand commands to whoever owns their slots by now, or the same server again, if anybody still wants them."""
        if unsent:
            self._on_unsent(unsent)

    def _check(self) -> None:
        for connection in list(self._connections.values()):
            connection.check()
            if not connection.is_open:
                self._send_elsewhere(connection.take_waiting())
        for connection in self._masters:
            if not connection.is_open:
                # Also without traffic: a failover has to be noticed before the next request needs the shard.
                connection.connect()
                self.refresh_soon()
        if self._problem:
            self.refresh_soon()
        self._checking = self._loop.call_later(_CHECK_EVERY_S, self._check)

    async def close(self) -> None:
        """End all connections."""
        self._closed = True
        if self._checking:
            self._checking.cancel()
        if self._refreshing:
            self._refreshing.cancel()
            await asyncio.gather(self._refreshing, return_exceptions=True)
        for connection in list(self._connections.values()):
            await connection.close()
        if self._discovery is not None:
            await self._discovery.close()

    def require_known(self) -> None:
        """Raise `StoreUnavailable` with the reason if some slot has no known owner."""
        if self._problem:
            raise StoreUnavailable(self._problem)


def _lose(unsent: Sequence[Command]) -> None:
    """Tell the owners of commands that were not sent before `Topology.start`; they send them again."""
    for command in unsent:
        command.on_lost()
