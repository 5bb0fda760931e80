"""A probe: a decision that counts nothing, asked only to learn whether a shard decides.

It is the decision script about a key that doesn't exist, which fails in all the ways in which a decision can (out of
memory, loading, a blocked script). It goes as source, so that a server which has no script yet has it before the
decisions come. Neighbours: `store.outage.shards` probes shards that are cut off, `store.decisions.first` each shard at
a node's start.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import hiredis

from limiter_node.store.codec import pack_batch
from limiter_node.store.keyspace import decision_keys, slot_of
from limiter_node.store.scripts import Script
from limiter_node.store.wire.commands import bulk
from limiter_node.store.wire.script_target import ScriptTarget
from limiter_node.store.wire.store_connection import ServerConnection
from limiter_node.store.wire.topology import Topology

PROBE_EVERY_S = 0.1
_MOST_TRIES = 200_000
_REDIRECTS = ("MOVED", "ASK", "TRYAGAIN")


class Probe:
    """A `store.wire.commands.Command` that asks for one decision.

    `on_end` is called once: with the reason why the shard didn't decide, or "" if it did.
    """

    __slots__ = ("_on_end", "_target")

    def __init__(self, target: ScriptTarget, on_end: Callable[[str], None]) -> None:
        self._target, self._on_end = target, on_end

    def to_wire(self) -> bytes:
        packed = pack_batch(1, [], resent=False)
        return self._target.by_source + bulk((packed,))

    def on_reply(self, reply: Any) -> None:
        self._on_end(str(reply) if isinstance(reply, hiredis.ReplyError) else "")

    def on_lost(self) -> None:
        self._on_end("connection lost")


def is_redirect(error: str) -> bool:
    """Whether `error` refers to another server: this one didn't decide, but is healthy."""
    return error.startswith(_REDIRECTS)


def probe_target(topology: Topology, connection: ServerConnection, decide: Script, skipped: int = 0) -> ScriptTarget:
    """Return the script with a key that nobody has, in a slot of this shard, after skipping `skipped` such keys."""
    kid, slot = "probe", 0
    for number in range(_MOST_TRIES):
        kid = f"probe-{number}"
        slot = slot_of(kid)
        if topology.owner(slot) is connection:
            if not skipped:
                break
            skipped -= 1
    keys = decision_keys(kid)
    return ScriptTarget(decide, slot, keys, (b"probe",), 1)
