"""The live view of a run: one line, refreshed each second on a terminal, a plain line every few seconds elsewhere."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import TextIO

from bench_client.clock import NS_PER_S, clock_ns
from bench_client.sending.outcome import SendSnapshot

TERMINAL_PERIOD_S = 1.0
PLAIN_PERIOD_S = 5.0


class LiveView:
    """Show snapshots from ``read`` until the block ends."""

    def __init__(
        self,
        read: Callable[[], SendSnapshot],
        start_ns: Callable[[], int],
        duration_s: float,
        stream: TextIO | None = None,
    ) -> None:
        """``start_ns`` returns the start of the schedule, in ``clock_ns``; 0 until it is known."""
        self._read = read
        self._start_ns = start_ns
        self._duration_s = duration_s
        self._stream = stream if stream is not None else sys.stderr
        self._is_terminal = self._stream.isatty()
        self._last = (0, 0, 0)

    @asynccontextmanager
    async def shown(self) -> AsyncIterator[None]:
        """Show the view while the block runs."""
        task = asyncio.get_running_loop().create_task(self.run())
        try:
            yield
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    async def run(self) -> None:
        """Show the view until cancelled."""
        try:
            while True:
                await asyncio.sleep(TERMINAL_PERIOD_S if self._is_terminal else PLAIN_PERIOD_S)
                if self._start_ns():
                    self._write(self.line(clock_ns()))
        finally:
            if self._is_terminal:
                self._stream.write("\r\x1b[K")
                self._stream.flush()

    def line(self, now_ns: int) -> str:
        """Return the line. Rates and p99 are of the time since the last line, counts since the start."""
        snapshot, start_ns = self._read(), self._start_ns()
        statuses, total = snapshot.statuses, sum(snapshot.statuses.values())
        then_ns, dispatched, answered = self._last
        seconds = max(now_ns - (then_ns or start_ns), 1) / NS_PER_S
        offered, achieved = snapshot.dispatched - dispatched, total - answered
        self._last = (now_ns, snapshot.dispatched, total)
        samples = sorted(snapshot.latency_samples)
        p99 = f"{samples[int(len(samples) * 0.99)] / 1e6:.1f} ms" if samples else "-"
        elapsed_s = max(now_ns - start_ns, 0) / NS_PER_S
        admitted, rejected = statuses.get(200, 0), statuses.get(429, 0)
        return (
            f"{elapsed_s:5.0f}/{self._duration_s:.0f} s  offered {offered / seconds:7,.0f}/s  "
            f"achieved {achieved / seconds:7,.0f}/s  200 {admitted:,}  429 {rejected:,}  "
            f"errors {snapshot.errors + total - admitted - rejected:,}  p99 {p99}"
        )

    def _write(self, line: str) -> None:
        self._stream.write(f"\r{line}\x1b[K" if self._is_terminal else line + "\n")
        self._stream.flush()
