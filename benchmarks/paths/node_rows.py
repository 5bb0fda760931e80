"""The CPU of a node per request of plain keys, beside that of an earlier commit's node."""

from __future__ import annotations

import tempfile
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from benchmarks.lib.loads import saturate, write_short_requests
from benchmarks.lib.measuring import Row, interleaved, ratios, row
from benchmarks.lib.servers import running_node, unlimited_keys
from benchmarks.paths.earlier import ROOT, code_of

_PATIENT = "--decision-timeout-ms=20000"
"""A moment in which the machine does something else must not make a node decide alone, which costs less."""


def node_rows(earlier: str, rounds: int, seconds: float) -> list[Row]:
    """Return the CPU of both nodes, saturated in turn, and their ratio round by round."""
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        keys = directory / "keys.toml"
        requests = write_short_requests(directory / "requests", unlimited_keys(keys))
        codes = (ROOT, stack.enter_context(code_of(earlier)))
        nodes = [stack.enter_context(running_node(keys, _PATIENT, code=code)) for code in codes]
        for node in nodes:
            saturate(node, requests, min(1.0, seconds))  # isn't counted
        loads = interleaved(rounds, [partial(saturate, node, requests, seconds) for node in nodes])
    now, before = ([load.server_us for load in each] for each in loads)
    return [
        row(f"flat: CPU of a node per request ÷ that of {earlier}", "ratio", ratios(now, before), at_most=1.03),
        row("… CPU of the node per request", "µs", now),
    ]
