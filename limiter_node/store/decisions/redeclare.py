"""Keys that the store has lost: nodes declare them again, without an operator.

A store that came back without its data knows no keys. A node finds that out by the first request of a key, which waits
for it. Keys that were deleted on purpose leave a mark in the store and stay deleted. A node declares the latest that it
knows of a key:

- A key that was in the keys file and no longer is has been revoked. (The file is checked once a second.)
- The file counts if it changed the key after the store's last reply about it, or just before that.
- Otherwise the store's last reply counts: the key's limits, or that it was deleted, even if the store has lost the mark
  of the deletion since.

Weakness: a change that was made in the store alone, and that no living node has seen, is lost with the store.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Mapping
from enum import Enum, auto
from functools import partial
from time import monotonic
from typing import Any, Protocol

from limiter_node.limits import KeyLimits
from limiter_node.store.keyspace import deleted_key, limits_key, slot_of
from limiter_node.store.knowledge import KeyKnowledge
from limiter_node.store.scripts import load_script
from limiter_node.store.values import pack_limits
from limiter_node.store.wire.commands import bulk
from limiter_node.store.wire.routing_and_retries import RoutedCall, Router
from limiter_node.store.wire.script_target import ScriptTarget

log = logging.getLogger(__name__)

_LOOK_EVERY_S = 1.0
"""The keys file is checked at least this often."""
_FRESH_S = 0.02
"""The node's view of the file may be this old when a key is missing."""
_READ_PATIENCE_S = 0.05
"""A request waits this long for a large file to be read again. Then the file as read before decides about unknown keys;
known keys stay undecided."""
_FILE_FIRST_S = 1.0
"""A change reaches the file first: a reply of the store so soon after it may lack the change."""
_LOG_EVERY_S = 60.0


class DeclaredKeys(Protocol):
    """The keys file, as far as a dispatcher needs it."""

    def read(self) -> Mapping[str, KeyLimits]:
        """Return the file's keys by `kid`: the same object as before if the file hasn't changed. Called in a thread.

        Raises:
            LimiterError: it can't be read.
        """

    def changed_s_ago(self, kid: str) -> float:
        """Return the seconds since the file last changed its entry of `kid`, which it must have."""

    def was_declared(self, kid: str) -> bool:
        """Whether any reading of the file so far had this key."""


class Redeclared(Enum):
    """The outcome of declaring a missing key again."""

    DECLARED = auto()
    """The key is in the store again."""
    DELETED = auto()
    """The store has the mark that the key was deleted."""
    UNKNOWN = auto()
    """Nobody has declared the key."""
    FAILED = auto()
    """The store could not be asked whether the key was deleted: nothing is known."""


Done = Callable[[Redeclared, str], None]
"""Called with the outcome, and with the reason if that is `FAILED`."""


class _Redeclaration(RoutedCall):
    __slots__ = ("_done", "_packed")

    def __init__(self, router: Router, target: ScriptTarget, packed: bytes, done: Done) -> None:
        super().__init__(router, target, monotonic())
        self._packed, self._done = packed, done

    def arguments(self) -> bytes:
        return bulk((self._packed,))

    def is_wanted(self) -> bool:
        return not self.trouble  # a request waits for this, and must not wait for a store that decides nothing

    def on_result(self, reply: Any) -> None:
        if reply not in (0, 1):
            raise ValueError(f"{reply!r:.100}")
        self._done(Redeclared.DECLARED if reply == 1 else Redeclared.DELETED, "")

    def on_failed(self, reason: str) -> None:
        self._done(Redeclared.FAILED, reason)


