"""Turns for connections that bring much at once, so that none of them has the event loop for itself.

uvloop reads a connection up to 32 times in a turn while more is there, 256 KB each time: one fast service could have
the node read 8 MB of events, half a second's work, while everybody else waits. A connection that brings more than
`READ_SLICE_BYTES` at once is therefore taken in slice by slice, in turn with others of its kind, for `TURN_S` at most
in each turn of the event loop. Small pieces, as most are, skip this.

Large bodies of callers have turns of another kind: `limiter_node.http.bodies.body_turns`.
"""

from __future__ import annotations

import asyncio
from collections import deque
from time import monotonic
from typing import Final, Protocol

READ_SLICE_BYTES: Final = 8_192
"""The size of a slice: some sixty events, which take about half a millisecond."""
TURN_S: Final = 0.001
"""The time for slices in each turn of the event loop; at least one slice is taken."""


class SlicedReader(Protocol):
    """Describe a connection that brought more than a slice at once."""

    def take_slice(self) -> bool:
        """Take in one slice of the received bytes. Return whether there are more."""


class ReadTurns:
    """Hold the connections that wait for their turn to take in a slice."""

    def __init__(self) -> None:
        self._waiting: deque[SlicedReader] = deque()
        self._is_scheduled = False

    def add(self, connection: SlicedReader) -> None:
        """Let the connection take its slices from the next turn of the event loop on; it must not wait already."""
        self._waiting.append(connection)
        self._schedule()

    def _schedule(self) -> None:
        if not self._is_scheduled:
            self._is_scheduled = True
            asyncio.get_running_loop().call_soon(self._take)

    def _take(self) -> None:
        self._is_scheduled = False
        until_s = monotonic() + TURN_S
        waiting = self._waiting
        while waiting:
            connection = waiting.popleft()
            if connection.take_slice():
                waiting.append(connection)
            if monotonic() >= until_s:
                break
        if waiting:
            self._schedule()
