"""The highest rate of a fleet in which every process has a core of its own, and what is full then.

Nothing is shared by all requests, so there is no serial part in Amdahl's sense but these: a shard runs one call at a
time (its fullest one counts, which is skew), and a key has one call in flight per node (its hottest one counts). Both
are resources here, beside the nodes' cores. What each shard uses without load is taken off its core.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import NamedTuple

from benchmarks.scale.capacity_fit import Costs
from benchmarks.scale.capacity_formulas import bottleneck, calls_per_request, writes_per_call
from benchmarks.scale.key_skew import shard_of
from limiter_node.limits import MAX_BATCH

HEADS = 1000
"""So many of the hottest keys are counted one by one, the others per shard by their mean."""
PLACEMENTS = 21
NODES, SHARD, KEY = "nodes", "fullest shard", "hottest key's calls"


@dataclass(frozen=True, slots=True)
class Fleet:
    """Describe a fleet. `calls_per_turn`: how many calls leave a node at once; 1, the careful choice, is none."""

    nodes: int
    shards: int
    utilization: float
    round_trip_ms: float
    longest_round_trip_ms: float
    calls_per_turn: float = 1.0


class ShardCall(NamedTuple):
    """Say what a call of one operation costs a busy shard with all nodes connected, and each further operation."""

    call_us: float
    operation_us: float


@dataclass(frozen=True, slots=True)
class Capacity:
    """Say what a fleet's highest rate is. `utilization` is of what the fleet may use: 1 is full."""

    requests_per_s: float
    bottleneck: str
    utilization: dict[str, float]
    calls_per_request: float
    node_us: float
    store_us: float
    round_trip_ms: float


class _Group(NamedTuple):
    """Hold keys of equal load on one shard."""

    shard: int
    keys: int
    weight: float


def place(weights: Sequence[float], shards: int, *, placements: int = PLACEMENTS, seed: int = 1) -> list[_Group]:
    """Put keys of random digests on the shards: of so many placements, the one whose fullest shard is the median."""
    draw = Random(seed).getrandbits
    made = []
    for _ in range(placements):
        owners = [shard_of(f"{draw(128):032x}", shards) for _ in weights]
        loads = [0.0] * shards
        for owner, weight in zip(owners, weights, strict=True):
            loads[owner] += weight
        made.append((max(loads), owners))
    owners = sorted(made)[placements // 2][1]
    groups = [_Group(owner, 1, weight) for owner, weight in zip(owners[:HEADS], weights[:HEADS], strict=True)]
    for shard in range(shards):
        tail = [weight for owner, weight in zip(owners[HEADS:], weights[HEADS:], strict=True) if owner == shard]
        if tail:
            groups.append(_Group(shard, len(tail), sum(tail) / len(tail)))
    return groups


class _Model:
    """Model one fleet under one distribution of keys, at any rate and round trip."""

    def __init__(self, fleet: Fleet, costs: Costs, call: ShardCall, groups: Sequence[_Group]) -> None:
        self._fleet, self._costs, self._call, self._groups = fleet, costs, call, groups
        self._hottest = max(group.weight for group in groups)

    def at(self, rate: float, round_trip_s: float) -> Capacity:
        fleet, costs = self._fleet, self._costs
        shard_us = [0.0] * fleet.shards
        calls, wait_s = 0.0, costs.settles.at(rate / fleet.nodes)
        for shard, keys, weight in self._groups:
            mine = self._calls(rate * weight, round_trip_s, wait_s)
            calls += keys * weight * mine
            work_us = mine * self._call.call_us + max(costs.operations - mine, 0.0) * self._call.operation_us
            shard_us[shard] += keys * weight * work_us
        writes = calls * writes_per_call(fleet.calls_per_turn, fleet.shards)
        node_us = costs.node_request + costs.node_call * calls + costs.node_write * writes
        hottest = rate * self._hottest
        used = {
            NODES: rate / fleet.nodes * node_us / 1e6 / fleet.utilization,
            SHARD: (rate * max(shard_us) / 1e6 + costs.shard_idle_cores) / fleet.utilization,
            # Each node has one call of a key in flight: so many full ones per second, and no more.
            KEY: hottest / fleet.nodes * costs.operations * round_trip_s / MAX_BATCH,
        }
        return Capacity(rate, bottleneck(used)[0], used, calls, node_us, sum(shard_us), round_trip_s * 1000)

    def settled(self, rate: float) -> Capacity:
        """Return the state at this rate, with as long a round trip as the fullest shard needs.

        Full shards answer later, so that calls carry more, until the shard keeps up or the round trip is as long as it
        may be.
        """
        low, high = self._fleet.round_trip_ms / 1000, self._fleet.longest_round_trip_ms / 1000
        state = self.at(rate, low)
        if state.utilization[SHARD] <= 1 or high <= low:
            return state
        if self.at(rate, high).utilization[SHARD] > 1:
            return self.at(rate, high)
        for _ in range(20):
            middle = (low + high) / 2
            low, high = (low, middle) if self.at(rate, middle).utilization[SHARD] <= 1 else (middle, high)
        return self.at(rate, high)

    def _calls(self, key_rate: float, round_trip_s: float, wait_s: float) -> float:
        return calls_per_request(
            key_rate / self._fleet.nodes,
            round_trip_s,
            operations=self._costs.operations,
            settle_wait_s=wait_s,
        )


def capacity(fleet: Fleet, costs: Costs, call: ShardCall, weights: Sequence[float]) -> Capacity:
    """Return the highest rate at which nothing is used beyond what it may, for keys with these parts of the load."""
    model = _Model(fleet, costs, call, place(weights, fleet.shards))
    low, high = 0.0, fleet.nodes * 1e6 / costs.node_request
    for _ in range(30):
        middle = (low + high) / 2
        full = max(model.settled(middle).utilization.values()) > 1
        low, high = (low, middle) if full else (middle, high)
    return model.settled(low)
