"""Keys that the store has lost and that a keys file declares: declared again, so that they heal by themselves.

A store that came back without its data knows no keys. A node that was given the keys file finds that out by the first
request of a key, which waits for it. Keys that were deleted on purpose leave a mark behind and stay deleted. Weakness:
a store that has lost all has lost such marks, too; so a key that is to stay deleted has to leave the file as well.
"""

from __future__ import annotations

import asyncio
import logging
from binascii import crc_hqx
from collections.abc import Callable, Mapping
from typing import Any

from limiter_node.model import KeyLimits
from limiter_node.store.batch import KeyQueue
from limiter_node.store.codec import load_script, pack_limits
from limiter_node.store.keyspace import deleted_key, limits_key
from limiter_node.store.routing import RoutedCall, Router, ScriptTarget, bulk

log = logging.getLogger(__name__)

_ASK_AGAIN_S = 10.0
"""How long a key that was deleted isn't asked about again."""
_TELL_EVERY_S = 60.0


class _Redeclaration(RoutedCall):
    __slots__ = ("_done", "_packed")

    def __init__(self, router: Router, target: ScriptTarget, packed: bytes, done: Callable[[bool], None]) -> None:
        super().__init__(router, target, router.loop.time())
        self._packed, self._done = packed, done

    def arguments(self) -> bytes:
        return bulk((self._packed,))

    def is_wanted(self) -> bool:
        return True

    def resolved(self, reply: Any) -> None:
        self._done(int(reply) == 1)

    def failed(self, reason: str) -> None:
        self._done(False)


class Redeclaring:
    """`declared` reads the keys file, by ``kid``; it is called once, in a thread, when a key is first found missing."""

    def __init__(self, router: Router, declared: Callable[[], Mapping[str, KeyLimits]] | None) -> None:
        self._router = router
        self._declared = declared
        self._limits: Mapping[str, KeyLimits] | None = None
        self._reading: asyncio.Task[None] | None = None
        self._waiting: list[tuple[KeyQueue, Callable[[bool], None]]] = []
        self._script = load_script("redeclare")
        self._deleted: dict[str, float] = {}
        self._told_s = float("-inf")
        self.redeclared = 0

    def takes(self, queue: KeyQueue, done: Callable[[bool], None]) -> bool:
        """Whether this key may be declared; `done` is then called with whether it is there again."""
        if self._declared is None:
            return False
        if self._limits is None:
            self._waiting.append((queue, done))
            if self._reading is None:
                self._reading = self._router.loop.create_task(self._read())
            return True
        limits = self._limits.get(queue.kid)
        if limits is None or self._deleted.get(queue.kid, 0.0) > self._router.loop.time():
            return False
        self._declare(queue, limits, done)
        return True

    def close(self) -> None:
        """Stop reading."""
        if self._reading is not None:
            self._reading.cancel()

    async def _read(self) -> None:
        assert self._declared is not None
        try:
            self._limits = await asyncio.to_thread(self._declared)
        except Exception as error:  # whatever is wrong with the file by now, the node goes on without it
            log.error("the keys file cannot be read any more: %s", error, extra={"event": "keys_file_unreadable"})
            self._limits = {}
        waiting, self._waiting = self._waiting, []
        for queue, done in waiting:
            if not self.takes(queue, done):
                done(False)

    def _declare(self, queue: KeyQueue, limits: KeyLimits, done: Callable[[bool], None]) -> None:
        kid = queue.kid

        def ended(is_there: bool) -> None:
            now_s = self._router.loop.time()
            if is_there:
                self.redeclared += 1
                if now_s - self._told_s > _TELL_EVERY_S:
                    self._told_s = now_s
                    log.warning(
                        "the store has lost keys that the keys file declares: they are declared again",
                        extra={"event": "keys_redeclared"},
                    )
            else:
                if len(self._deleted) > len(self._limits or ()) // 2 + 100:
                    self._deleted = {each: until_s for each, until_s in self._deleted.items() if until_s > now_s}
                self._deleted[kid] = now_s + _ASK_AGAIN_S
            done(is_there)

        keys = (limits_key(kid).encode(), deleted_key(kid).encode())
        target = ScriptTarget(self._script, crc_hqx(kid.encode(), 0) % 16384, keys, (), 1)
        self._router.send([_Redeclaration(self._router, target, pack_limits(limits), ended)])
