"""When a node has more to do than it can: which requests it turns away, and how that stays cheap.

**What is measured** is how long requests have waited, from when their bytes were read to when they are looked at. It
is the queueing delay of the event loop, to which counting requests in flight is no guide: those may wait for the
upstream. A round is 20 ms, or a turn of the loop where that is longer. A wait that is long once (a large body, the
garbage collector, the machine) is no overload: two of the last few rounds have to have a long one in the mean. Not all
of them: thousands of requests that are looked at in one turn are answered in the next, in which few others come. For
the same reason a round without requests says something only if it was short, so that the loop had nothing to do.

**What is done**: while those means are above `CALM_S`, a request that has waited for `LATE_S` is answered 503 before
its body is looked at; one that has waited for `TOO_LATE_S` always is. The others are served, as many as can be in that
time; so those that are served are served soon, and a turn that is given thousands at once doesn't end long after its
answers could be of use.

**What keeps it cheap.** A 503 costs a part of an answer, so with ten times the load the node would do nothing else.
Therefore a connection that was turned away is not served again for a while: long enough that all of them together,
asking again at once, cost `BUDGET` of the node. That holds nobody up who waits for the `retry-after`, and bounds the
load that a fixed number of connections can make.

Its weakness: connections that a load balancer shares among callers hold the next caller up, by the same time (40 ms
for 100 connections, a second at most). And load that comes on new connections each time isn't held up by this; the
kernel's backlog and `--max-connections` bound it.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from typing import Final

from limiter_node.http.responses.whole_response import WholeResponse

log = logging.getLogger(__name__)

CALM_S: Final = 0.03
LATE_S: Final = 0.05
TOO_LATE_S: Final = 0.1
"""Turned away whatever was before: thousands that come at once are not to be served a second later."""
BUDGET: Final = 0.15
SHED_COST_S: Final = 60e-6
"""The time that it costs to read a request and to turn it away."""
MAX_PAUSE_S: Final = 1.0
"""The longest pause of a connection: as long as a 503 tells callers to wait."""

OVER_S: Final = 5.0
"""An overload is told to be over when nothing was turned away for so long."""

_MEASURE_EVERY_S = 0.02
_ROUNDS, _FULL_ROUNDS = 4, 2


class LoopLoad:
    """Measure how busy the event loop is, from `start` to `stop`."""

    def __init__(self) -> None:
        self.connections = 0
        """The number of connections; the server updates it now and then."""
        self.turned_away = 0
        """Requests that were turned away; the routes count them."""
        self._reported = self._before = 0
        self._overload_since_s: float | None = None
        self._last_turned_away_s = 0.0
        self._is_full = False
        self._waited_s, self._requests = 0.0, 0
        self._means: deque[float] = deque([0.0] * _ROUNDS, _ROUNDS)
        self._handle: asyncio.TimerHandle | None = None
        self._is_stopped = False

    def start(self) -> None:
        """Begin to measure, in the running loop."""
        loop = asyncio.get_running_loop()
        self._tick(loop, loop.time())

    def stop(self) -> None:
        """Measure no more; nothing is turned away from now on."""
        if self._handle is not None:
            self._handle.cancel()
        self._is_stopped = True

    def sheds(self, waited_s: float) -> bool:
        """Whether to turn away a request that has waited for so long. To be asked once for each."""
        self._waited_s += waited_s
        self._requests += 1
        return waited_s > LATE_S and (self._is_full or waited_s > TOO_LATE_S) and not self._is_stopped

    def pause_s(self) -> float:
        """The seconds for which a connection that was turned away is not read."""
        return min(MAX_PAUSE_S, self.connections * SHED_COST_S / BUDGET)

    def end_round(self, late_s: float = 0.0) -> None:
        """End a round of measuring, which took that much longer than a round has to."""
        if self._requests or late_s < CALM_S:
            self._means.append(self._waited_s / self._requests if self._requests else 0.0)
        self._waited_s, self._requests = 0.0, 0
        self._is_full = sum(mean > CALM_S for mean in self._means) >= _FULL_ROUNDS

    def report(self, now_s: float) -> None:
        """Log a line when requests begin to be turned away, and one when that is over."""
        if self.turned_away > self._reported:
            if self._overload_since_s is None:
                self._overload_since_s, self._before = now_s, self._reported
                log.warning("overloaded: requests are turned away with 503", extra={"event": "overload_began"})
            self._reported, self._last_turned_away_s = self.turned_away, now_s
        elif self._overload_since_s is not None and now_s - self._last_turned_away_s >= OVER_S:
            seconds, count = self._last_turned_away_s - self._overload_since_s, self._reported - self._before
            event = {"event": "overload_over", "seconds": round(seconds, 3), "turned_away": count}
            log.warning("no longer overloaded: in %.1f s %d requests were turned away", seconds, count, extra=event)
            self._overload_since_s = None

    def _tick(self, loop: asyncio.AbstractEventLoop, due_s: float) -> None:
        now_s = loop.time()
        self.end_round(now_s - due_s)
        self.report(now_s)
        due_s = now_s + _MEASURE_EVERY_S
        self._handle = loop.call_at(due_s, self._tick, loop, due_s)


class TurnedAway(WholeResponse):
    """A 503, and then nothing on this connection for `pause_s`; then `on_rested` is called.

    What came meanwhile has waited because of that, and not because there was much to do.
    """

    __slots__ = ("_on_rested", "_pause_s")

    def __init__(
        self, body: bytes, headers: str, status: int, pause_s: float, on_rested: Callable[[], None] = lambda: None
    ) -> None:
        super().__init__(body, headers, status)
        self._pause_s, self._on_rested = pause_s, on_rested

    async def write_eof(self) -> None:
        """Wait before the connection's next request is looked at. It has been read, but nothing was made of it."""
        await super().write_eof()
        if self.keep_alive:
            await asyncio.sleep(self._pause_s)
            self._on_rested()
