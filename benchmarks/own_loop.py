"""Compare the own loop of connections with aiohttp's, and aiohttp's private names with its public API.

Nodes that admit everything, so that little but HTTP is left, saturated in turn by the same short prompts; the one under
load has core 0. They differ in how requests are served (`limiter_node.http.server.aiohttp_private.Way`):

- own: in their connection's task, by the own loop;
- tasks: in a task for each request, by aiohttp's loop, all else the same;
- public: by aiohttp's public API alone.

From Python 3.12 on a task begins at once, so run it on each Python that is of interest; the title says which it is.

    python -m benchmarks.own_loop [--rounds N] [--seconds S] [--json FILE]
"""

from __future__ import annotations

import tempfile
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from benchmarks.lib.loads import Load, saturate, write_short_requests
from benchmarks.lib.measuring import Row, interleaved, parser, ratios, row, show
from benchmarks.peers.admit_all_node import running_admit_all_node
from limiter_node.http.server.aiohttp_private import Way


def measure(rounds: int, seconds: float) -> list[Row]:
    """Return all rows of this benchmark."""
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        requests = write_short_requests(directory / "requests", ["sk-any"])
        nodes = [stack.enter_context(running_admit_all_node({"AIOHTTP_WAY": way.value})) for way in Way]
        for node in nodes:
            saturate(node, requests, min(1.0, seconds))  # isn't counted
        loads = interleaved(rounds, [partial(saturate, node, requests, seconds) for node in nodes])
    return rows_of(dict(zip(Way, loads, strict=True)))


def rows_of(loads: dict[Way, list[Load]]) -> list[Row]:
    """Return the ratios to the own loop, round by round, then what each way took."""
    cpu_us = {way: [load.server_us for load in each] for way, each in loads.items()}
    rows = [
        row(f"CPU per request, {way.value} ÷ {Way.OWN_LOOP.value}", "ratio", ratios(each, cpu_us[Way.OWN_LOOP]))
        for way, each in cpu_us.items()
        if way is not Way.OWN_LOOP
    ]
    for way, each in loads.items():
        rows += [
            row(f"{way.value}: CPU of the node per request", "µs", cpu_us[way]),
            row("… requests/s", "1/s", [load.per_second for load in each]),
            row("… share of its core in use", "", [load.busy for load in each]),
        ]
    return rows


def main() -> None:
    """Measure and print."""
    options = parser(__doc__, rounds=9, seconds=3).parse_args()
    show("The ways of serving requests", measure(options.rounds, options.seconds), json_path=options.json)


if __name__ == "__main__":
    main()
