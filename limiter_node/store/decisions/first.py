"""A node's first decision on each shard: until the shard has made one, nobody knows whether it can.

A connection that is open says little: the server behind it may be loading, out of memory, or hang. So each shard is
sent a probe (`store.outage.probe`) and counts once it has decided it, however late. `store.outage.shards` notices what
becomes of the shard later. Weakness: a shard that joins the store after that is trusted without a
probe.
"""

from __future__ import annotations

import asyncio
from functools import partial

from limiter_node.errors import StoreUnavailable
from limiter_node.store.outage.probe import PROBE_EVERY_S, Probe, is_redirect, probe_target
from limiter_node.store.scripts import Script
from limiter_node.store.wire.store_connection import ServerConnection
from limiter_node.store.wire.topology import Topology


class _Shard:
    """Hold a shard that has been probed. `ended` is the end of the outstanding or the last probe."""

    __slots__ = ("ended", "error", "has_decided", "next_probe_s", "redirects")

    def __init__(self) -> None:
        self.ended: asyncio.Future[None] | None = None
        self.next_probe_s = 0.0
        self.error = ""
        self.redirects = 0
        self.has_decided = False


class FirstDecisions:
    """The first decision of one node on each shard. `are_made` is set once, when the last of them has come."""

    def __init__(self, topology: Topology, decide: Script, timeout_s: float) -> None:
        self._loop = asyncio.get_running_loop()
        self._topology, self._decide, self._timeout_s = topology, decide, timeout_s
        self._shards: dict[ServerConnection, _Shard] = {}
        self.are_made = False

    async def require(self) -> None:
        """Return once each shard has decided; ask those that haven't, and wait for at most `timeout_s`.

        Connections have to be open. Callers share the probes: there is at most one per shard, every `PROBE_EVERY_S`.

        Raises:
            StoreUnavailable: naming the first shard that hasn't decided yet, with its reason.
        """
        if self.are_made:
            return
        probed = [self._probe(connection) for connection in self._topology.masters()]
        if outstanding := [each.ended for each in probed if each.ended is not None]:
            await asyncio.wait(outstanding, timeout=self._timeout_s)
        for connection in self._topology.masters():
            shard = self._shards.get(connection)
            if shard is None or not shard.has_decided:
                reason = f": {shard.error}" if shard and shard.error else ""
                raise StoreUnavailable(f"store {connection.address} has not decided yet{reason}")
        self.are_made = True
        self._shards.clear()

    def _probe(self, connection: ServerConnection) -> _Shard:
        shard = self._shards.setdefault(connection, _Shard())
        is_outstanding = shard.ended is not None and not shard.ended.done()
        now_s = self._loop.time()
        if not shard.has_decided and not is_outstanding and now_s >= shard.next_probe_s:
            shard.ended, shard.next_probe_s = self._loop.create_future(), now_s + PROBE_EVERY_S
            target = probe_target(self._topology, connection, self._decide, shard.redirects)
            connection.send([Probe(target, partial(self._on_probed, shard, shard.ended))])
        return shard

    def _on_probed(self, shard: _Shard, ended: asyncio.Future[None], error: str) -> None:
        shard.has_decided, shard.error = not error, error[:200]
        if is_redirect(error):
            # The slot is moving: probe another slot of this shard, if it still has any.
            shard.redirects += 1
            self._topology.refresh_soon()
        if not ended.done():
            ended.set_result(None)
