"""From the scaling measurement to the model's costs, and from these back to each measured fleet, to see if they hold.

The costs are fitted on the fleets that have one node or one shard. Fleets with several of both are predicted from them
and compared: the same step, from the edges to the inside, that predicting 100 nodes on 30 shards makes.

What a request costs:
  node   request + call · calls + write · writes + turn · turns of its loop + neighbour · other nodes on the same cores
  store  call · calls + operation · operations + turn · turns of its loops (+ what it uses without load)
Turns are what costs CPU on a machine that sleeps between requests and is shared by requests where there are many.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import log
from statistics import fmean
from typing import Any, NamedTuple

from benchmarks.scale.capacity_formulas import burst, calls_per_request, non_negative_fit, writes_per_call
from benchmarks.scale.key_skew import zipf_weights
from benchmarks.scale.scaling_sample import Sample


class SettleWait(NamedTuple):
    """Say how long settles wait for a batch: up to `wait_s` on nodes with at least `busy_rate` requests/s."""

    wait_s: float
    busy_rate: float

    def at(self, node_rate: float) -> float:
        """Return the wait on a node with so many requests/s."""
        return self.wait_s if node_rate >= self.busy_rate else 0.0


@dataclass(frozen=True, slots=True)
class Costs:
    """Hold the fitted parameters, in µs of CPU unless the name says otherwise."""

    node_request: float
    node_call: float
    node_write: float
    node_turn: float
    node_neighbour: float
    """More for each other node on the measuring machine's cores and caches; none for a node with a core of its own."""
    store_call: float
    store_operation: float
    store_turn: float
    shard_idle_cores: float
    """CPU of one shard without load."""
    client_open_request: float
    """bench-client's."""
    client_closed_request: float
    """The closed loops': what `scaling` saturates fleets with."""
    operations: float
    """Per request."""
    round_trip_s: float
    """Node, store and back at the fixed rate, as the calls that coalesced show it."""
    settles: SettleWait
    burst_s: float
    """Arrivals within this time are sent on together, at the fixed rate."""
    calls_per_turn: float
    """Calls in one turn of a node's loop, per request in flight on it, at saturation."""


@dataclass(frozen=True, slots=True)
class Work:
    """Say what one request is made of, and what that costs: predicted, or as measured."""

    calls: float
    writes: float
    node_us: float
    store_us: float
    client_us: float
    requests_per_s: float


def on_an_edge(sample: Sample) -> bool:
    """Return whether the costs are fitted on this sample."""
    return sample.nodes == 1 or sample.shards == 1


def predicted_calls(sample: Sample, round_trip_s: float, settles: SettleWait) -> float:
    """Return script calls per request, from the keys and the rate alone.

    At saturation a node's closed loops keep their requests in flight, so that (Little's law) the round trip is that
    number over the node's rate.
    """
    node_rate = sample.requests_per_s / sample.nodes
    operations = sample.operations_per_request
    if sample.in_flight:
        round_trip_s = sample.in_flight / sample.nodes / (node_rate * operations)
    wait_s = settles.at(node_rate)

    def calls(weight: float) -> float:
        return calls_per_request(node_rate * weight, round_trip_s, operations=operations, settle_wait_s=wait_s)

    if not sample.zipf:
        return calls(1 / sample.keys)
    return sum(weight * calls(weight) for weight in zipf_weights(sample.keys, sample.zipf))


def fit_settle_wait(samples: Sequence[Sample]) -> SettleWait:
    """Return how long settles wait, and from which rate of a node on, fitted on loads on many keys of equal load.

    In these loads hardly any calls coalesce, so a call less than an operation means a settle that shared a call.
    """
    uniform = [sample for sample in samples if sample.keys > 1 and not sample.zipf]

    def error(settles: SettleWait) -> float:
        return _error(predicted_calls(s, 0.0, settles) / s.calls_per_request for s in uniform)

    def best_from(busy_rate: float) -> SettleWait:
        return SettleWait(_search(lambda wait_s: error(SettleWait(wait_s, busy_rate)), 10.0), busy_rate)

    rates = sorted({sample.requests_per_s / sample.nodes for sample in uniform})
    # A threshold lies between two measured rates; any value between them fits equally well.
    return min(map(best_from, (0.0, *((a + b) / 2 for a, b in pairwise(rates)))), key=error)


def _calls_per_turn(sample: Sample, burst_s: float, per_in_flight: float) -> float:
    """Return how many calls leave a node in one turn of its loop."""
    if sample.in_flight:
        most = per_in_flight * sample.in_flight / sample.nodes
        # Keys with a call in flight make no second one: one key makes one call per turn.
        return min(most, sample.keys)
    return burst(sample.requests_per_s / sample.nodes * burst_s)


