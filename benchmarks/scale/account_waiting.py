"""How long an operation of one account waits: for the batch before it, and for a shard that is nearly full.

A simulated queue of one node: operations come at random, one batch is under way at a time and takes a round trip, and
what came meanwhile makes the next, as much as a batch may hold.
"""

from __future__ import annotations

from random import Random
from typing import NamedTuple

_OPERATIONS = 40_000


class Waiting(NamedTuple):
    """Times from asking to the reply, in round trips."""

    p50: float
    p99: float


def waiting(part: float, most_operations: float, *, seed: int = 1) -> Waiting:
    """Return how long operations take that come at this part of the highest rate, `most_operations` a round trip."""
    if not 0 < part < 1:
        raise ValueError(f"{part} is not a part of the highest rate")
    random, rate = Random(seed), part * most_operations
    now, arrival, times = 0.0, 0.0, []
    arrivals = [arrival := arrival + random.expovariate(rate) for _ in range(_OPERATIONS)]
    first = 0
    while first < len(arrivals):
        now = max(now, arrivals[first])
        end = first
        while end < len(arrivals) and arrivals[end] <= now and end - first < int(most_operations):
            end += 1
        now += 1
        times += [now - each for each in arrivals[first:end]]
        first = end
    times.sort()
    return Waiting(times[len(times) // 2], times[len(times) * 99 // 100])


def shard_wait_s(utilization: float, call_us: float) -> float:
    """Return the mean time that a call waits at a shard: its queue is M/D/1, all calls taking as long as these."""
    return utilization / (2 * (1 - utilization)) * call_us / 1e6 if utilization < 1 else float("inf")
