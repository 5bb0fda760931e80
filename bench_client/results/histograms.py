"""The HDR histograms that latencies go into: the one importer of the library, which only the extra ``bench`` installs.

The library is imported when a histogram is made, so that ``--help``, ``--version`` and ``audit`` work without it.
"""

from __future__ import annotations

from typing import Any

from bench_client.errors import BenchError, not_installed

MAX_TRACKABLE_US = 3_600_000_000


def check_available() -> None:
    """Raise BenchError when the library is missing: before a run, rather than when its figures are due."""
    try:
        import hdrh.histogram  # noqa: F401
    except ImportError:
        raise BenchError(not_installed("hdrhistogram", "bench")) from None


def latency_histogram(digits: int = 3) -> Any:
    """Return an empty histogram of µs from 1 to ``MAX_TRACKABLE_US``, with that many significant digits."""
    from hdrh.histogram import HdrHistogram

    return HdrHistogram(1, MAX_TRACKABLE_US, digits)
