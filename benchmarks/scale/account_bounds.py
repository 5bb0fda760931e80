"""How much one account may do: the bound in requests/s by path, keys and nodes, and the latency near it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

from benchmarks.scale.account_costs import AccountCosts
from benchmarks.scale.account_fit import NodeFactor
from benchmarks.scale.account_shape import shape_of
from benchmarks.scale.account_waiting import shard_wait_s, waiting
from benchmarks.scale.capacity_fit import Costs
from benchmarks.scale.capacity_fleet import SHARD, Capacity, Fleet, Model, Part, Placements, capacity
from benchmarks.scale.placed import Accounts

PATHS = (2, 5, 8)
KEYS = (1, 10, 100, 1_000, 10_000)
NODES = (1, 2, 4, 10)
PARTS = (0.5, 0.8, 0.9, 0.95)


@dataclass(frozen=True, slots=True)
class AccountModel:
    """Hold what the bounds of accounts follow from. `fleet`: how full its cores may be, and its round trips."""

    fleet: Fleet
    costs: Costs
    calls: AccountCosts
    node: NodeFactor
    answer_s: float

    def accounts(self, path: int, keys: int, teams: int) -> Accounts:
        """Return accounts with so many keys and teams and such a path."""
        return Accounts(shape_of(path, keys, teams), self.calls, self.node, answer_s=self.answer_s)

    def bound(self, account: Accounts, nodes: int) -> Capacity:
        """Return the highest rate of one account whose requests come by so many nodes."""
        return capacity(replace(self.fleet, nodes=nodes, shards=1), self.costs, [Part(account, [1.0])])


class Bound(NamedTuple):
    """Say how much one account may do."""

    path: int
    keys: int
    nodes: int
    requests_per_s: float
    operations_per_call: float
    full: str


def bounds(model: AccountModel, teams: int, nodes: int) -> Iterator[Bound]:
    """Yield the bounds of accounts of each path and number of keys, by few nodes and by all."""
    for path in PATHS:
        for keys in KEYS:
            account = model.accounts(path, keys, teams)
            for some in sorted({*NODES, nodes}):
                found = model.bound(account, some)
                operations = model.costs.operations / found.calls_per_request
                yield Bound(path, keys, some, found.requests_per_s, operations, found.bottleneck)


class Latency(NamedTuple):
    """Say how long a decision of an account takes at a part of its highest rate, from asking to the verdict."""

    part: float
    p50_ms: float
    p99_ms: float


def latencies(model: AccountModel, account: Accounts, nodes: int) -> Iterator[Latency]:
    """Yield the latency of decisions near the bound: waiting for the batch before, and for the shard.

    HTTP and a busy node's loop come on top.
    """
    bound = model.bound(account, nodes)
    placed = Placements([Part(account, [1.0])]).on(1)
    fleet = replace(model.fleet, nodes=nodes, shards=1)
    for part in PARTS:
        state = Model(fleet, model.costs, placed).settled(bound.requests_per_s * part)
        busy = state.utilization[SHARD] * fleet.utilization
        call_us = state.store_us / state.calls_per_request
        round_trip_ms = state.round_trip_ms + shard_wait_s(busy, call_us) * 1000
        load = state.utilization[account.batches] * round_trip_ms / state.round_trip_ms
        times = waiting(min(load, 0.99), account.most_operations)
        yield Latency(part, times.p50 * round_trip_ms, times.p99 * round_trip_ms)
