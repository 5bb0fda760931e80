"""The circuit breakers: one for each connection that owns slots, and one log line per transition.

A breaker opens when a decision has been outstanding for longer than the budget (`store.outage.outage` notices);
requests of the shard's keys then don't go there. It is asked by probes (`store.outage.probe`), one at a time, and
closes when one is decided within the budget. No request is risked for that. While commands are outstanding on a
connection no probe is sent: their replies are the sign of life that a probe would wait behind.

Slots without an owner share the breaker of the connection None, which closes when each has one.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from limiter_node.store.outage.probe import PROBE_EVERY_S, Probe, is_redirect, probe_target
from limiter_node.store.scripts import load_script
from limiter_node.store.wire.script_target import ScriptTarget
from limiter_node.store.wire.store_connection import ServerConnection
from limiter_node.store.wire.topology import Topology

log = logging.getLogger(__name__)


class _Breaker:
    """Hold the times of an open breaker."""

    __slots__ = ("next_probe_s", "opened_s", "probe_sent_s")

    def __init__(self, now_s: float) -> None:
        self.opened_s = self.next_probe_s = now_s
        self.probe_sent_s: float | None = None


class Shards:
    """Hold the breakers of one node. `budget_s` is how long a decision may take, `policy` decides meanwhile.

    `on_back` is called when a breaker has closed; it returns the decisions meanwhile, by outcome, for the log.
    """

    def __init__(self, topology: Topology, budget_s: float, policy: str, on_back: Callable[[], dict[str, int]]) -> None:
        self._loop = asyncio.get_running_loop()
        self._topology = topology
        self._budget_s = budget_s
        self._decide = load_script("decide")
        self._policy, self._on_back = policy, on_back
        self._open: dict[ServerConnection | None, _Breaker] = {}
        self._targets: dict[ServerConnection, ScriptTarget] = {}
        self.openings = 0

    def __bool__(self) -> bool:
        return bool(self._open)

    def is_open(self, slot: int) -> bool:
        """Whether the breaker of the shard of `slot` is open, so that it isn't asked."""
        return self._topology.owner(slot) in self._open

    def is_cut_off(self, connection: ServerConnection) -> bool:
        """Whether a connection's breaker is open."""
        return connection in self._open

    def answers(self, slot: int) -> bool:
        """Whether the shard of `slot` is known and connected."""
        connection = self._topology.owner(slot)
        return connection is not None and connection.is_open

    def open_addresses(self) -> list[str]:
        """Return the addresses of the shards that aren't asked."""
        return [_name(connection) for connection in self._open]

    def open_breaker(self, slot: int, reason: str) -> bool:
        """Stop asking the shard of `slot`. Return False if its breaker was open already."""
        connection = self._topology.owner(slot)
        if connection in self._open:
            return False
        self._open[connection] = _Breaker(self._loop.time())
        self.openings += 1
        event = {"event": "shard_cut_off", "shard": _name(connection), "policy": self._policy, "reason": reason}
        log.warning("shard %s is cut off, policy %s decides: %s", _name(connection), self._policy, reason, extra=event)
        return True

    def tick(self) -> None:
        """Probe shards with open breakers, and close breakers without a reason. Called often while any is open."""
        now_s = self._loop.time()
        for connection, breaker in list(self._open.items()):
            if now_s < breaker.next_probe_s:
                continue
            if connection is None:
                breaker.next_probe_s = now_s + PROBE_EVERY_S
                if self._topology.is_covered():
                    self._close(connection, "its slots have an owner")
            elif not self._topology.is_master(connection):
                self._close(connection, "its slots have another owner")
                connection.drop()  # its outstanding commands are sent to the new owner
            elif connection.is_idle and breaker.probe_sent_s is None:
                breaker.probe_sent_s, breaker.next_probe_s = now_s, now_s + PROBE_EVERY_S
                connection.send([self._probe(connection)])

    def on_probed(self, connection: ServerConnection, *, decided: bool) -> None:
        """Close the breaker if the probe was decided within the budget."""
        breaker = self._open.get(connection)
        if breaker is None:
            return
        sent_s, breaker.probe_sent_s = breaker.probe_sent_s, None
        if decided and sent_s is not None and self._loop.time() - sent_s <= self._budget_s:
            self._close(connection, "it decides")

    def _close(self, connection: ServerConnection | None, reason: str) -> None:
        breaker = self._open.pop(connection)
        if connection is not None:
            self._targets.pop(connection, None)
        decided, away_s = self._on_back(), self._loop.time() - breaker.opened_s
        log.warning(
            "shard %s is back after %.1f s: %s; decided without it: %s",
            _name(connection),
            away_s,
            reason,
            ", ".join(f"{count} {what}" for what, count in sorted(decided.items())) or "nothing",
            extra={"event": "shard_back", "shard": _name(connection), "away_s": round(away_s, 3), "decided": decided},
        )

    def _probe(self, connection: ServerConnection) -> Probe:
        target = self._targets.get(connection)
        if target is None:
            target = self._targets[connection] = probe_target(self._topology, connection, self._decide)
        # A server that refers to another one is healthy.
        return Probe(target, lambda error: self.on_probed(connection, decided=not error or is_redirect(error)))


def _name(connection: ServerConnection | None) -> str:
    return connection.address if connection else "without an owner"