def _turns(sample: Sample, calls: float, writes: float, per_turn: float) -> float:
    """Return turns of a node's loop per request: one for each arrival and reply if it sleeps between them."""
    return calls / per_turn if sample.in_flight else 1 / per_turn + writes


def fit(samples: Sequence[Sample]) -> Costs:
    """Return the costs that describe these samples best."""
    fixed = [sample for sample in samples if not sample.in_flight]
    saturated = [sample for sample in samples if sample.in_flight]
    spread = [sample for sample in saturated if sample.keys > 1]
    settles = fit_settle_wait(samples)
    round_trip_s = _search(
        lambda trip: _error(predicted_calls(s, trip, settles) / s.calls_per_request for s in fixed), 0.05
    )

    def writes(sample: Sample, burst_s: float, per_in_flight: float) -> float:
        calls = sample.calls_per_request
        return calls * writes_per_call(_calls_per_turn(sample, burst_s, per_in_flight), sample.shards)

    burst_s = _search(lambda s: _error(writes(x, s, 1) / x.reads_per_request for x in fixed), 0.01)
    per_in_flight = _search(lambda s: _error(writes(x, 0, s) / x.reads_per_request for x in spread), 4.0)

    node, store = [], []
    for sample in samples:
        calls, reads = sample.calls_per_request, sample.reads_per_request
        per_turn = _calls_per_turn(sample, burst_s, per_in_flight)
        node.append([1.0, calls, reads, _turns(sample, calls, reads, per_turn), sample.nodes - 1.0])
        store.append([calls, sample.operations_per_request, sample.turns_per_request])
    loaded = [max(s.store_us - s.idle_store_cores / s.requests_per_s * 1e6, s.store_us / 2) for s in samples]
    store_call, store_operation, store_turn = non_negative_fit(store, loaded)
    request, call, write, turn, neighbour = non_negative_fit(node, [sample.node_us for sample in samples])
    return Costs(
        node_request=request,
        node_call=call,
        node_write=write,
        node_turn=turn,
        node_neighbour=neighbour,
        store_call=store_call,
        store_operation=store_operation,
        store_turn=store_turn,
        shard_idle_cores=sum(sample.idle_store_cores for sample in samples) / sum(sample.shards for sample in samples),
        client_open_request=fmean(sample.client_us for sample in fixed),
        client_closed_request=fmean(sample.client_us for sample in saturated),
        operations=fmean(sample.operations_per_request for sample in samples),
        round_trip_s=round_trip_s,
        settles=settles,
        burst_s=burst_s,
        calls_per_turn=per_in_flight,
    )


def predict(sample: Sample, costs: Costs, cores: int) -> Work:
    """Return what the model says of a measured load.

    It looks only at the sample's fleet, keys, and offered rate or requests in flight, and at what else used the
    machine's `cores`. At saturation the rate is predicted, too: the lowest of what the nodes' cores, the fullest
    shard's and the machine's allow. (How long settles waited for company there is taken from the measured rate.)
    """
    calls = predicted_calls(sample, costs.round_trip_s, costs.settles)
    per_turn = _calls_per_turn(sample, costs.burst_s, costs.calls_per_turn)
    writes = calls * writes_per_call(per_turn, sample.shards)
    node_us = (
        costs.node_request
        + costs.node_call * calls
        + costs.node_write * writes
        + costs.node_turn * _turns(sample, calls, writes, per_turn)
        + costs.node_neighbour * (sample.nodes - 1)
    )
    store_us = costs.store_call * calls + costs.store_operation * costs.operations + costs.store_turn * writes
    client_us = costs.client_closed_request if sample.in_flight else costs.client_open_request
    idle_cores = costs.shard_idle_cores * sample.shards
    rate = sample.requests_per_s
    if sample.in_flight:
        free_cores = cores - max(sample.other_cores, 0.0) - idle_cores
        rate = 1e6 * min(
            sample.nodes / node_us,
            1 / (store_us * max(sample.shard_requests)),
            free_cores / (node_us + store_us + client_us),
        )
    return Work(calls, writes, node_us, store_us + idle_cores / rate * 1e6, client_us, rate)


def measured(sample: Sample) -> Work:
    """Return the same of what was measured."""
    return Work(
        sample.calls_per_request,
        sample.reads_per_request,
        sample.node_us,
        sample.store_us,
        sample.client_us,
        sample.requests_per_s,
    )


def _error(ratios: Any) -> float:
    return float(sum(log(ratio) ** 2 for ratio in ratios))


def _search(error: Callable[[float], float], highest: float) -> float:
    """Return the value in 0 … highest with the least error, to a thousandth part; 0 wins if nothing is better."""
    candidates = [0.0, *(highest * 1.25**-step for step in range(40))]
    best = min(candidates, key=error)
    for step in (0.1, 0.03, 0.01, 0.003, 0.001):
        around = [best, *(best * (1 + step * i) for i in range(-4, 5))]
        best = min(around, key=error)
    return best
