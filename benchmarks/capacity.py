"""Predicts the highest rate of a fleet of N nodes on S shards, from the costs that `benchmarks.scaling` measured here.

First the check: the model, fitted on the measured fleets with one node or one shard, predicts those with several of
both; prediction ÷ measurement, median and range over these fleets. Then the fleet asked for: its highest rate with keys
of equal load, skewed ones, and a single hot key; the resource that is full first, and the utilization of all others.

    python -m benchmarks.scaling --json results/bench/scaling.json
    python -m benchmarks.capacity --nodes 100 --shards 30 --keys 100000 --zipf 1.0 [--from results/bench/scaling.json]
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from typing import Any

from benchmarks.lib.measuring import Row, machine, number, row, show
from benchmarks.scale.capacity_fit import Costs, fit, measured, on_an_edge, predict
from benchmarks.scale.capacity_fleet import Capacity, Fleet, ShardCall, capacity
from benchmarks.scale.key_skew import expected_skew, zipf_weights
from benchmarks.scale.scaling_sample import Sample

CHECKED = {
    "calls": "script calls per request",
    "node_us": "node CPU",
    "store_us": "store CPU",
    "requests_per_s": "requests/s",
}


def check(samples: Sequence[Sample], costs: Costs, cores: int) -> list[Row]:
    """Return prediction ÷ measurement for fleets that the costs were not fitted on. Rates are predicted where a load
    saturates; else they are offered.
    """
    rows = []
    inside = [sample for sample in samples if not on_an_edge(sample)]
    for load in dict.fromkeys(sample.load for sample in inside):
        mine = [sample for sample in inside if sample.load == load]
        for name, label in CHECKED.items():
            if name == "requests_per_s" and not mine[0].in_flight:
                continue
            ratios = [getattr(predict(s, costs, cores), name) / getattr(measured(s), name) for s in mine]
            rows.append(row(f"{load}: {label}", "predicted ÷ measured", ratios, "1"))
    return rows


def check_skew(samples: Sequence[Sample]) -> list[Row]:
    """Return each shard's part of calls and CPU under Zipf ÷ its part of the requests, by the keys sent."""
    rows = []
    skewed = [sample for sample in samples if sample.zipf and sample.shards > 1]
    for shards in dict.fromkeys(sample.shards for sample in skewed):
        mine = [sample for sample in skewed if sample.shards == shards]
        for name, label in (("shard_calls", "calls"), ("shard_cpu", "CPU")):
            ratios = [
                have / part
                for sample in mine
                for have, part in zip(getattr(sample, name), sample.shard_requests, strict=True)
            ]
            rows.append(
                row(f"Zipf, each of {shards} shards: its part of the {label}", "÷ of the requests", ratios, "1")
            )
    return rows


def shard_call(document: dict[str, Any], nodes: int) -> ShardCall:
    """Return the cost of a call for a busy shard with `nodes` connected nodes, interpolated between measurements.

    Beyond the largest measured number the last slope continues, because records of nodes are searched in turn.
    """
    single: dict[int, list[float]] = {}
    many: dict[tuple[int, int], list[float]] = {}
    for cost in document["shard_calls"]:
        if cost["operations"] == 1:
            single.setdefault(cost["nodes"], []).append(cost["call_us"])
        else:
            many.setdefault((cost["nodes"], cost["operations"]), []).append(cost["call_us"])
    # Few connections leave a shard asleep between calls, which costs more per call than it does a busy one.
    points = sorted((n, row("", "", costs).median) for n, costs in single.items() if n >= 4)
    (low, low_us), (high, high_us) = next(
        ((a, b) for a, b in pairwise(points) if nodes <= b[0]), (points[-2], points[-1])
    )
    call_us = low_us + (high_us - low_us) * (max(nodes, low) - low) / (high - low)
    operation_us = [
        (row("", "", costs).median - row("", "", single[n]).median) / (operations - 1)
        for (n, operations), costs in many.items()
    ]
    return ShardCall(max(call_us, low_us), sum(operation_us) / len(operation_us))


