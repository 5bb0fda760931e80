"""The nodes and shards that a rate needs: `capacity_fleet`, asked the other way round."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

from benchmarks.scale.capacity_fit import Costs
from benchmarks.scale.capacity_fleet import SHARD, Capacity, Fleet, Model, Part, Placements


class Needs(NamedTuple):
    """Say how many nodes and shards a rate needs; `shards` is None where no number is enough: `full` is full then."""

    nodes: int
    shards: int | None
    full: str


MOST_SHARDS = 1_000
"""Of a cluster."""
_MOST_NODES = 1 << 20


def needs(fleet: Fleet, costs: Costs, workload: Sequence[Part], requests_per_s: float) -> Needs:
    """Return the fewest nodes that carry this rate, and the fewest shards beside them.

    `fleet` says how full its cores may be and how long round trips; its numbers of nodes and shards don't count.
    """
    placements = Placements(workload)
    round_trip_s, widest = fleet.round_trip_ms / 1000, placements.on(MOST_SHARDS)

    def carried_by(nodes: int) -> bool:
        made = replace(fleet, nodes=nodes, shards=MOST_SHARDS)
        used = Model(made, costs, widest).at(requests_per_s, round_trip_s).utilization
        return all(part <= 1 for name, part in used.items() if name != SHARD)

    nodes = _least(carried_by, _MOST_NODES)

    def state(shards: int) -> Capacity:
        groups = placements.on(shards)
        return Model(replace(fleet, nodes=nodes, shards=shards), costs, groups).settled(requests_per_s)

    def carries(shards: int) -> bool:
        return max(state(shards).utilization.values()) <= 1

    full = state(MOST_SHARDS)
    if max(full.utilization.values()) > 1:
        return Needs(nodes, None, full.bottleneck)
    shards = _least(carries, MOST_SHARDS)
    return Needs(nodes, shards, state(shards).bottleneck)


def _least(is_enough: Callable[[int], bool], most: int) -> int:
    """Return the least number that is enough; `most` if none is. More is taken to be as good or better."""
    high = 1
    while high < most and not is_enough(high):
        high *= 2
    low, high = high // 2, min(high, most)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if is_enough(middle) else (middle, high)
    return high
