"""libfaketime: store servers whose clock steps, or runs faster than this machine's."""

from __future__ import annotations

from pathlib import Path

import pytest

FAKETIME = next(iter(sorted(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"))), None)
"""Debian's package libfaketime."""

needs_faketime = pytest.mark.skipif(FAKETIME is None, reason="no libfaketime here: apt-get install libfaketime")
CLOCK_FILE = "clock"

# Only the time of day is faked: what a server waits for goes on as it does here.
_PRELOADED = {"LD_PRELOAD": str(FAKETIME), "FAKETIME_DONT_FAKE_MONOTONIC": "1"}


def stepped_clock() -> dict[str, str]:
    """The environment of servers whose offset in seconds, such as ``+90``, is in `CLOCK_FILE`, in each one's folder."""
    return {**_PRELOADED, "FAKETIME_TIMESTAMP_FILE": CLOCK_FILE, "FAKETIME_NO_CACHE": "1"}


def fast_clock(speed: int) -> dict[str, str]:
    """The environment of servers whose clock begins with this machine's, and runs that many times as fast."""
    return {**_PRELOADED, "FAKETIME": f"+0 x{speed}"}


def skip_for_jemalloc(binary: str | None) -> None:
    """Skip a test of the system's server."""
    if binary is not None:
        pytest.skip("libfaketime does not get along with Debian's jemalloc, which this server uses")
