"""The latency that deciding adds to a request, at a steady rate: a node, and the same node with its decisions stubbed.

`bench-client run`, open-loop, Poisson arrivals, on both in turn; latency counts from when a request was due. What is
added is the difference of the medians of the rounds; beside it, the range of the differences within a round.

    python -m benchmarks.added_latency [--rounds N] [--seconds S] [--qps RATE] [--json FILE]
"""

from __future__ import annotations

import statistics
import sys
import tempfile
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.lib.measuring import Row, interleaved, parser, row, show
from benchmarks.lib.open_loop import run_open_loop
from benchmarks.lib.servers import Server, running_node, unlimited_keys
from benchmarks.peers.admit_all_node import running_admit_all_node

AIMS_MS = {"p50": 0.4, "p99": 2.0}


def added(with_limiter: list[float], stubbed: list[float], name: str, aim_ms: float) -> Row:
    """Return the row of one percentile; its rounds are the differences within each round."""
    differences = [decided - stub for decided, stub in zip(with_limiter, stubbed, strict=True)]
    difference = statistics.median(with_limiter) - statistics.median(stubbed)
    return replace(row(f"added latency {name}", "ms", differences, at_most=aim_ms), median=difference)


def measure(rounds: int, seconds: float, qps: float) -> list[Row]:
    """Return all rows of this benchmark. Ends the process if a request failed."""
    with tempfile.TemporaryDirectory() as directory:
        keys = Path(directory) / "keys.toml"
        unlimited_keys(keys)

        def latency_ms(server: Server) -> dict[str, Any]:
            summary = run_open_loop(server, keys, qps, seconds, Path(directory) / "run").summary
            total = summary["total"]
            if total["admitted"] != total["requests"]:
                sys.exit(f"{total['requests'] - total['admitted']} requests were not answered by 200")
            return {**total["latency_ms"], "late p99": summary["send_lateness_ms"]["p99"]}

        with running_node(keys) as node, running_admit_all_node() as stub:
            decided, stubbed = interleaved(rounds, [partial(latency_ms, node), partial(latency_ms, stub)])

    rows = [
        added([each[name] for each in decided], [each[name] for each in stubbed], name, aim_ms)
        for name, aim_ms in AIMS_MS.items()
    ]
    for title, each in (("with the limiter", decided), ("decisions stubbed", stubbed)):
        rows += [row(f"latency {name}, {title}", "ms", [one[name] for one in each]) for name in AIMS_MS]
        rows.append(row("… lateness of the client p99", "ms", [one["late p99"] for one in each]))
    return rows


def main() -> None:
    """Measure with the options given, and print the rows."""
    options_of = parser(__doc__, rounds=5, seconds=8)
    options_of.add_argument("--qps", type=float, default=1_000, help="rate of requests (%(default)s)")
    options = options_of.parse_args()
    rows = measure(options.rounds, options.seconds, options.qps)
    show(f"What deciding adds at {options.qps:,.0f} requests/s", rows, json_path=options.json)


if __name__ == "__main__":
    main()
