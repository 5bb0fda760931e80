"""What a rejected request costs beside an admitted one: CPU of node and store, under a flood on one key.

A closed loop of connections asks for the same again as soon as it is answered, on one node pinned to one core: with
limits out of reach, then with limits that are used up, so that all but the first are rejected.

    python -m benchmarks.rejects [--rounds N] [--seconds S] [--connections N] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

from benchmarks.measuring import Row, cpu_seconds, interleaved, row, show
from benchmarks.node_speed import Fleet, request, running_fleet
from benchmarks.saturate import SEPARATOR

OUT_OF_REACH = 4_000_000_000
KEYS = """
[keys."sk-admitted"]
rpm = {0}
input_tpm = {0}
output_tpm = {0}

[keys."sk-requests"]
rpm = 600
input_tpm = {0}
output_tpm = {0}

[keys."sk-output"]
rpm = {0}
input_tpm = {0}
output_tpm = 50_000
"""


class Load(NamedTuple):
    """What one load took: CPU per request, and requests per second."""

    node_us: float
    store_us: float
    per_second: float
    admitted: float
    """The share that was."""


def load(fleet: Fleet, requests: Path, seconds: float, connections: int) -> Load:
    """Drive the node for some seconds."""
    processes = (fleet.node, *fleet.servers)
    before = [cpu_seconds(pid) for pid in processes]
    command = [sys.executable, "-m", "benchmarks.saturate", str(fleet.port), str(seconds), str(connections)]
    output = subprocess.run([*command, str(requests)], check=True, capture_output=True, text=True).stdout
    node, *servers = (cpu_seconds(pid) - was for pid, was in zip(processes, before, strict=True))
    result = json.loads(output)
    return Load(
        node / result["total"] * 1e6,
        sum(servers) / result["total"] * 1e6,
        result["answered"] / result["seconds"],
        result["ok"] / result["answered"],
    )


def measure(rounds: int, seconds: float, connections: int) -> list[Row]:
    """All rows of this benchmark."""
    loads: dict[str, list[Load]] = {"admitted": [], "requests": [], "output": []}
    with tempfile.TemporaryDirectory() as directory:
        keys = Path(directory) / "keys.toml"
        keys.write_text(KEYS.format(OUT_OF_REACH))
        for name in loads:
            path = Path(directory) / name
            path.write_bytes(SEPARATOR.join(request(f"sk-{name}", number) for number in range(1_000)))

        with running_fleet(keys) as fleet:

            def one(name: str) -> float:
                loads[name].append(load(fleet, Path(directory) / name, seconds, connections))
                return loads[name][-1].per_second

            # The limits are used up by a first load, which isn't counted.
            for name in ("requests", "output"):
                load(fleet, Path(directory) / name, 1, connections)
            interleaved(rounds, [lambda name=name: one(name) for name in loads])  # type: ignore[misc]
    rows = []
    for name, each in loads.items():
        wording = "admitted" if name == "admitted" else f"rejected by the limit of {name}"
        rows += [
            row(f"requests/s, {wording}", "1/s", [one_load.per_second for one_load in each]),
            row(f"CPU of the node per request, {wording}", "µs", [one_load.node_us for one_load in each]),
            row(f"CPU of the store per request, {wording}", "µs", [one_load.store_us for one_load in each]),
        ]
        if name != "admitted":
            ratios = [
                (rejected.node_us + rejected.store_us) / (admitted.node_us + admitted.store_us)
                for rejected, admitted in zip(each, loads["admitted"], strict=True)
            ]
            rows.append(row("… node and store together ÷ admitted", "ratio", ratios, "< 1"))
            rows.append(row("… share admitted all the same", "ratio", [one_load.admitted for one_load in each]))
    return rows


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4)
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--json", help="write the rows there, too")
    options = parser.parse_args()
    show(
        "Rejecting and admitting", measure(options.rounds, options.seconds, options.connections), json_path=options.json
    )


if __name__ == "__main__":
    main()
