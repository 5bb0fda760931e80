"""Measures what accounts cost and how much one can do: script calls on paths, and loads through 1, 2 and 4 nodes.

First script calls, by windows, keys and operations, on a shard that stand-ins for nodes keep busy. Then real nodes on
one shard, saturated with requests of one account, of several, and of plain keys, and latency at parts of one account's
highest rate. All processes share this machine's cores, so CPU per request is what carries over, as a ratio to that of
plain keys in the same round. `benchmarks.capacity` makes its model of accounts from the JSON.

    python -m benchmarks.accounts [--rounds N] [--seconds S] [--calls N] [--json FILE]
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from benchmarks.lib.measuring import Row, machine, parser, ratios, row, show
from benchmarks.scale import account_calls, account_loads
from benchmarks.scale.account_calls import AccountCall, Memory
from benchmarks.scale.account_costs import call_text, kind_of
from benchmarks.scale.account_fit import beside_plain_keys
from benchmarks.scale.account_loads import AccountSample, setting_of
from benchmarks.scale.scaling_sample import Sample
from limiter_node.store.embedded.stores import EmbeddedStore

TITLE = "Accounts"


def call_rows(calls: Sequence[AccountCall]) -> list[Row]:
    """Return what each kind of call costs a busy shard."""
    found: dict[str, list[float]] = {}
    for call in calls:
        found.setdefault(call_text(kind_of(call)), []).append(call.call_us)
    return [row(f"a call: {name}", "µs", us) for name, us in found.items()]


def memory_rows(memory: Sequence[Memory]) -> list[Row]:
    """Return what windows and plain keys take."""
    rows = []
    for each in memory:
        rows.append(row(f"memory of a window with {each.buckets} buckets in use", "bytes", [each.window_bytes]))
        rows.append(row("… of a plain key with as many", "bytes", [each.plain_key_bytes]))
    return [*rows, row("… of the policy of an account's key", "bytes", [memory[0].policy_bytes])]


def load_rows(samples: Sequence[AccountSample]) -> list[Row]:
    """Return what each load on each fleet showed: beside plain keys where it saturates, else its latency."""
    rows = []
    for (name, nodes), pairs in _grouped(samples).items():
        text = f"{name}, {nodes} node{'s' * (nodes > 1)}"
        mine, plain = [each.sample for each, _ in pairs], [each for _, each in pairs]
        rows.append(row(f"{text}: requests/s", "1/s", [each.requests_per_s for each in mine]))
        rows.append(row("… script calls per request", "", [each.calls_per_request for each in mine]))
        for label, field in (("node CPU", "node_us"), ("store CPU", "store_us")):
            used = [float(getattr(each, field)) for each in mine]
            rows.append(row(f"… {label} per request", "µs", used))
            if mine[0] is not plain[0]:
                rows.append(row("… … ÷ a plain key's", "ratio", ratios(used, [getattr(each, field) for each in plain])))
    return rows + latency_rows(samples)


def latency_rows(samples: Sequence[AccountSample]) -> list[Row]:
    """Return the latency of the loads at parts of the highest rate."""
    found: dict[tuple[str, int, float], list[AccountSample]] = {}
    for each in samples:
        if each.offered is not None:
            found.setdefault((setting_of(each).text, each.sample.nodes, each.offered), []).append(each)
    rows = []
    for (name, nodes, offered), mine in found.items():
        text = f"{name}, {nodes} node{'s' * (nodes > 1)}, {offered:.0%} of the highest rate"
        for label, field in (("p50", "latency_p50_ms"), ("p99", "latency_p99_ms")):
            rows.append(row(f"{text}: latency {label}", "ms", [getattr(each.sample, field) or 0.0 for each in mine]))
    return rows


def _grouped(samples: Sequence[AccountSample]) -> dict[tuple[str, int], list[tuple[AccountSample, Sample]]]:
    groups: dict[tuple[str, int], list[tuple[AccountSample, Sample]]] = {}
    for each, plain in beside_plain_keys(samples):
        groups.setdefault((setting_of(each).text, each.sample.nodes), []).append((each, plain))
    return groups


def measure_calls(rounds: int, calls: int) -> tuple[list[AccountCall], list[Memory]]:
    """Measure script calls and memory on a server of their own."""

    async def run() -> tuple[list[AccountCall], list[Memory]]:
        async with EmbeddedStore("single") as store:
            port, now_ms = store.servers[0].port, int(time.time() * 1000)
            found = await asyncio.to_thread(account_calls.measure, port, now_ms, rounds, calls)
            return found, await asyncio.to_thread(account_calls.measure_memory, port, now_ms)

    return asyncio.run(run())


def main() -> None:
    """Measure with the options given, print the rows, and write what the model needs."""
    command = parser(__doc__, rounds=3, seconds=3)
    command.add_argument("--calls", type=int, default=3_000, help="script calls of each kind and round (%(default)s)")
    options = command.parse_args()
    calls, memory = measure_calls(options.rounds, options.calls)
    samples = account_loads.measure(options.rounds, options.seconds)
    table = call_rows(calls) + memory_rows(memory) + load_rows(samples)
    show(TITLE, table)
    if options.json:
        path = Path(options.json)
        path.parent.mkdir(parents=True, exist_ok=True)
        document = {
            "title": TITLE,
            "machine": machine(),
            "rows": [asdict(each) for each in table],
            "calls": [asdict(each) for each in calls],
            "memory": [asdict(each) for each in memory],
            "samples": [asdict(each) for each in samples],
        }
        path.write_text(json.dumps(document, indent=1))


if __name__ == "__main__":
    main()
