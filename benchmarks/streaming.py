"""The token rates of many streams at once from one node, and their CPU cost.

`limiter-node up --nodes 1` with the embedded cluster, the node on core 0, everything else on the other cores; the mock
gives every stream the same number of tokens at the same rate. A stream's rate is counted from its first token to its
last; the node's CPU while all of them run. Weakness: on a busy machine it measures the reader, too.

    python -m benchmarks.streaming [--streams N] [--rate R] [--seconds S] [--rounds N] [--json FILE]
"""

from __future__ import annotations

import statistics
import tempfile
from pathlib import Path

import uvloop

from benchmarks.lib.measuring import Row, parser, row, show
from benchmarks.lib.servers import running_node, write_keys
from benchmarks.lib.streams import KEY, read_streams


def measure(streams: int, rate: float, seconds: float, rounds: int) -> list[Row]:
    """Return all rows of this benchmark."""
    tokens = round(rate * seconds)
    with tempfile.TemporaryDirectory() as directory:
        keys = Path(directory) / "keys.toml"
        write_keys(keys, {KEY: {}})
        mock = ("--mock-length", f"fixed:{tokens}", "--mock-tokens-per-s", str(rate))
        with running_node(keys, *mock) as node:
            results = [uvloop.run(read_streams(node, streams, tokens, min(1.0, seconds / 4))) for _ in range(rounds)]
    low, high = rate * 0.95, rate * 1.05
    return [
        row(
            f"token rate of a stream, {streams} at once at {rate:g}/s",
            "1/s",
            [statistics.mean(each.rates) for each in results],
            at_least=low,
            at_most=high,
        ),
        row("… the slowest stream", "1/s", [min(each.rates) for each in results], at_least=low),
        row("… the fastest stream", "1/s", [max(each.rates) for each in results], at_most=high),
        row("CPU of the node", "cores", [each.cores for each in results], at_most=0.5),
        row("CPU of the node per token", "µs", [each.cores / (streams * rate) * 1e6 for each in results]),
    ]


def main() -> None:
    """Measure with the options given, and print the rows."""
    options_of = parser(__doc__, rounds=3, seconds=6)
    options_of.add_argument("--streams", type=int, default=200, help="at once (%(default)s)")
    options_of.add_argument("--rate", type=float, default=50, help="tokens per second of each (%(default)s)")
    options = options_of.parse_args()
    rows = measure(options.streams, options.rate, options.seconds, options.rounds)
    show("Streams on one node", rows, json_path=options.json)


if __name__ == "__main__":
    main()
