"""The goodput of a node's other keys while one key is flooded at a hundred times its limit.

Both loads are open-loop (`bench-client run`). The other keys ask for a share of what the node can answer at saturation,
measured first, so that the node is about that busy without the flood. Goodput: their answers by 200 within 300 ms of
the due time, as a share of the due requests. Each round has them alone, then beside each flood.

The store and both clients share the cores that the node doesn't have. The table shows how late the clients sent: if
that is many ms, the machine was the limit and not the node.

    python -m benchmarks.flood [--rounds N] [--seconds S] [--share X] [--json FILE]
"""

from __future__ import annotations

import sys
import tempfile
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from bench_client.records.run_directory import open_records, read_info
from benchmarks.lib.loads import saturate, write_short_requests
from benchmarks.lib.measuring import Row, interleaved, parser, ratios, row, show
from benchmarks.lib.open_loop import open_loop_meanwhile, run_open_loop, summary_of
from benchmarks.lib.servers import running_node, unlimited_keys, write_keys

IN_TIME_MS = 300
TIMES = 100
FLOODED_RPM = (600, 3_000)
"""Limits of the flooded keys: floods of 1,000 and 5,000 requests a second."""
NO_FLOOD: dict[str, Any] = {"achieved_qps": 0.0, "total": {"rejected_total": 0, "requests": 1}}


class Others(NamedTuple):
    """Hold the figures of the other keys, and the load on node and clients."""

    goodput: float
    p99_ms: float
    late_p99_ms: float
    busy: float
    """The share of its core that the node used."""
    flood_per_second: float
    """The flood's requests that were answered, per second."""
    flood_rejected: float
    """The share of the flood that was rejected."""


def goodput(out: Path) -> float:
    """Return the share of a run's requests that were answered by 200 in time."""
    info = read_info(out)
    good = sum(
        record.status == 200 and record.error is None and record.done_us - record.due_us <= IN_TIME_MS * 1_000
        for record in open_records(out, info)
    )
    return good / info.planned


def measure(rounds: int, seconds: float, share: float) -> list[Row]:
    """Return all rows of this benchmark."""
    with tempfile.TemporaryDirectory() as temporary:
        directory = Path(temporary)
        names = unlimited_keys(directory / "others.toml")
        flooded = {rpm: directory / f"flooded-{rpm}.toml" for rpm in FLOODED_RPM}
        limits = {f"sk-flooded-{rpm}": {"rpm": rpm} for rpm in flooded}
        for rpm, path in flooded.items():
            write_keys(path, {f"sk-flooded-{rpm}": {}})
        write_keys(directory / "all.toml", {**{name: {} for name in names}, **limits})

        with running_node(directory / "all.toml") as node:
            capacity = saturate(node, write_short_requests(directory / "requests", names), min(seconds, 3.0)).per_second
            qps = capacity * share

            def others(rpm: int | None) -> Others:
                flood = (
                    open_loop_meanwhile(node, flooded[rpm], rpm / 60 * TIMES, seconds * 2 + 60, directory / "flood")
                    if rpm
                    else nullcontext()
                )
                with flood:
                    summary, busy = run_open_loop(node, directory / "others.toml", qps, seconds, directory / "others")
                total = summary["total"]
                flooding = summary_of(directory / "flood") if rpm else NO_FLOOD
                return Others(
                    goodput(directory / "others"),
                    total["latency_ms"]["p99"],
                    summary["send_lateness_ms"]["p99"],
                    busy,
                    flooding["achieved_qps"],
                    flooding["total"]["rejected_total"] / flooding["total"]["requests"],
                )

            results = interleaved(rounds, [partial(others, rpm) for rpm in (None, *FLOODED_RPM)])
    return rows_of(qps, results[0], dict(zip(FLOODED_RPM, results[1:], strict=True)))


def rows_of(qps: float, alone: list[Others], beside: dict[int, list[Others]]) -> list[Row]:
    """Return goodput with each flood ÷ without, then what happened in each."""
    without = [each.goodput for each in alone]
    rows = [
        row(
            f"goodput of the others, {_flood(rpm)} ÷ without",
            "ratio",
            ratios([each.goodput for each in floods], without),
            at_least=0.9,
        )
        for rpm, floods in beside.items()
    ]
    for title, each in (("no flood", alone), *((_flood(rpm), floods) for rpm, floods in beside.items())):
        rows += [
            row(f"{title}: goodput of the others, of {qps:,.0f}/s due", "share", [one.goodput for one in each]),
            row("… their latency p99", "ms", [one.p99_ms for one in each]),
            row("… lateness of their client p99", "ms", [one.late_p99_ms for one in each]),
            row("… share of its core that the node used", "", [one.busy for one in each]),
        ]
        if each is not alone:
            rows += [
                row("… the flood's requests answered", "1/s", [one.flood_per_second for one in each]),
                row("… share of the flood that was rejected", "", [one.flood_rejected for one in each]),
            ]
    return rows


def _flood(rpm: int) -> str:
    return f"flood of {rpm / 60 * TIMES:,.0f}/s on {rpm:,} a minute"


def main() -> None:
    """Measure with the options given, and print the rows."""
    options_of = parser(__doc__, rounds=5, seconds=5)
    options_of.add_argument(
        "--share", type=float, default=0.6, help="share of the node's capacity for the other keys (%(default)s)"
    )
    options = options_of.parse_args()
    if not 0 < options.share < 1:
        sys.exit("--share must be between 0 and 1")
    rows = measure(options.rounds, options.seconds, options.share)
    show(f"One key flooded at {TIMES} times its limit", rows, json_path=options.json)


if __name__ == "__main__":
    main()
