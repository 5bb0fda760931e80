"""Keys that the store has lost: declared again, so that they heal by themselves.

A store that came back without its data knows no keys. A node finds that out by the first request of a key, which waits
for it. Keys that were deleted on purpose leave a mark in the store and stay deleted. What is declared is the latest
word that the node has:

- A key that was in the keys file and isn't any more has been revoked. (The file is looked at once a second.)
- The file's word on a key counts if it said something new of it after the store's last word, or just before it.
- Otherwise the store's last word counts: the key's limits, or that it was deleted, even if the store has lost its mark
  of that since.

Weakness: a change in the store alone that no living node has heard of is lost with the store.
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
"""The keys file is looked at this often in any case."""
_FRESH_S = 0.02
"""The node's view of the file may be this old when a key is missing."""
_READ_PATIENCE_S = 0.05
"""A request waits this long for a large file to be read again. Then the file as it was read before decides on unknown
keys, and nobody on known ones."""
_FILE_FIRST_S = 1.0
"""A change reaches the file first: what the store said so soon after it, it may have said without the change."""
_LOG_EVERY_S = 60.0


class DeclaredKeys(Protocol):
    """The keys file, as far as a dispatcher needs it."""

    def read(self) -> Mapping[str, KeyLimits]:
        """Return the file's keys by `kid`: the same object as before if the file hasn't changed. Called in a thread.

        Raises:
            LimiterError: it can't be read.
        """

    def changed_s_ago(self, kid: str) -> float:
        """Return how many seconds ago the file last said something new of a key that it has."""

    def was_declared(self, kid: str) -> bool:
        """Whether the file had this key when it was read, at any time."""


class Redeclared(Enum):
    """What came of a missing key."""

    DECLARED = auto()
    """The key is in the store again."""
    DELETED = auto()
    """The store says that the key was deleted."""
    UNKNOWN = auto()
    """Nobody has declared the key."""
    FAILED = auto()
    """The store could not be asked whether the key was deleted: nothing is known."""


Done = Callable[[Redeclared, str], None]
"""Called with what came of a missing key, and the reason where that is `FAILED`."""


class _Redeclaration(RoutedCall):
    __slots__ = ("_done", "_packed")

    def __init__(self, router: Router, target: ScriptTarget, packed: bytes, done: Done) -> None:
        super().__init__(router, target, monotonic())
        self._packed, self._done = packed, done

    def arguments(self) -> bytes:
        return bulk((self._packed,))

    def is_wanted(self) -> bool:
        return not self.trouble  # a request waits for it: it must not wait for a store that decides nothing

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
        """Keys declared again by the store's last word ("store") and by the keys file ("file")."""

    def begin(self, kid: str, knowledge: KeyKnowledge | None, done: Done) -> bool:
        """Begin to declare a missing key; return False, and don't, if nobody has declared it or it has been revoked.

        `done` is called once it is known what came of it. `knowledge` is the node's own, if it has met the key.
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
        """Declare a missing key; return what came of it, and the reason where that is `FAILED`."""
        result: asyncio.Future[tuple[Redeclared, str]] = self._router.loop.create_future()

        def done(redeclared: Redeclared, reason: str) -> None:
            if not result.done():
                result.set_result((redeclared, reason))

        return await result if self.begin(kid, knowledge, done) else (Redeclared.UNKNOWN, "")

    def start(self) -> None:
        """Look at the file from now on: a key that leaves it later has to be known to have been there."""
        if self._file is not None:
            self._timer = self._router.loop.call_later(_LOOK_EVERY_S, self.start)
            self._start_reading(self._file)

    def close(self) -> None:
        """Stop looking at the file."""
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
        except Exception as error:  # whatever is wrong with the file by now, the node goes on with what it had read
            if monotonic() - self._logged_unreadable_s > _LOG_EVERY_S:
                self._logged_unreadable_s = monotonic()
                log.error("the keys file cannot be read any more: %s", error, extra={"event": "keys_file_unreadable"})
        self._fresh_until_s = monotonic() + _FRESH_S
        self._reading = None
        waiting, self._waiting = self._waiting, []
        for go_on in waiting:
            self._router.loop.call_soon(go_on)

    def _latest_word(self, kid: str, knowledge: KeyKnowledge | None) -> tuple[KeyLimits, str] | None:
        """Return the limits to declare, and who said so; None where the key has been revoked or nobody declared it."""
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
                "the store has lost keys: they are declared again as it last told them (%d so far) or as the keys file "
                "has them (%d)",
                self.counts["store"],
                self.counts["file"],
                extra={"event": "keys_redeclared", **self.counts},
            )
