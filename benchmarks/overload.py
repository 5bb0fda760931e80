"""The answers in time of a node under ten times the load that it can carry.

The peak is what it answers to a closed loop of few connections. Then ten times the peak, open-loop, on so many
connections: by clients that wait for the second that a 503 tells them, as official SDKs do, and by clients that don't
take no for an answer and ask again at once. Goodput: answers by 200 within 300 ms of the time that they were sent, a
second. The prompts are medium-sized (about 1,500 tokens, cold), so that one core of clients can make such a load.

    python -m benchmarks.overload [--rounds N] [--seconds S] [--json FILE]
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

from benchmarks.lib.loads import render, write_requests
from benchmarks.lib.measuring import Row, interleaved, parser, ratios, row, show
from benchmarks.lib.prompt_texts import text_of
from benchmarks.lib.servers import Server, running_node, unlimited_keys

TIMES = 10
PEAK_CONNECTIONS = 64
CONNECTIONS = (500, 2_000, 5_000)
RETRY_AFTER_S = 1.0
PROMPT_TOKENS = 1_500
SEED = 1


def load(
    node: Server, requests: Path, seconds: float, connections: int, rate: float, pause_s: float = 0
) -> dict[str, Any]:
    """Return the report of one load by `benchmarks.lib.overload_load`."""
    command = [sys.executable, "-m", "benchmarks.lib.overload_load", str(node.port), str(seconds), str(connections)]
    command += [str(rate), str(pause_s), str(requests), str(node.pid)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit("the load failed")
    seen: dict[str, Any] = json.loads(done.stdout)
    print(f"{connections} connections, {rate:.0f}/s due:", json.dumps(seen), file=sys.stderr)
    return seen


def measure(rounds: int, seconds: float) -> list[Row]:
    """Return all rows of this benchmark."""
    with tempfile.TemporaryDirectory() as temporary:
        directory = Path(temporary)
        keys, rng = unlimited_keys(directory / "keys.toml"), Random(SEED)
        prompts = ([{"role": "user", "content": text_of(PROMPT_TOKENS, rng)}] for _ in range(200))
        requests = write_requests(
            directory / "requests", (render(keys[n], messages=prompt) for n, prompt in enumerate(prompts))
        )
        with running_node(directory / "keys.toml", "--store", "single") as node:
            peak = load(node, requests, seconds, PEAK_CONNECTIONS, 0)["per_second"]["good_in_time"]

            def goodput(connections: int, rate: float, pause_s: float) -> float:
                seen = load(node, requests, seconds, connections, rate, pause_s)
                in_time: float = seen["per_second"]["good_in_time"]
                return in_time

            loads = {"peak": partial(goodput, PEAK_CONNECTIONS, 0, 0)}
            for connections in CONNECTIONS:
                name = f"{TIMES} times the peak on {connections:,} connections"
                loads[name] = partial(goodput, connections, TIMES * peak, RETRY_AFTER_S)
                loads[f"{name}, asking again at once"] = partial(goodput, connections, TIMES * peak, 0)
            figures = dict(zip(loads, interleaved(rounds, list(loads.values())), strict=True))
    return [
        row("peak", "goodput/s", figures["peak"]),
        *(
            row(name, "÷ peak", ratios(figures[name], figures["peak"]), at_least=0.8)
            for name in figures
            if name != "peak"
        ),
    ]


def main() -> None:
    """Measure with the options given, and print the rows."""
    options = parser(__doc__, rounds=3, seconds=4).parse_args()
    show("Ten times the load", measure(options.rounds, options.seconds), json_path=options.json)


if __name__ == "__main__":
    main()
