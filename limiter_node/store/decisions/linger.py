"""Settles that linger: on a busy node, most can join their key's next batch.

A settle by itself costs the store as much as a decision. Nobody waits for it, so it may linger for `LINGER_S`. But its
tokens stay reserved meanwhile, so it lingers only where nobody notices: while all lingering tokens of a key are
below 1/64 of those that the key has left. Where a key is near its limit, or a request large for it, settles go at once.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from limiter_node.store.batch import SendQueue
from limiter_node.telemetry import BatchSizes

LINGER_S = 0.075
"""The sweep that ends the wait makes it 100 ms at most: the width of a bucket."""
_SHARE_BITS = 6
_BUSY_OPERATIONS = 100
"""Operations from one sweep to the next that make a node a busy one: some 2,000 requests a second."""


class LingeringSettles:
    """Hold the keys with settles that linger. `release` is called with each key whose time is up.

    `batch_sizes` shows how busy the node is.
    """

    def __init__(self, release: Callable[[SendQueue], None], batch_sizes: BatchSizes) -> None:
        self._release, self._batch_sizes = release, batch_sizes
        self._keys: deque[tuple[float, SendQueue]] = deque()
        self._operations = 0
        self.is_busy = False
        """Whether settles may linger at all."""

    def __bool__(self) -> bool:
        return bool(self._keys)

    def note_operations(self) -> None:
        """Find out whether the node is busy, by the operations sent since the last call, one sweep ago."""
        operations = self._batch_sizes.operations
        self.is_busy = operations - self._operations >= _BUSY_OPERATIONS
        self._operations = operations

    def add(self, queue: SendQueue, input_tokens: int, output_tokens: int, now_s: float) -> bool:
        """Let a settle that was put into `queue` linger, if it may. Return whether it does."""
        if input_tokens < 0 or output_tokens < 0:
            return False  # it charges, which must not wait
        queue.lingering_tokens += input_tokens + output_tokens
        if queue.lingering_tokens << _SHARE_BITS > queue.tokens_left():
            return False
        if not queue.is_lingering:
            queue.is_lingering = True
            self._keys.append((now_s + LINGER_S, queue))
        return True

    def sweep(self, now_s: float) -> None:
        """Release the keys whose time is up."""
        keys = self._keys
        while keys and keys[0][0] <= now_s:
            queue = keys.popleft()[1]
            queue.is_lingering = False
            self._release(queue)

    def release_all(self) -> None:
        """Release all keys now, for a node that stops."""
        self.sweep(float("inf"))
