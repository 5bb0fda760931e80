"""Reads the limits of unknown keys that can't be decided for now, so that a policy can decide.

While a cluster moves a slot, its servers refuse a script some of whose keys are missing (TRYAGAIN). A key that is used
has all of them; one that nobody has used for a while has only its limits, until the slot has arrived. A call that names
the limits alone is always answered. Nothing of such a key counts just then, so that a fleet in which each node
decides within its share stays within the limit (`limiter.policies`).
"""

from __future__ import annotations

from time import monotonic

from limiter_node.store.decisions.queues import KeyQueues
from limiter_node.store.key_queue import KeyQueue
from limiter_node.store.keyspace import limits_key
from limiter_node.store.scripts import load_script
from limiter_node.store.values import unpack_limits
from limiter_node.store.wire.routing_and_retries import RoutedCall, Router
from limiter_node.store.wire.script_target import ScriptTarget

_PATIENCE_S = 1.0


class _Lookup(RoutedCall):
    """A read of one key's limits, tried again while nobody knows them."""

    __slots__ = ("_lookups", "queue")

    def __init__(self, lookups: LimitsWhileMoving, router: Router, target: ScriptTarget, queue: KeyQueue) -> None:
        super().__init__(router, target, monotonic())
        self._lookups, self.queue = lookups, queue

    def arguments(self) -> bytes:
        return b""

    def is_wanted(self) -> bool:
        return not self.queue.knowledge.exists and monotonic() - self.since_s < _PATIENCE_S

    def on_result(self, reply: list[bytes] | None) -> None:
        self._lookups.on_ended(self, reply)

    def on_failed(self, reason: str) -> None:
        self._lookups.on_ended(self, None)


class LimitsWhileMoving:
    """Look up keys for one node, each at most once at a time."""

    def __init__(self, router: Router, queues: KeyQueues) -> None:
        self._router, self._queues = router, queues
        self._script = load_script("limits")
        self._under_way: set[str] = set()

    def look_up(self, queue: KeyQueue) -> None:
        """Let the node learn the key's limits, if the store has any."""
        if queue.kid in self._under_way:
            return
        self._under_way.add(queue.kid)
        target = ScriptTarget(self._script, queue.target.slot, (limits_key(queue.kid).encode(),), (), 0)
        self._router.send([_Lookup(self, self._router, target, queue)])

    def on_ended(self, lookup: _Lookup, reply: list[bytes] | None) -> None:
        """Learn the limits that a look-up found; `reply` is None where it found none, or was given up."""
        self._under_way.discard(lookup.queue.kid)
        if reply is None or not reply[0]:  # an account's key has no limits there: its batch will be refused
            return
        limits, time_ms = unpack_limits(reply[0]), int(reply[1])
        lookup.queue.knowledge.learn_limits(limits, time_ms, lookup.since_s, monotonic())
        if not lookup.queue.is_met:
            self._queues.meet(lookup.queue)
