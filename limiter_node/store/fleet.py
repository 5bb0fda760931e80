"""Counts the live nodes and checks that they share one storage format: each node announces itself in the store once a
second, and the reply holds both (``lua/announce.lua``).

One hash for the whole fleet, on the shard that its slot falls to. While that shard is away the number stays as it
was: a node that joins then knows no key yet that it could decide without the store, and one that leaves makes the
others' shares too small, not too large. Weaknesses: for `OLDEST_MS` after a node has died it still counts. A node that
started while that shard was away learns of another format only when the shard is back, up to a second later, and has
decided by its own format until then.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Callable
from typing import Any

from limiter_node.errors import OtherFormat
from limiter_node.store.keyspace import FORMAT_KEY, NODES_KEY, NODES_TAG, STORAGE_FORMAT, slot_of
from limiter_node.store.scripts import load_script
from limiter_node.store.wire.commands import bulk
from limiter_node.store.wire.routing_and_retries import RoutedCall, Router
from limiter_node.store.wire.script_target import ScriptTarget

log = logging.getLogger(__name__)

EVERY_S = 1.0
OLDEST_MS = 5_000
_KNOWS_ACCOUNTS = b"n"
"""The first byte of the id of a node that can decide keys of accounts; the ids of older versions are hex digits."""


def new_node_id() -> bytes:
    """Return 8 bytes that stand for a process, new at each start."""
    return _KNOWS_ACCOUNTS + secrets.token_urlsafe(6)[:7].encode()


def knows_accounts(node_id: bytes) -> bool:
    """Whether a node's version can decide keys of accounts."""
    return node_id.startswith(_KNOWS_ACCOUNTS)


class _Announcement(RoutedCall):
    """One script call; a late reply is of no use, so it isn't tried again for long."""

    __slots__ = ("_fleet", "_is_here")

    def __init__(self, fleet: Fleet, router: Router, target: ScriptTarget, *, is_here: bool) -> None:
        super().__init__(router, target, router.loop.time())
        self._fleet, self._is_here = fleet, is_here

    def arguments(self) -> bytes:
        return bulk((b"%d" % self._is_here, b"%d" % OLDEST_MS, b"%d" % STORAGE_FORMAT))

    def is_wanted(self) -> bool:
        return self._fleet.wants(self)

    def on_result(self, reply: Any) -> None:
        if isinstance(reply, bytes):
            self._fleet.on_refused(self, OtherFormat(reply, STORAGE_FORMAT))
        else:
            self._fleet.on_nodes(self, int(reply))

    def on_failed(self, reason: str) -> None:
        self._fleet.on_nodes(self, None)


class Fleet:
    """Announce this process. `nodes` is the number of live nodes by the last reply, 0 before the first.

    `on_other_format` is called once, if nodes of another storage format use the store: this node has to end then.
    """

    def __init__(
        self, router: Router, incarnation: bytes, on_other_format: Callable[[OtherFormat], None] | None = None
    ) -> None:
        self._router, self._on_other_format = router, on_other_format
        self._target = ScriptTarget(
            load_script("announce"),
            slot_of(NODES_TAG),
            (NODES_KEY.encode(), FORMAT_KEY.encode()),
            (incarnation,),
            3,
        )
        self._call: _Announcement | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._left = asyncio.Event()
        self._is_refused = False
        self.nodes = 0

    def start(self) -> None:
        """Announce this process from now on, once a second."""
        self._timer = self._router.loop.call_later(EVERY_S, self.start)
        if self._call is None:
            self._send(is_here=True)

    async def leave(self, timeout_s: float) -> None:
        """Announce that this node leaves; best effort."""
        if self._timer is None:
            return
        self._timer.cancel()
        self._left.clear()
        self._send(is_here=False)
        try:
            async with asyncio.timeout(timeout_s):
                await self._left.wait()
        except TimeoutError:
            log.debug("could not announce that this node leaves")
        self._call = None

    def wants(self, call: _Announcement) -> bool:
        """Whether `call` is the newest announcement."""
        return call is self._call

    def on_nodes(self, call: _Announcement, nodes: int | None) -> None:
        """Take the store's count of nodes; None if it couldn't be asked."""
        if call is self._call:
            self._call = None
            self._left.set()
            if nodes:
                self.nodes = nodes

    def on_refused(self, call: _Announcement, error: OtherFormat) -> None:
        """Report once that live nodes use another storage format."""
        self.on_nodes(call, None)
        if not self._is_refused:
            self._is_refused = True
            log.error("%s", error, extra={"event": "other_storage_format"})
            if self._on_other_format is not None:
                self._on_other_format(error)

    def _send(self, *, is_here: bool) -> None:
        self._call = _Announcement(self, self._router, self._target, is_here=is_here)
        self._router.send([self._call])
