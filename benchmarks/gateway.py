"""The cost of passing requests on to a service: requests/s of a node, added latency, and CPU per piece of a stream.

Behind the node is `fast_upstream`, which costs nothing to ask. Three loads, each in turn with its peer:

- saturation: the node as a gateway, and the same node with its mock; the node has core 0, all else the others;
- a steady open-loop rate: through the gateway, straight at the service, and at the node with its mock; the differences
  are the added latency;
- streams at a steady rate of pieces: the gateway, and a process that only hands bytes on (`raw_relay`), which shows the
  cost of a piece for any process between two sockets. The difference is the added cost.

    python -m benchmarks.gateway [--rounds N] [--seconds S] [--streams N] [--json FILE]
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import uvloop

from benchmarks.lib.loads import saturate, write_short_requests
from benchmarks.lib.measuring import Row, interleaved, parser, ratios, row, show
from benchmarks.lib.open_loop import run_open_loop
from benchmarks.lib.servers import SERVER_CORES, Server, pin, running_node, stop, unlimited_keys, write_keys
from benchmarks.lib.streams import KEY, read_streams
from benchmarks.peers.fast_upstream import running_fast_upstream

_QPS = 300
_RATE = 50.0
"""Pieces a second in each stream."""


@contextmanager
def running_raw_relay(port: int) -> Iterator[Server]:
    """Run a relay to that port, on the server's core."""
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.peers.raw_relay", str(port)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        listening = int(process.stdout.readline())
        pin(process.pid, SERVER_CORES)
        yield Server(listening, process.pid)
    finally:
        stop(process)


def requests(rounds: int, seconds: float) -> list[Row]:
    """Return the rows of whole answers: saturation, and added latency at a steady rate."""
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        keys = directory / "keys.toml"
        many = write_short_requests(directory / "many", unlimited_keys(keys))
        port = stack.enter_context(running_fast_upstream())
        # A single store: load, service and store share what is left of the machine.
        gateway = stack.enter_context(running_node(keys, "--store=single", f"--upstream=http://127.0.0.1:{port}/v1"))
        mock = stack.enter_context(running_node(keys, "--store=single"))
        loads = interleaved(rounds, [partial(saturate, each, many, seconds) for each in (gateway, mock)])

        def latency_ms(server: Server) -> dict[str, float]:
            total = run_open_loop(server, keys, _QPS, seconds, directory / "run").summary["total"]
            if total["admitted"] != total["requests"]:
                sys.exit("requests were not answered by 200")
            latencies: dict[str, float] = total["latency_ms"]
            return latencies

        service = Server(port, gateway.pid)  # its own CPU is nobody's concern
        through, straight, alone = interleaved(rounds, [partial(latency_ms, each) for each in (gateway, service, mock)])
    passing, mocking = loads
    rows = [
        row("gateway: requests/s", "1/s", [load.per_second for load in passing], at_least=4_000),
        row("… CPU of the node per request", "µs", [load.server_us for load in passing]),
        row("… share of its core in use", "", [load.busy for load in passing]),
        row("node with its mock: CPU per request", "µs", [load.server_us for load in mocking]),
        row(
            "gateway ÷ mock, CPU per request",
            "ratio",
            ratios([load.server_us for load in passing], [load.server_us for load in mocking]),
        ),
    ]
    for name, at_most in (("p50", 0.6), ("p99", None)):
        over = [each[name] for each in through]
        for what, others, aim in (
            ("to the service's, deciding included", straight, at_most),
            ("to the mock's", alone, None),
        ):
            under = [each[name] for each in others]
            added = row(
                f"latency {name} at {_QPS}/s: added {what}", "ms", [a - b for a, b in zip(over, under, strict=True)]
            )
            rows.append(replace(added, median=statistics.median(over) - statistics.median(under), at_most=aim))
        rows.append(row(f"… latency {name} through the gateway", "ms", over))
    return rows


def pieces(rounds: int, seconds: float, streams: int) -> list[Row]:
    """Return the rows of streams: CPU per piece, of the gateway and of the relay."""
    tokens = round(_RATE * seconds)
    with ExitStack() as stack:
        keys = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "keys.toml"
        write_keys(keys, {KEY: {}})
        port = stack.enter_context(running_fast_upstream(tokens, _RATE))
        gateway = stack.enter_context(running_node(keys, "--store=single", f"--upstream=http://127.0.0.1:{port}/v1"))
        relay = stack.enter_context(running_raw_relay(port))

        def cpu_us(server: Server) -> float:
            cores = uvloop.run(read_streams(server, streams, tokens, min(1.0, seconds / 4))).cores
            return cores / (streams * _RATE) * 1e6

        passing, relaying = interleaved(rounds, [partial(cpu_us, gateway), partial(cpu_us, relay)])
    added = [a - b for a, b in zip(passing, relaying, strict=True)]
    return [
        row(f"CPU of the node per piece, {streams} streams at {_RATE:g}/s", "µs", passing),
        row("… of a relay that only hands bytes on", "µs", relaying),
        row("… added by the gateway", "µs", added, at_most=15),
    ]


def main() -> None:
    """Measure with the options given, and print the rows."""
    options_of = parser(__doc__, rounds=5, seconds=4)
    options_of.add_argument("--streams", type=int, default=200, help="streams at once (%(default)s)")
    options = options_of.parse_args()
    rows = requests(options.rounds, options.seconds) + pieces(options.rounds, options.seconds, options.streams)
    show("A node in front of a service", rows, json_path=options.json)


if __name__ == "__main__":
    main()
