"""One timer for all deadlines of a node: it runs as long as anything waits, and costs nothing while nothing does."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

log = logging.getLogger(__name__)

SWEEP_EVERY_S = 0.025
_LATE_S = 0.02
"""A sweep that comes this much too late means that this node stood still; replies may have come, unread."""


class Sweeper:
    """Call `sweep` every `SWEEP_EVERY_S` until it returns False: nothing waits any more.

    Its arguments are the loop's time, and whether the sweep comes too late to blame anybody else for being late: never
    twice in a row, because between two sweeps the loop has read what there was. `on_armed` is called before each wait.
    """

    __slots__ = ("_due_s", "_is_closed", "_loop", "_on_armed", "_sweep", "_timer", "_was_late", "is_running")

    def __init__(self, sweep: Callable[[float, bool], bool], on_armed: Callable[[], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._sweep, self._on_armed = sweep, on_armed
        self._timer: asyncio.TimerHandle | None = None
        self._due_s = 0.0
        self._was_late = self._is_closed = False
        self.is_running = False

    def start(self) -> None:
        """Sweep from now on, as long as anything waits; not after the end."""
        if not self.is_running and not self._is_closed:
            self.is_running = True
            self._arm()

    def close(self) -> None:
        """Sweep no more."""
        self._is_closed, self.is_running = True, False
        if self._timer is not None:
            self._timer.cancel()

    def _arm(self) -> None:
        self._on_armed()
        self._due_s = self._loop.time() + SWEEP_EVERY_S
        self._timer = self._loop.call_later(SWEEP_EVERY_S, self._run)

    def _run(self) -> None:
        now_s = self._loop.time()
        self._was_late = not self._was_late and now_s - self._due_s > _LATE_S
        try:
            self.is_running = self._sweep(now_s, self._was_late)
        except Exception:
            # Whatever went wrong, sweep again: otherwise no request that waits too long would ever fail.
            log.exception("the check of deadlines failed; the next sweep repeats it", extra={"event": "sweep_failed"})
        if self.is_running:
            self._arm()
