"""Remembers the counts of repeated texts: system prompts, and the earlier messages of a growing conversation.

`limiter_node.tokens.vocabulary` counts. If the cache is full, by the bytes that it holds, the least recently used
counts make room. Weakness: each process has its own cache.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from hashlib import sha256
from sys import getsizeof

# Finding a text costs its hash, 0.2 µs at 200 characters; a new text also costs its entry, 1.3 µs. Counting 200
# characters costs 3 µs: from that length on, a cache is no slower than none even if two texts of three are new.
MIN_CHARS = 200
# A longer text is held as its digest: 1 µs per 1,000 characters, against 15 or more for counting them.
DIGEST_CHARS = 4_096
MAX_BYTES = 16 * 1_048_576

# The entry of an OrderedDict: its place in the table and in the order, and the count.
_ENTRY_BYTES = 200


class CountCache:
    """Count texts by `count` and remember the counts of the long ones, in up to `max_bytes`. Not thread-safe."""

    __slots__ = ("_count", "_entries", "_max_bytes", "held_bytes", "hits", "misses")

    def __init__(self, count: Callable[[str], int], *, max_bytes: int = MAX_BYTES) -> None:
        self._count = count
        self._entries: OrderedDict[str | bytes, int] = OrderedDict()
        self._max_bytes = max_bytes
        self.held_bytes = 0
        self.hits = self.misses = 0

    def count(self, text: str) -> int:
        """Return the count of `text`. Passes on the counter's exceptions, and then remembers nothing."""
        if len(text) < MIN_CHARS:
            return self._count(text)
        key = _key(text)
        found = self._find(key)
        if found is None:
            found = self._count(text)
            self._keep(key, found)
        return found

    def find(self, text: str) -> int | None:
        """Return the count of `text` if it is remembered, else None."""
        return None if len(text) < MIN_CHARS else self._find(_key(text))

    def keep(self, text: str, count: int) -> None:
        """Remember `count` as the count of `text`."""
        if len(text) >= MIN_CHARS:
            self._keep(_key(text), count)

    def _find(self, key: str | bytes) -> int | None:
        found = self._entries.get(key)
        if found is None:
            self.misses += 1
        else:
            self.hits += 1
            self._entries.move_to_end(key)
        return found

    def _keep(self, key: str | bytes, count: int) -> None:
        entries = self._entries
        if key not in entries:
            self.held_bytes += getsizeof(key) + _ENTRY_BYTES
        entries[key] = count
        while self.held_bytes > self._max_bytes:
            oldest, _ = entries.popitem(last=False)
            self.held_bytes -= getsizeof(oldest) + _ENTRY_BYTES

    def clear(self) -> None:
        """Forget all counts that the cache holds."""
        self._entries.clear()
        self.held_bytes = 0

    def __len__(self) -> int:
        return len(self._entries)


def _key(text: str) -> str | bytes:
    return text if len(text) <= DIGEST_CHARS else sha256(text.encode("utf-8", "surrogatepass")).digest()
