"""The live view of a run: one line, refreshed each second on a terminal, a plain line every few seconds elsewhere."""

from __future__ import annotations

import asyncio
import sys
from typing import TextIO

from .alarm import NS_PER_S, clock_ns
from .sender import Sender

TERMINAL_PERIOD_S = 1.0
PLAIN_PERIOD_S = 5.0


class Progress:
    """Reads the sender's counters; runs until cancelled."""

    def __init__(self, sender: Sender, duration_s: float, stream: TextIO | None = None) -> None:
        self._sender = sender
        self._duration_s = duration_s
        self._stream = stream if stream is not None else sys.stderr
        self._terminal = self._stream.isatty()
        self._last = (0, 0, 0)

    async def run(self) -> None:
        try:
            while True:
                await asyncio.sleep(TERMINAL_PERIOD_S if self._terminal else PLAIN_PERIOD_S)
                if self._sender.start_ns:
                    self._write(self.line(clock_ns()))
        finally:
            if self._terminal:
                self._stream.write("\r\x1b[K")
                self._stream.flush()

    def line(self, now_ns: int) -> str:
        """Rates and p99 are of the time since the last line, counts since the start."""
        sender = self._sender
        then_ns, dispatched, answered = self._last
        seconds = max(now_ns - (then_ns or sender.start_ns), 1) / NS_PER_S
        offered, achieved = sender.dispatched - dispatched, sender.statuses.total() - answered
        self._last = (now_ns, sender.dispatched, sender.statuses.total())
        samples = sorted(sender.take_latency_samples())
        p99 = f"{samples[int(len(samples) * 0.99)] / 1e6:.1f} ms" if samples else "-"
        elapsed_s = max(now_ns - sender.start_ns, 0) / NS_PER_S
        others = sum(n for status, n in sender.statuses.items() if status not in (200, 429))
        return (
            f"{elapsed_s:5.0f}/{self._duration_s:.0f} s  offered {offered / seconds:7,.0f}/s  "
            f"achieved {achieved / seconds:7,.0f}/s  200 {sender.statuses[200]:,}  429 {sender.statuses[429]:,}  "
            f"errors {sender.errors.total() + others:,}  p99 {p99}"
        )

    def _write(self, line: str) -> None:
        self._stream.write(f"\r{line}\x1b[K" if self._terminal else line + "\n")
        self._stream.flush()
