"""The clock of all times in this package, and its unit."""

from __future__ import annotations

import sys
import time

NS_PER_S = 1_000_000_000

if sys.platform == "linux":
    clock_ns = time.monotonic_ns
else:  # some systems' monotonic clock is coarse
    clock_ns = time.perf_counter_ns
"""The clock of all times in this package: nanoseconds from an arbitrary start, never back, one for all processes."""
