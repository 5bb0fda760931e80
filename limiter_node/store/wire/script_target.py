"""The part of a script call that is the same each time: script, slot and keys, packed once."""

from __future__ import annotations

from collections.abc import Sequence

from limiter_node.store.scripts import Script
from limiter_node.store.wire.commands import bulk


class ScriptTarget:
    """Hold a script with the keys of one slot: all of its command that is the same each time, packed once.

    The script's source, which is many times as long as the rest, is put in only where it is sent.
    """

    __slots__ = ("_keys_at", "_script", "_words", "by_sha", "slot")

    def __init__(self, script: Script, slot: int, keys: Sequence[bytes], arguments: Sequence[bytes], more: int) -> None:
        """`more` further arguments follow `arguments` with each call."""
        self.slot = slot
        self._script, self._words = script, 3 + len(keys) + len(arguments) + more
        head = self._head(b"EVALSHA", script.sha)
        self._keys_at = len(head)
        self.by_sha = head + bulk((b"%d" % len(keys), *keys, *arguments))

    @property
    def by_source(self) -> bytes:
        """The head of the command with the script's source, for a server that doesn't have it."""
        return self._head(b"EVAL", self._script.source) + self.by_sha[self._keys_at :]

    def _head(self, command: bytes, script: bytes) -> bytes:
        return b"*%d\r\n" % self._words + bulk((command, script))
