"""The cost of a rejected request beside an admitted one: CPU of node and store, under a flood on one key.

A closed loop of connections asks for the same again as soon as it is answered, on one node pinned to one core: with
limits out of reach, then with limits that are used up, so that all but the first are rejected.

    python -m benchmarks.rejects [--rounds N] [--seconds S] [--connections N] [--json FILE]
"""

from __future__ import annotations

import tempfile
from functools import partial
from pathlib import Path

from benchmarks.lib.loads import CONNECTIONS, Load, saturate, write_short_requests
from benchmarks.lib.measuring import Row, interleaved, parser, ratios, row, show
from benchmarks.lib.servers import running_node, write_keys

ADMITTED = "admitted"
LIMITS: dict[str, dict[str, int]] = {
    ADMITTED: {},
    "rejected by the limit of requests": {"rpm": 600},
    "rejected by the limit of output": {"output_tpm": 50_000},
}
"""What is measured, and the limits of its key that are in reach."""


def measure(rounds: int, seconds: float, connections: int) -> list[Row]:
    """Return all rows of this benchmark."""
    with tempfile.TemporaryDirectory() as temporary:
        directory = Path(temporary)
        keys = {f"sk-{number}": limits for number, limits in enumerate(LIMITS.values())}
        write_keys(directory / "keys.toml", keys)
        requests = [write_short_requests(directory / key, [key]) for key in keys]
        with running_node(directory / "keys.toml") as node:

            def load(path: Path, seconds: float) -> Load:
                return saturate(node, path, seconds, connections=connections, all_admitted=False)

            for path in requests:
                load(path, 1)  # uses the limits up; isn't counted
            loads = interleaved(rounds, [partial(load, path, seconds) for path in requests])
    return rows_of(dict(zip(LIMITS, loads, strict=True)))


def rows_of(loads: dict[str, list[Load]]) -> list[Row]:
    """Return each load's figures, and its CPU beside that of the admitted."""
    cpu_us = {name: [load.server_us + load.store_us for load in each] for name, each in loads.items()}
    rows = []
    for name, each in loads.items():
        rows += [
            row(f"requests/s, {name}", "1/s", [load.per_second for load in each]),
            row("… CPU of the node per request", "µs", [load.server_us for load in each]),
            row("… CPU of the store per request", "µs", [load.store_us for load in each]),
        ]
        if name != ADMITTED:
            rows.append(
                row("… node and store together ÷ admitted", "ratio", ratios(cpu_us[name], cpu_us[ADMITTED]), at_most=1)
            )
            rows.append(row("… share admitted all the same", "ratio", [load.admitted for load in each]))
    return rows


def main() -> None:
    """Measure with the options given, and print the rows."""
    options_of = parser(__doc__, rounds=5, seconds=3)
    options_of.add_argument("--connections", type=int, default=CONNECTIONS, help="at once (%(default)s)")
    options = options_of.parse_args()
    rows = measure(options.rounds, options.seconds, options.connections)
    show("Rejecting and admitting", rows, json_path=options.json)


if __name__ == "__main__":
    main()