class Redeclarer:
    """Declare missing keys for one node. `file`: its keys file, if it has one."""

    def __init__(self, router: Router, file: DeclaredKeys | None) -> None:
        self._router, self._file = router, file
        self._in_file: Mapping[str, KeyLimits] = {}
        self._fresh_until_s = float("-inf")
        self._reading: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._waiting: list[Callable[[], None]] = []
        self._script = load_script("redeclare")
        self._logged_s = self._logged_unreadable_s = float("-inf")
        self.counts: Counter[str] = Counter()
        """Keys declared again by the store's last reply ("store") and by the keys file ("file")."""

    def begin(self, kid: str, knowledge: KeyKnowledge | None, done: Done) -> bool:
        """Begin to declare a missing key. Return False, without beginning, if nobody declared it or it was revoked.

        `done` is called with the outcome. `knowledge` is the node's own, if it has met the key.
        """
        if self._file is None or monotonic() < self._fresh_until_s:
            return self._declare(kid, knowledge, done)

        is_open = True

        def go_on(*, was_read: bool = True) -> None:
            nonlocal is_open
            if not is_open:
                return
            is_open = False
            if not was_read and knowledge is not None and knowledge.exists:
                done(Redeclared.FAILED, "the keys file is being read")
            elif not self._declare(kid, knowledge, done):
                done(Redeclared.UNKNOWN, "")

        self._waiting.append(go_on)
        self._router.loop.call_later(_READ_PATIENCE_S, partial(go_on, was_read=False))
        self._start_reading(self._file)
        return True

    async def resolve(self, kid: str, knowledge: KeyKnowledge | None) -> tuple[Redeclared, str]:
        """Declare a missing key. Return the outcome, and the reason if that is `FAILED`."""
        result: asyncio.Future[tuple[Redeclared, str]] = self._router.loop.create_future()

        def done(redeclared: Redeclared, reason: str) -> None:
            if not result.done():
                result.set_result((redeclared, reason))

        return await result if self.begin(kid, knowledge, done) else (Redeclared.UNKNOWN, "")

    def start(self) -> None:
        """Check the file from now on, so that a key that leaves it later is known to have been there."""
        if self._file is not None:
            self._timer = self._router.loop.call_later(_LOOK_EVERY_S, self.start)
            self._start_reading(self._file)

    def close(self) -> None:
        """Stop checking the file."""
        if self._timer is not None:
            self._timer.cancel()
        if self._reading is not None:
            self._reading.cancel()

    def _start_reading(self, file: DeclaredKeys) -> None:
        if self._reading is None:
            self._reading = self._router.loop.create_task(self._read(file))

    async def _read(self, file: DeclaredKeys) -> None:
        try:
            self._in_file = await asyncio.to_thread(file.read)
        except Exception as error:  # whatever is wrong with the file now, the node keeps what it read before
            if monotonic() - self._logged_unreadable_s > _LOG_EVERY_S:
                self._logged_unreadable_s = monotonic()
                event = {"event": "keys_file_unreadable"}
                log.error("the keys file can no longer be read; its last content stays in use: %s", error, extra=event)
        self._fresh_until_s = monotonic() + _FRESH_S
        self._reading = None
        waiting, self._waiting = self._waiting, []
        for go_on in waiting:
            self._router.loop.call_soon(go_on)

    def _latest_word(self, kid: str, knowledge: KeyKnowledge | None) -> tuple[KeyLimits, str] | None:
        """Return the limits to declare, and their source; None if the key was revoked or nobody declared it."""
        in_file = self._in_file.get(kid)
        if knowledge is None or knowledge.exists is None:
            return None if in_file is None else (in_file, "file")
        limits = knowledge.last_limits()  # None: it was deleted
        if self._file is not None:
            if in_file is not None and self._file.changed_s_ago(kid) < knowledge.heard_s_ago() + _FILE_FIRST_S:
                return in_file, "file"
            if in_file is None and self._file.was_declared(kid):
                return None
        return None if limits is None else (limits, "store")

    def _declare(self, kid: str, knowledge: KeyKnowledge | None, done: Done) -> bool:
        word = self._latest_word(kid, knowledge)
        if word is None:
            return False
        limits, source = word
        in_file = self._in_file.get(kid)
        if not limits.name and in_file is not None:
            limits = KeyLimits(limits.rpm, limits.input_tpm, limits.output_tpm, limits.output_reserve, in_file.name)

        def ended(result: Redeclared, reason: str) -> None:
            if result is Redeclared.DECLARED:
                self._count(source)
            done(result, reason)

        keys = (limits_key(kid).encode(), deleted_key(kid).encode())
        target = ScriptTarget(self._script, slot_of(kid), keys, (), 1)
        self._router.send([_Redeclaration(self._router, target, pack_limits(limits), ended)])
        return True

    def _count(self, source: str) -> None:
        self.counts[source] += 1
        if monotonic() - self._logged_s > _LOG_EVERY_S:
            self._logged_s = monotonic()
            log.warning(
                "the store has lost keys, which are declared again: %d so far by its last reply, %d by the keys file",
                self.counts["store"],
                self.counts["file"],
                extra={"event": "keys_redeclared", **self.counts},
            )
