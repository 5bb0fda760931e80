"""Predicts the highest rate of a fleet of N nodes on S shards, from the costs that were measured here.

First the check: the model, fitted on the measured fleets with one node or one shard, predicts those with several of
both; fitted on calls on paths of two and eight windows, those on five; prediction ÷ measurement, median and range. Then
the fleet asked for: its highest rate with plain keys, with accounts, and with both, of equal load, skewed, and with a
single hot key or account; the resource that is full first, and the utilization of all others. Then how much one account
may do. With --requests-per-s also the nodes and shards that each of these loads needs.

    python -m benchmarks.scaling --json results/bench/scaling.json
    python -m benchmarks.accounts --json results/bench/accounts.json
    python -m benchmarks.capacity --nodes 100 --shards 30 --keys 100000 --zipf 1.0 [--accounts 1000 --path 5]
        [--requests-per-s RATE] [--from results/bench/scaling.json] [--accounts-from results/bench/accounts.json]
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any

from benchmarks.lib.measuring import Row, machine, number, row, show
from benchmarks.paths.measured_account import TEAMS
from benchmarks.scale.account_bounds import AccountModel, bounds, latencies
from benchmarks.scale.account_calls import PATHS
from benchmarks.scale.account_measurements import Measurements, read_measurements
from benchmarks.scale.capacity_fit import Costs, fit, measured, on_an_edge, predict
from benchmarks.scale.capacity_fleet import NODES, SHARD, Capacity, Fleet, Part, capacity
from benchmarks.scale.capacity_needs import MOST_SHARDS, needs
from benchmarks.scale.key_skew import expected_skew, zipf_weights
from benchmarks.scale.placed import ACCOUNT, Accounts, PlainKeys, ShardCall
from benchmarks.scale.scaling_sample import Sample

_MARKS = {NODES: "n", SHARD: "s", ACCOUNT: "b"}
"""Of what is full first."""
_LEAST_ROUND_TRIP_MS = 0.1
"""On a machine that is busy with something else the fit may find none at all."""
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
        print(f"  {name:<25} {part:6.1%} used")


def workloads(options: argparse.Namespace, call: ShardCall, model: AccountModel) -> dict[str, list[Part]]:
    """Return the loads that are predicted, by what they are."""
    keys = PlainKeys(call)
    equal = zipf_weights(options.keys, 0.0)
    loads = {
        f"{options.keys:,} keys of equal load": [Part(keys, equal)],
        f"{options.keys:,} keys by Zipf {options.zipf:g}": [Part(keys, zipf_weights(options.keys, options.zipf))],
        "one key": [Part(keys, [1.0])],
    }
    account = model.accounts(options.path, options.account_keys, options.teams)
    alike = zipf_weights(options.accounts, 0.0)
    shape = f"accounts of {options.account_keys:,} keys, paths of {options.path}"
    share = options.account_share
    return loads | {
        f"{options.accounts:,} {shape}, of equal load": [Part(account, alike)],
        f"{options.accounts:,} {shape}, by Zipf {options.zipf:g}": [
            Part(account, zipf_weights(options.accounts, options.zipf))
        ],
        f"one of the {shape}": [Part(account, [1.0])],
        f"{options.keys:,} keys, and {options.accounts:,} {shape}, with {share:.0%} of the load": [
            Part(keys, [(1 - share) * weight for weight in equal]),
            Part(account, [share * weight for weight in alike]),
        ],
    }


def memory_bytes(workload: Sequence[Part], requests_per_s: float, memory: Measurements) -> float:
    """Return the store's memory at this rate: windows and policies, without the nodes' records."""
    return sum(
        memory.bytes_of(part.kind.shape if isinstance(part.kind, Accounts) else None, requests_per_s * weight)
        for part in workload
        for weight in part.weights
    )


def show_bounds(model: AccountModel, options: argparse.Namespace) -> dict[str, Any]:
    """Print how much one account may do, and how long its decisions take near that."""
    table = list(bounds(model, options.teams, options.nodes))
    print(f"\nHow much one account of {options.teams} teams may do, in requests/s, by nodes")
    marks = ", ".join(f"{mark} {full}" for full, mark in _MARKS.items())
    print(f"Full first, at {options.utilization:.0%} of a core: {marks}")
    columns = sorted({each.nodes for each in table})
    print("  path     keys", *(f"{nodes:>12}" for nodes in columns), "   operations/call")
    for (path, keys), mine in groupby(table, lambda each: (each.path, each.keys)):
        row_of = list(mine)
        rates = (f"{number(each.requests_per_s)} {_MARKS[each.full]}".rjust(12) for each in row_of)
        print(f"  {path:>4} {keys:>8,}", *rates, f"   {row_of[-1].operations_per_call:.1f}")
    account = model.accounts(options.path, options.account_keys, options.teams)
    print(f"\nA decision's time near the bound, path of {options.path}, {options.account_keys:,} keys, without HTTP")
    near: dict[int, list[Any]] = {}
    for nodes in sorted({1, 4, options.nodes}):
        near[nodes] = list(latencies(model, account, nodes))
        parts = (f"{each.part:.0%}: {each.p50_ms:.2f} / {each.p99_ms:.2f} ms" for each in near[nodes])
        print(f"  {nodes:>4} nodes, p50 / p99   {'   '.join(parts)}")
    return {"bounds": [each._asdict() for each in table], "near": {n: [x._asdict() for x in near[n]] for n in near}}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--nodes", type=int, default=100, help="each with a core of its own")
    parser.add_argument("--shards", type=int, default=30, help="each with a core of its own")
    parser.add_argument("--keys", type=int, default=100_000, help="plain keys")
    parser.add_argument("--zipf", type=float, default=1.0, help="skew over keys and accounts where it isn't equal")
    parser.add_argument("--accounts", type=int, default=1_000)
    parser.add_argument("--account-keys", type=int, default=100, help="keys of each account")
    parser.add_argument("--teams", type=int, default=TEAMS, help="teams of each account")
    parser.add_argument("--path", type=int, default=5, choices=PATHS, help="windows on a key's path")
    parser.add_argument("--account-share", type=float, default=0.5, help="the accounts' part of the mixed load")
    parser.add_argument(
        "--answer-seconds", type=float, default=5.0, help="from an admission to its settle, in accounts"
    )
    parser.add_argument("--requests-per-s", type=float, help="a rate to find the nodes and shards for")
    parser.add_argument("--utilization", type=float, default=0.8, help="highest utilization of a core")
    parser.add_argument(
        "--round-trip-ms", type=float, help="node, store and back without waiting; default: as measured"
    )
    parser.add_argument(
        "--longest-round-trip-ms", type=float, default=10, help="longest round trip, waiting at a busy shard included"
    )
    parser.add_argument("--calls-per-turn", type=float, default=1.0, help="calls that leave a node at once; 1 = none")
    parser.add_argument("--from", dest="source", default="results/bench/scaling.json", help="JSON of the measurement")
    parser.add_argument(
        "--accounts-from", default="results/bench/accounts.json", help="JSON of the measurement of accounts"
    )
    parser.add_argument("--json", help="file to write checks and predictions to")
    return parser


def _read(path: str, benchmark: str) -> dict[str, Any]:
    try:
        document: dict[str, Any] = json.loads(Path(path).read_text())
    except (OSError, ValueError) as error:
        sys.exit(f"cannot read {path}: {error}; make it with python -m benchmarks.{benchmark} --json FILE")
    return document


def main() -> None:
    """Check the model, predict the fleet of the options, and print both."""
    options = _parser().parse_args()
    document = _read(options.source, "scaling")
    of_accounts = read_measurements(_read(options.accounts_from, "accounts"))
    samples = [Sample(**sample) for sample in document["samples"]]
    costs = fit([sample for sample in samples if on_an_edge(sample)])
    print("Costs, fitted on fleets with one node or one shard:")
    _show_costs(asdict(costs))
    print("Of a call on paths, in µs of the shard, fitted on paths of two and eight windows:")
    _show_costs(asdict(of_accounts.calls))
    print("Of a node, ÷ a plain key's request, fitted on one node:")
    _show_costs(asdict(of_accounts.node))
    checks = check(samples, costs, document["machine"]["cores"]) + check_skew(samples)
    show("The model against fleets it was not fitted on", checks)
    account_checks = of_accounts.check(costs.store_turn)
    show("The model against calls on paths and loads on accounts that it was not fitted on", account_checks)

    fleet = Fleet(
        options.nodes,
        options.shards,
        options.utilization,
        options.round_trip_ms or max(costs.round_trip_s * 1000, _LEAST_ROUND_TRIP_MS),
        options.longest_round_trip_ms,
        options.calls_per_turn,
    )
    call = shard_call(document, options.nodes)
    model = AccountModel(fleet, costs, of_accounts.calls, of_accounts.node, options.answer_seconds)
    predictions = {}
    for name, workload in workloads(options, call, model).items():
        result = capacity(fleet, costs, workload)
        title = f"{options.nodes} nodes on {options.shards} shards, {name}, cores up to {options.utilization:.0%} full"
        show_capacity(title, fleet, result)
        skew = expected_skew([weight for part in workload for weight in part.weights], options.shards)
        used_bytes = memory_bytes(workload, result.requests_per_s, of_accounts)
        print(
            f"  fullest shard       {skew.mean:.2f} × the mean shard's requests ({skew.p95:.2f} in 1 of 20 "
            f"placements); the largest has {skew.largest:.2%} of all"
        )
        print(f"  store's memory      {used_bytes / 1e6:,.0f} MB at this rate")
        predictions[name] = {**asdict(result), "skew": skew._asdict(), "memory_bytes": used_bytes}
        if options.requests_per_s:
            needed = needs(fleet, costs, workload, options.requests_per_s)
            shards = (
                f"{needed.shards} shards; full first: {needed.full}"
                if needed.shards
                else f"and {MOST_SHARDS:,} shards are not enough ({needed.full}): divide the largest key or account"
            )
            print(f"  for {number(options.requests_per_s)}/s".ljust(22) + f"{needed.nodes} nodes, {shards}")
            predictions[name]["needs"] = needed._asdict()
    one_account = show_bounds(model, options)
    if options.json:
        path = Path(options.json)
        path.parent.mkdir(parents=True, exist_ok=True)
        facts = {"title": "Capacity", "machine": machine(), "rows": [asdict(each) for each in checks + account_checks]}
        fitted = {"costs": asdict(costs), "calls": asdict(of_accounts.calls), "node": asdict(of_accounts.node)}
        found = {"fleet": asdict(fleet), "predictions": predictions, "one_account": one_account}
        path.write_text(json.dumps({**facts, **fitted, **found}, indent=1))


def _show_costs(costs: dict[str, Any]) -> None:
    for name, value in costs.items():
        print(f"  {name:<22} {', '.join(map(number, value)) if isinstance(value, tuple) else number(value)}")


if __name__ == "__main__":
    main()
