"""`make bench`: every figure of docs/measurements.md, one benchmark after the other; JSON into results/bench/.

Forty minutes. Nothing else should run beside it.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

OUT = Path("results") / "bench"
BENCHMARKS = (
    "script_speed",
    "policies",
    "stages",
    "node_ratios",
    "decision_cpu",
    "replica_acks",
    "added_latency",
    "flood",
    "overload",
    "rejects",
    "long_prompts",
    "streaming",
    "gateway",
    "client_speed",
    "cluster_and_single",
    "scaling",
    "accounts",
)
DERIVED = ("capacity",)
"""Benchmarks that read what the others wrote."""


def main() -> int:
    """Run them all, each in a process of its own; 1 if any failed."""
    failed = []
    for name in (*BENCHMARKS, *DERIVED):
        command = [sys.executable, "-m", f"benchmarks.{name}", "--json", str(OUT / f"{name}.json")]
        if subprocess.run(command).returncode:
            failed.append(name)
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
