"""The report of one sending process: its part of ``run.json``, from which the client's health is judged."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass

MAX_SORTED = 1_000_000
"""If there are more latenesses than this, a sample of them is sorted."""


@dataclass(frozen=True, slots=True)
class ProcessReport:
    """Hold CPU, lateness and counts of one sending process; CPU and lateness leave out the warm-up."""

    requests: int
    cpu: float
    """Share of one core used while there was something to send."""
    lateness_p50_ms: float
    lateness_p99_ms: float
    all_busy: int
    """Requests that found the largest number of connections, all in use."""


def lateness_percentiles_ms(lateness_ns: array[int] | Sequence[int]) -> tuple[float, float]:
    """Return p50 and p99; zeros if there is no lateness."""
    ordered = sorted(lateness_ns[:: len(lateness_ns) // MAX_SORTED + 1])
    if not ordered:
        return 0.0, 0.0
    return ordered[len(ordered) // 2] / 1e6, ordered[min(int(len(ordered) * 0.99), len(ordered) - 1)] / 1e6
