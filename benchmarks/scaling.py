"""How cost scales: CPU per request of nodes, store and client, and requests/s, for 1, 2, 4 nodes on 1, 3, 6 shards.

All processes share this machine's cores, so requests/s say what the machine does, not what a fleet would; CPU per
request is what carries over. Each fleet gets four loads: 1,000 keys uniform and by Zipf 1.0 at a fixed rate from
`bench-client run` (open loop), 1,000 keys and one key from closed loops that saturate it (`benchmarks.lib.saturate`).
Requests per script call, calls per socket read and each shard's part come from the servers' own counters. One node on
30 shards, and 100 connections on one shard (`shard_calls`), measure the two ends of a large fleet that fit on a small
machine. `benchmarks.capacity` makes its model from the JSON.

    python -m benchmarks.scaling [--rounds N] [--seconds S] [--qps RATE] [--json FILE]
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import median

from benchmarks.lib.measuring import Row, machine, number, parser, row, show
from benchmarks.lib.servers import unlimited_keys
from benchmarks.scale import shard_calls
from benchmarks.scale.fleet_loads import Loads
from benchmarks.scale.scaling_sample import Sample
from benchmarks.scale.sharded_fleet import running

CONFIGURATIONS = tuple((nodes, shards) for nodes in (1, 2, 4) for shards in (1, 3, 6))
WIDEST = (1, 30)


def measure(rounds: int, seconds: float, qps: float) -> list[Sample]:
    """Measure every load on every fleet, round by round, so that the machine's drift hits all alike."""
    samples = []
    with tempfile.TemporaryDirectory() as directory:
        keys = Path(directory) / "keys.toml"
        names = unlimited_keys(keys)
        for number in range(rounds):
            for nodes, shards in (*CONFIGURATIONS, WIDEST):
                print(f"round {number + 1}: {nodes} nodes, {shards} shards", file=sys.stderr)
                with running(nodes, shards, keys) as fleet:
                    samples += Loads(fleet, shards, Path(directory), names, seconds, qps).samples()
    return samples


COLUMNS = (
    ("requests_per_s", "requests/s"),
    ("node_us", "node"),
    ("store_us", "store"),
    ("client_us", "client"),
    ("calls_per_request", "calls/request"),
    ("reads_per_request", "reads/request"),
    ("latency_p50_ms", "p50 ms"),
    ("other_cores", "other cores"),
)
UNITS = {"requests_per_s": "1/s", "node_us": "µs/request", "store_us": "µs/request", "client_us": "µs/request"}


def rows(samples: Sequence[Sample], calls: Sequence[shard_calls.CallCost]) -> list[Row]:
    """Return every figure with its spread over the rounds."""
    table = []
    for (load, nodes, shards), mine in _groups(samples).items():
        for name, label in COLUMNS:
            rounds = [value for sample in mine if (value := getattr(sample, name)) is not None]
            if rounds:
                table.append(row(f"{load}, {nodes} × {shards}: {label}", UNITS.get(name, ""), rounds))
    return table + shard_rows(calls)


def shard_rows(calls: Sequence[shard_calls.CallCost]) -> list[Row]:
    """Return what a call costs a shard, by the number of nodes that are connected to it."""
    table = []
    for nodes, operations in dict.fromkeys((cost.nodes, cost.operations) for cost in calls):
        mine = [c for c in calls if (c.nodes, c.operations) == (nodes, operations)]
        name = f"a call of {operations} operation{'s' * (operations > 1)}, shard with {nodes} node{'s' * (nodes > 1)}"
        table.append(row(name, "µs", [cost.call_us for cost in mine]))
        table.append(row("… memory of a key's record of its nodes", "bytes", [cost.window_bytes for cost in mine]))
    return table


def _groups(samples: Sequence[Sample]) -> dict[tuple[str, int, int], list[Sample]]:
    """Return the rounds of each load on each fleet, load by load."""
    groups: dict[tuple[str, int, int], list[Sample]] = {}
    for load in dict.fromkeys(sample.load for sample in samples):
        for sample in samples:
            if sample.load == load:
                groups.setdefault((load, sample.nodes, sample.shards), []).append(sample)
    return groups


def show_samples(samples: Sequence[Sample]) -> None:
    """Print one line per load and fleet: medians over the rounds; CPU in µs per request."""
    print("nodes × shards".rjust(37), *(label.rjust(13) for _, label in COLUMNS))
    for (load, nodes, shards), mine in _groups(samples).items():
        values = ([v for sample in mine if (v := getattr(sample, name)) is not None] for name, _ in COLUMNS)
        cells = (number(median(rounds)) if rounds else "" for rounds in values)
        print(f"{load:<20}{nodes:>10} × {shards:<4}", *(cell.rjust(13) for cell in cells))


def main() -> None:
    """Measure with the options given, and print the rows."""
    command = parser(__doc__, rounds=3, seconds=3)
    command.add_argument("--qps", type=float, default=1500, help="the fixed rate of all nodes together")
    options = command.parse_args()
    samples = measure(options.rounds, options.seconds, options.qps)
    calls = shard_calls.measure(options.rounds)
    title, table = "Scaling: nodes × shards", rows(samples, calls)
    print(title)
    show_samples(samples)
    show("One shard, many nodes", shard_rows(calls))
    if options.json:
        path = Path(options.json)
        path.parent.mkdir(parents=True, exist_ok=True)
        document = {
            "title": title,
            "machine": machine(),
            "rows": [asdict(each) for each in table],
            "samples": [asdict(sample) for sample in samples],
            "shard_calls": [asdict(cost) for cost in calls],
        }
        path.write_text(json.dumps(document, indent=1))


if __name__ == "__main__":
    main()