def show_capacity(title: str, fleet: Fleet, result: Capacity) -> None:
    """Print the prediction for one fleet and one distribution of keys."""
    print(f"\n{title}")
    print(f"  highest rate        {number(result.requests_per_s)} requests/s, then full: {result.bottleneck}")
    print(
        f"  per request         {result.node_us:.0f} µs node, {result.store_us:.1f} µs store, "
        f"{result.calls_per_request:.3g} script calls"
    )
    print(f"  round trip          {result.round_trip_ms:.2f} ms (unloaded {fleet.round_trip_ms:.2f})")
    for name, part in sorted(result.utilization.items(), key=lambda item: -item[1]):
        print(f"  {name:<18}  {part:6.1%} used")


def main() -> None:
    """Check the model, predict the fleet of the options, and print both."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--nodes", type=int, default=100, help="each with a core of its own")
    parser.add_argument("--shards", type=int, default=30, help="each with a core of its own")
    parser.add_argument("--keys", type=int, default=100_000)
    parser.add_argument("--zipf", type=float, default=1.0, help="skew over the keys in the second prediction")
    parser.add_argument("--utilization", type=float, default=0.8, help="highest utilization of a core")
    parser.add_argument(
        "--round-trip-ms", type=float, help="node, store and back without waiting; default: as measured"
    )
    parser.add_argument(
        "--longest-round-trip-ms", type=float, default=10, help="longest round trip, waiting at a busy shard included"
    )
    parser.add_argument("--calls-per-turn", type=float, default=1.0, help="calls that leave a node at once; 1 = none")
    parser.add_argument("--from", dest="source", default="results/bench/scaling.json", help="JSON of the measurement")
    parser.add_argument("--json", help="file to write checks and predictions to")
    options = parser.parse_args()
    try:
        document = json.loads(Path(options.source).read_text())
    except (OSError, ValueError) as error:
        sys.exit(f"cannot read {options.source}: {error}; make it with python -m benchmarks.scaling --json FILE")
    samples = [Sample(**sample) for sample in document["samples"]]
    costs = fit([sample for sample in samples if on_an_edge(sample)])
    print("Costs, fitted on fleets with one node or one shard:")
    for name, value in asdict(costs).items():
        print(f"  {name:<22} {', '.join(map(number, value)) if isinstance(value, tuple) else number(value)}")
    checks = check(samples, costs, document["machine"]["cores"]) + check_skew(samples)
    show("The model against fleets it was not fitted on", checks)

    fleet = Fleet(
        options.nodes,
        options.shards,
        options.utilization,
        options.round_trip_ms or costs.round_trip_s * 1000,
        options.longest_round_trip_ms,
        options.calls_per_turn,
    )
    call = shard_call(document, options.nodes)
    loads = {
        f"{options.keys:,} keys of equal load": zipf_weights(options.keys, 0.0),
        f"{options.keys:,} keys by Zipf {options.zipf:g}": zipf_weights(options.keys, options.zipf),
        "one key": [1.0],
    }
    predictions = {}
    for name, weights in loads.items():
        result = capacity(fleet, costs, call, weights)
        title = f"{options.nodes} nodes on {options.shards} shards, {name}, cores up to {options.utilization:.0%} full"
        show_capacity(title, fleet, result)
        skew = expected_skew(weights, options.shards)
        print(
            f"  fullest shard       {skew.mean:.2f} × the mean shard's requests ({skew.p95:.2f} in 1 of 20 "
            f"placements); hottest key {skew.hottest_key:.2%} of all"
        )
        predictions[name] = {**asdict(result), "skew": skew._asdict()}
    if options.json:
        path = Path(options.json)
        path.parent.mkdir(parents=True, exist_ok=True)
        facts = {"title": "Capacity", "machine": machine(), "rows": [asdict(each) for each in checks]}
        path.write_text(
            json.dumps({**facts, "costs": asdict(costs), "fleet": asdict(fleet), "predictions": predictions}, indent=1)
        )


if __name__ == "__main__":
    main()
