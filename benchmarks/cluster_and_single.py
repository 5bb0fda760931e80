"""The same seeded, open-loop workload on an embedded cluster and on a single store, side by side, both audited.

`bench-client compare` in rounds; two nodes, plain keys at limits that reject a part of the load.

    python -m benchmarks.cluster_and_single [--rounds N] [--qps RATE] [--seconds S] [--json FILE]
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.lib.measuring import Row, parser, row, show

STORES = ("cluster", "single")


def measure(rounds: int, qps: float, seconds: float) -> list[Row]:
    """Return all rows of this benchmark. Ends the process if a run fails or an audit refutes."""
    figures: dict[tuple[str, str], list[float]] = {}
    for seed in range(1, rounds + 1):
        with tempfile.TemporaryDirectory() as directory:
            done = subprocess.run(
                [sys.executable, "-m", "bench_client", "compare", "--qps", str(qps), "--duration", str(seconds),
                 "--zipf", "1.0", "--keys-count", "500", "--account-keys", "0", "--rpm", "600",
                 "--seed", str(seed), "--out", directory],
                stdout=subprocess.PIPE,
                text=True,
            )  # fmt: skip
            if done.returncode:
                print(done.stdout)
                sys.exit("bench-client compare failed")
            stores = json.loads((Path(directory) / "compare.json").read_text())["stores"]
        for store in STORES:
            summary = stores[store]["summary"]
            total, latency = summary["total"], summary["total"]["latency_ms"]
            for figure, value in (
                ("achieved, 1/s", summary["achieved_qps"]),
                ("rejected, %", 100 * total["rejected_total"] / total["requests"]),
                ("errors", float(total["errors_total"])),
                ("latency p50, ms", latency["p50"]),
                ("latency p99, ms", latency["p99"]),
                ("latency p99.9, ms", latency["p99_9"]),
                ("windows over the limit", float(stores[store]["audit"]["violations"])),
                ("unjustified rejections", float(stores[store]["audit"]["unjustified"])),
            ):
                figures.setdefault((figure, store), []).append(value)
    return [row(f"{figure}: {store}", "", values) for (figure, store), values in sorted(figures.items())]


def main() -> None:
    """Measure with the options given, and print the rows."""
    options_of = parser(__doc__, rounds=3, seconds=20)
    options_of.add_argument("--qps", type=float, default=3000, help="rate of requests (%(default)s)")
    options = options_of.parse_args()
    rows = measure(options.rounds, options.qps, options.seconds)
    show(f"Cluster and single store, {options.qps:,.0f} requests/s on two nodes", rows, json_path=options.json)


if __name__ == "__main__":
    main()
