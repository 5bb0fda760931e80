"""When a node has more to do than it can: which requests it turns away, and how that stays cheap.

**What is measured** is the time of one turn of the event loop. Whatever arrives waits for the turn under way before it
is even looked at, and is decided some turns later, so that this time is the queueing delay, wherever in the node the
queue is; counting requests in flight would mistake slow answers of the upstream for work. A turn that is long once (a
large body, the garbage collector) is no overload: the shortest of the last few turns counts.

**What is done**: from `CALM_S` on, a share of the requests is answered 503 before their bodies are read; the share
grows with the delay and is everything at `FULL_S`. Below `CALM_S` nothing is turned away, whatever the load.

**What keeps it cheap.** A 503 costs about a third of an answer, so with ten times the load the node would do nothing
else. Therefore a connection that was turned away is not served again for a while: long enough that all of them
together, asking again at once, cost `BUDGET` of the node. That holds nobody up who waits for the `retry-after`, and
bounds the load that a fixed number of connections can make.

Its weakness: connections that a load balancer shares among callers hold the next caller up, by the same time (20 ms
for 100 connections, a second at most). And load that comes on new connections each time isn't held up by this; the
kernel's backlog and `--max-connections` bound it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Final

from limiter_node.http.answer import Answer

CALM_S: Final = 0.04
FULL_S: Final = 0.12
BUDGET: Final = 0.15
SHED_COST_S: Final = 30e-6
"""What it costs to read a request and to turn it away."""
MAX_PAUSE_S: Final = 1.0
"""What a 503 tells callers to wait."""

_MEASURE_EVERY_S = 0.02
_TURNS = 3


class LoopLoad:
    """How busy the event loop is. `start` it, and `stop` it in the end."""

    def __init__(self) -> None:
        self.share = 0.0
        """Of the requests, what is to be turned away. `sheds` need not be asked while it is 0."""
        self.connections = 0
        """How many there are, told by the server now and then."""
        self._turned_away = 0.0
        self._turns: deque[float] = deque([0.0] * _TURNS, _TURNS)
        self._handle: asyncio.Handle | None = None

    def start(self) -> None:
        """Begin to measure, in the running loop."""
        self._tick(asyncio.get_running_loop())

    def stop(self) -> None:
        """Measure no more; nothing is turned away from now on."""
        if self._handle is not None:
            self._handle.cancel()
        self.share = 0.0

    def sheds(self) -> bool:
        """Whether to turn this request away: the share, spread evenly."""
        self._turned_away += self.share
        if self._turned_away < 1:
            return False
        self._turned_away -= 1
        return True

    def pause_s(self) -> float:
        """How long a connection that was turned away is left alone."""
        return min(MAX_PAUSE_S, self.connections * SHED_COST_S / BUDGET)

    def turn_took(self, turn_s: float) -> None:
        """A turn of the loop took so long."""
        self._turns.append(turn_s)
        self.share = min(1.0, max(0.0, (min(self._turns) - CALM_S) / (FULL_S - CALM_S)))

    def _tick(self, loop: asyncio.AbstractEventLoop) -> None:
        self._handle = loop.call_soon(self._next_turn, loop, loop.time())

    def _next_turn(self, loop: asyncio.AbstractEventLoop, since_s: float) -> None:
        self.turn_took(loop.time() - since_s)
        self._handle = loop.call_later(_MEASURE_EVERY_S, self._tick, loop)


class TurnedAway(Answer):
    """A 503, and then nothing on this connection for `pause_s`."""

    __slots__ = ("_pause_s",)

    def __init__(self, body: bytes, headers: str, status: int, pause_s: float) -> None:
        super().__init__(body, headers, status)
        self._pause_s = pause_s

    async def write_eof(self) -> None:
        """Wait before the connection's next request is looked at. It has been read, but nothing was made of it."""
        await super().write_eof()
        if self.keep_alive:
            await asyncio.sleep(self._pause_s)
