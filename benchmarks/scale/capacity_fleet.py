"""The highest rate of a fleet in which every process has a core of its own, and what is full then.

Nothing is shared by all requests, so there is no serial part in Amdahl's sense but these: a shard runs one call at a
time (its fullest one counts, which is skew), and a plain key or an account has one call in flight per node (the largest
one counts). All are resources here, beside the nodes' cores. What each shard uses without load is taken off its core.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import NamedTuple

from benchmarks.scale.capacity_fit import Costs
from benchmarks.scale.capacity_formulas import bottleneck, calls_per_request, writes_per_call
from benchmarks.scale.key_skew import owner_of
from benchmarks.scale.placed import Placed
from limiter_node.store.keyspace import slot_of

HEADS = 1000
"""So many of the largest keys and accounts are counted one by one, the others per shard by their mean."""
PLACEMENTS = 21
NODES, SHARD = "nodes", "fullest shard"


@dataclass(frozen=True, slots=True)
class Fleet:
    """Describe a fleet. `calls_per_turn`: how many calls leave a node at once; 1, the careful choice, is none."""

    nodes: int
    shards: int
    utilization: float
    round_trip_ms: float
    longest_round_trip_ms: float
    calls_per_turn: float = 1.0


class Part(NamedTuple):
    """A part of a workload: things of one kind, and each one's share of all requests."""

    kind: Placed
    weights: Sequence[float]


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


class Group(NamedTuple):
    """Hold things of one kind and of equal load on one shard."""

    shard: int
    kind: Placed
    things: int
    weight: float


class Placements:
    """Hold many random placements of a workload: the slots of keys and accounts whose digests and names are random."""

    def __init__(self, workload: Sequence[Part], *, placements: int = PLACEMENTS, seed: int = 1) -> None:
        draw = Random(seed).getrandbits
        things = [(weight, part.kind) for part in workload for weight in part.weights]
        self._things = sorted(things, key=lambda thing: -thing[0])
        self._slots = [array("H", (slot_of(f"{draw(128):032x}") for _ in things)) for _ in range(placements)]

    def on(self, shards: int) -> list[Group]:
        """Return the placement whose fullest shard is the median of all, on so many shards."""
        made = []
        for slots in self._slots:
            owners = [owner_of(slot, shards) for slot in slots]
            loads = [0.0] * shards
            for owner, (weight, _) in zip(owners, self._things, strict=True):
                loads[owner] += weight
            made.append((max(loads), owners))
        owners = sorted(made)[len(made) // 2][1]
        placed = list(zip(owners, self._things, strict=True))
        groups = [Group(owner, kind, 1, weight) for owner, (weight, kind) in placed[:HEADS]]
        tails: dict[tuple[int, int], list[tuple[float, Placed]]] = {}
        for owner, thing in placed[HEADS:]:
            tails.setdefault((owner, id(thing[1])), []).append(thing)
        for (owner, _), tail in sorted(tails.items()):
            groups.append(Group(owner, tail[0][1], len(tail), sum(weight for weight, _ in tail) / len(tail)))
        return groups


class Model:
    """Model one fleet under one workload, at any rate and round trip."""

    def __init__(self, fleet: Fleet, costs: Costs, groups: Sequence[Group]) -> None:
        self._fleet, self._costs, self._groups = fleet, costs, groups

    def at(self, rate: float, round_trip_s: float) -> Capacity:
        """Return the state at this rate if a round trip takes so long."""
        fleet, costs = self._fleet, self._costs
        shard_us = [0.0] * fleet.shards
        calls, node_us, wait_s = 0.0, 0.0, costs.settles.at(rate / fleet.nodes)
        batches: dict[str, float] = {}
        writes_each = writes_per_call(fleet.calls_per_turn, fleet.shards)
        alike: dict[tuple[int, float], tuple[float, float, float]] = {}
        for shard, kind, things, weight in self._groups:
            found = alike.get((id(kind), weight))
            if found is None:
                mine = calls_per_request(
                    rate * weight / fleet.nodes,
                    round_trip_s,
                    operations=costs.operations,
                    settle_wait_s=wait_s,
                    limit=kind.most_operations,
                )
                on_node = kind.node_us(costs, mine, mine * writes_each)
                found = mine, on_node, kind.store_us(rate * weight, mine, costs.operations)
                alike[id(kind), weight] = found
            share = things * weight
            calls += share * found[0]
            node_us += share * found[1]
            shard_us[shard] += share * found[2]
            # Each node has one call of a key or account in flight: so many full ones per second, and no more.
            full = rate * weight / fleet.nodes * costs.operations * round_trip_s / kind.most_operations
            batches[kind.batches] = max(full, batches.get(kind.batches, 0.0))
        used = {
            NODES: rate / fleet.nodes * node_us / 1e6 / fleet.utilization,
            SHARD: (rate * max(shard_us) / 1e6 + costs.shard_idle_cores) / fleet.utilization,
            **batches,
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


def capacity(fleet: Fleet, costs: Costs, workload: Sequence[Part], placements: Placements | None = None) -> Capacity:
    """Return the highest rate at which nothing is used beyond what it may; the workload's weights add up to 1."""
    model = Model(fleet, costs, (placements or Placements(workload)).on(fleet.shards))
    low, high = 0.0, fleet.nodes * 1e6 / costs.node_request
    for _ in range(30):
        middle = (low + high) / 2
        full = max(model.settled(middle).utilization.values()) > 1
        low, high = (low, middle) if full else (middle, high)
    return model.settled(low)
