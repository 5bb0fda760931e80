"""Whether one node holds the token rate of many streams at once, and what that costs it.

`limiter-node up --nodes 1` with the embedded cluster, the node on core 0, everything else on the other cores; the mock
gives every stream the same number of tokens at the same rate. A stream's rate is counted from its first token to its
last; the node's CPU while all of them run. Weakness: on a busy machine it measures the reader, too.

    python -m benchmarks.streaming [--streams N] [--rate R] [--seconds S] [--rounds N] [--json FILE]
"""

from __future__ import annotations

import asyncio
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import uvloop

from bench_client.servers.procfs import cpu_seconds
from benchmarks.loads import render
from benchmarks.measuring import Row, parser, row, show
from benchmarks.servers import Server, running_node, write_keys

KEY = "sk-streams"
_TOKEN = b'"delta":{"content":'


class Reader(asyncio.Protocol):
    """Reads one stream and counts its tokens; keeps nothing."""

    def __init__(self, request: bytes) -> None:
        self._request = request
        self._tail = b""
        self.tokens = 0
        self.first_s = self.last_s = 0.0
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's are not derived from it
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        data = self._tail + data
        # What could be the beginning of a token's mark is looked at again with what follows it.
        self._tail = data[-len(_TOKEN) + 1 :]
        if tokens := data.count(_TOKEN):
            self.last_s = time.perf_counter()
            self.first_s = self.first_s or self.last_s
            self.tokens += tokens
        if b"[DONE]" in data and not self.done.done():
            self.done.set_result(None)
            self._transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.done.done():
            self.done.set_exception(exc or ConnectionError("a stream ended too early"))


@dataclass(frozen=True, slots=True)
class Round:
    """One load: the rates of its streams in tokens per second, and the node's CPU in cores."""

    rates: list[float]
    cores: float


async def load(node: Server, streams: int, tokens: int, ramp_s: float) -> Round:
    """Open the streams one after the other over `ramp_s`, as clients would come; read all of them to their end."""
    request = render(KEY, max_tokens=tokens, stream=True, messages=[{"role": "user", "content": "Hello"}])
    loop = asyncio.get_running_loop()
    readers: list[Reader] = []
    for _ in range(streams):
        _, reader = await loop.create_connection(lambda: Reader(request), "127.0.0.1", node.port)
        readers.append(reader)
        await asyncio.sleep(ramp_s / streams)
    before, since = cpu_seconds(node.pid), time.perf_counter()
    await asyncio.wait([each.done for each in readers], return_when=asyncio.FIRST_COMPLETED, timeout=300)
    cores = (cpu_seconds(node.pid) - before) / (time.perf_counter() - since)
    await asyncio.gather(*(each.done for each in readers))
    if any(each.tokens != tokens for each in readers):
        sys.exit("a stream didn't bring all of its tokens")
    return Round([(each.tokens - 1) / (each.last_s - each.first_s) for each in readers], cores)


def measure(streams: int, rate: float, seconds: float, rounds: int) -> list[Row]:
    """All rows of this benchmark."""
    tokens = round(rate * seconds)
    with tempfile.TemporaryDirectory() as directory:
        keys = Path(directory) / "keys.toml"
        write_keys(keys, {KEY: {}})
        mock = ("--mock-length", f"fixed:{tokens}", "--mock-tokens-per-s", str(rate))
        with running_node(keys, *mock) as node:
            results = [uvloop.run(load(node, streams, tokens, min(1.0, seconds / 4))) for _ in range(rounds)]
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
    """Measure and print."""
    options_of = parser(__doc__, rounds=3, seconds=6)
    options_of.add_argument("--streams", type=int, default=200, help="at once (%(default)s)")
    options_of.add_argument("--rate", type=float, default=50, help="tokens per second of each (%(default)s)")
    options = options_of.parse_args()
    rows = measure(options.streams, options.rate, options.seconds, options.rounds)
    show("Streams on one node", rows, json_path=options.json)


if __name__ == "__main__":
    main()
