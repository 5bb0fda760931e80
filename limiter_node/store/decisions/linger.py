"""Settles that may wait for company: on a busy node most find the key's next batch to ride along with.

A settle by itself costs the store as much as a decision. Nobody waits for it, so it may wait up to `LINGER_S`; but what
it gives back is held meanwhile, so it waits only where that can't be felt: while all that waits for a key is below
1/64 of the tokens the key has left. Where a key is near its limit, or a request large for it, settles go at once.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from limiter_node.store.batch import KeyQueue

LINGER_S = 0.075
"""With the sweep that ends the wait, 100 ms at most: the width of a bucket."""
_SHARE_BITS = 6
_BUSY_OPERATIONS = 100
"""Operations from one sweep to the next that make a node a busy one: some 2,000 requests a second."""


class Linger:
    """The keys with settles that wait. `release` is called with each whose time is up or that has to go."""

    def __init__(self, release: Callable[[KeyQueue], None]) -> None:
        self._release = release
        self._keys: deque[tuple[float, KeyQueue]] = deque()
        self._operations = 0
        self.is_busy = False
        """Whether settles may wait at all."""

    def __bool__(self) -> bool:
        return bool(self._keys)

    def note_operations(self, operations: int) -> None:
        """How many there were up to now, at each sweep."""
        self.is_busy = operations - self._operations >= _BUSY_OPERATIONS
        self._operations = operations

    def holds(self, queue: KeyQueue, input_tokens: int, output_tokens: int, now_s: float) -> bool:
        """Whether a settle that was put into `queue` may wait; if so, the key is released in time."""
        if input_tokens < 0 or output_tokens < 0:
            return False  # it charges instead of giving back
        queue.held += input_tokens + output_tokens
        if queue.held << _SHARE_BITS > queue.knowledge.tokens_left():
            return False
        if not queue.lingers:
            queue.lingers = True
            self._keys.append((now_s + LINGER_S, queue))
        return True

    def sweep(self, now_s: float) -> None:
        """Release those whose time is up."""
        keys = self._keys
        while keys and keys[0][0] <= now_s:
            queue = keys.popleft()[1]
            queue.lingers = False
            self._release(queue)

    def release_all(self) -> None:
        """Release all, now."""
        self.sweep(float("inf"))
