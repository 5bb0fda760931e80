"""Keys that the store has lost: nodes declare them again, without an operator.

A store that came back without its data knows no keys. A node finds that out by the first request of a key, which waits
for it. Keys that were deleted on purpose leave a mark in the store and stay deleted. A node declares the latest that it
knows of a key:

- A key that was in the keys file and no longer is has been revoked. (The file is checked once a second.)
- The file counts if it changed the key after the store's last reply about it, or just before that.
- Otherwise the store's last reply counts: the key's limits, or that it was deleted, even if the store has lost the mark
  of the deletion since.

Weakness: a change that was made in the store alone, and that no living node has seen, is lost with the store.

This module does it for plain keys, `store.decisions.redeclare_accounts` for accounts and their keys.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable
from enum import Enum, auto
from time import monotonic
from typing import Any

from limiter_node.limits import KeyLimits
from limiter_node.store.decisions.declared_file import DeclaredFile
from limiter_node.store.keyspace import declared_key, deleted_key, limits_key, slot_of
from limiter_node.store.knowledge import KeyKnowledge
from limiter_node.store.scripts import load_script
from limiter_node.store.values import PlainRecord, pack_limits, pack_record
from limiter_node.store.wire.commands import bulk
from limiter_node.store.wire.routing_and_retries import RoutedCall, Router
from limiter_node.store.wire.script_target import ScriptTarget

log = logging.getLogger(__name__)

_LOG_EVERY_S = 60.0


class Redeclared(Enum):
    """The outcome of declaring a missing key again."""

    DECLARED = auto()
    """The key is in the store again."""
    ELSEWHERE = auto()
    """The key is in the store, but not where this node knows it: it was made, or declared, elsewhere meanwhile."""
    DELETED = auto()
    """The store has the mark that the key was deleted."""
    UNKNOWN = auto()
    """Nobody has declared the key."""
    FAILED = auto()
    """The store could not be asked whether the key was deleted: nothing is known."""


Done = Callable[[Redeclared, str], None]
"""Called with the outcome, and with the reason if that is `FAILED`."""


class RedeclaredCounts:
    """Count and log what one node declares again."""

    def __init__(self) -> None:
        self._logged_s = float("-inf")
        self.counts: Counter[str] = Counter()
        """Keys and accounts declared again by the store's last reply ("store") and by the keys file ("file")."""

    def add(self, source: str) -> None:
        """Count a key or an account that was declared again."""
        self.counts[source] += 1
        if monotonic() - self._logged_s > _LOG_EVERY_S:
            self._logged_s = monotonic()
            log.warning(
                "the store has lost keys or accounts, which are declared again: "
                "%d so far by its last reply, %d by the keys file",
                self.counts["store"],
                self.counts["file"],
                extra={"event": "keys_redeclared", **self.counts},
            )


class _Redeclaration(RoutedCall):
    __slots__ = ("_done", "_values")

    def __init__(self, router: Router, target: ScriptTarget, values: tuple[bytes, bytes], done: Done) -> None:
        super().__init__(router, target, monotonic())
        self._values, self._done = values, done

    def arguments(self) -> bytes:
        return bulk(self._values)

    def is_wanted(self) -> bool:
        return not self.trouble  # a request waits for this, and must not wait for a store that decides nothing

    def on_result(self, reply: Any) -> None:
        if reply not in (0, 1):
            raise ValueError(f"{reply!r:.100}")
        self._done(Redeclared.DECLARED if reply == 1 else Redeclared.DELETED, "")

    def on_failed(self, reason: str) -> None:
        self._done(Redeclared.FAILED, reason)


class Redeclarer:
    """Declare missing plain keys for one node."""

    def __init__(self, router: Router, declared: DeclaredFile, counts: RedeclaredCounts) -> None:
        self._router, self._declared, self._counts = router, declared, counts
        self._script = load_script("redeclare")

    def begin(self, kid: str, knowledge: KeyKnowledge | None, done: Done) -> bool:
        """Begin to declare a missing key. Return False, without beginning, if nobody declared it or it was revoked.

        `done` is called with the outcome. `knowledge` is the node's own, if it has met the key.
        """
        if self._declared.is_fresh:
            return self._declare(kid, knowledge, done)

        def go_on(was_read: bool) -> None:
            if not was_read and knowledge is not None and knowledge.exists:
                done(Redeclared.FAILED, "the keys file is being read")
            elif not self._declare(kid, knowledge, done):
                done(Redeclared.UNKNOWN, "")

        self._declared.when_read(go_on)
        return True

    async def resolve(self, kid: str, knowledge: KeyKnowledge | None) -> tuple[Redeclared, str]:
        """Declare a missing key. Return the outcome, and the reason if that is `FAILED`."""
        result: asyncio.Future[tuple[Redeclared, str]] = self._router.loop.create_future()

        def done(redeclared: Redeclared, reason: str) -> None:
            if not result.done():
                result.set_result((redeclared, reason))

        return await result if self.begin(kid, knowledge, done) else (Redeclared.UNKNOWN, "")

    def _latest_word(self, kid: str, knowledge: KeyKnowledge | None) -> tuple[KeyLimits, str] | None:
        """Return the limits to declare, and their source; None if it was revoked or nobody declared it as plain."""
        in_file = self._declared.key(kid)
        by_file = (in_file, "file") if isinstance(in_file, KeyLimits) else None
        if knowledge is None or knowledge.exists is None:
            return by_file
        if in_file is not None and self._declared.is_later(kid, knowledge.heard_s_ago()):
            return by_file
        if self._declared.is_revoked(kid):
            return None
        limits = knowledge.last_limits()  # None: it was deleted
        return None if limits is None else (limits, "store")

    def _declare(self, kid: str, knowledge: KeyKnowledge | None, done: Done) -> bool:
        word = self._latest_word(kid, knowledge)
        if word is None:
            return False
        limits, source = word
        in_file = self._declared.key(kid)
        if not limits.name and isinstance(in_file, KeyLimits):
            limits = KeyLimits(limits.rpm, limits.input_tpm, limits.output_tpm, limits.output_reserve, in_file.name)

        def ended(result: Redeclared, reason: str) -> None:
            if result is Redeclared.DECLARED:
                self._counts.add(source)
            done(result, reason)

        # The file's limits that the key gets now, or got at the node's start: a person may have changed them since.
        applied = in_file if source == "file" else self._declared.at_start(kid)
        record = pack_record(PlainRecord(pack_limits(applied))) if isinstance(applied, KeyLimits) else b""
        keys = tuple(each(kid).encode() for each in (limits_key, deleted_key, declared_key))
        target = ScriptTarget(self._script, slot_of(kid), keys, (), 2)
        self._router.send([_Redeclaration(self._router, target, (pack_limits(limits), record), ended)])
        return True
