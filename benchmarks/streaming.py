"""Whether one node holds the token rate of many streams at once, and what that costs it.

`limiter-node up --nodes 1` with the embedded cluster, the node on core 0, everything else on the other cores; the mock
gives every stream the same number of tokens at the same rate. A stream's rate is counted from its first token to its
last; the node's CPU while all of them run. Weakness: on a busy machine it measures the reader, too.

    python -m benchmarks.streaming [--streams N] [--rate R] [--seconds S] [--rounds N] [--json FILE]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import uvloop

from benchmarks.measuring import Row, cpu_seconds, row, show
from benchmarks.node_speed import Fleet, running_fleet

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


async def load(fleet: Fleet, streams: int, tokens: int, ramp_s: float) -> Round:
    """Open the streams one after the other over `ramp_s`, as clients would come; read all of them to their end."""
    body = json.dumps(
        {"model": "gpt-4o", "max_tokens": tokens, "stream": True, "messages": [{"role": "user", "content": "Hello"}]}
    ).encode()
    request = (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {KEY}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    ).encode() + body
    loop = asyncio.get_running_loop()
    readers: list[Reader] = []
    for _ in range(streams):
        _, reader = await loop.create_connection(lambda: Reader(request), "127.0.0.1", fleet.port)
        readers.append(reader)
        await asyncio.sleep(ramp_s / streams)
    before, since = cpu_seconds(fleet.node), time.perf_counter()
    await asyncio.wait([each.done for each in readers], return_when=asyncio.FIRST_COMPLETED, timeout=300)
    cores = (cpu_seconds(fleet.node) - before) / (time.perf_counter() - since)
    await asyncio.gather(*(each.done for each in readers))
    if any(each.tokens != tokens for each in readers):
        sys.exit("a stream didn't bring all of its tokens")
    return Round([(each.tokens - 1) / (each.last_s - each.first_s) for each in readers], cores)


def measure(streams: int, rate: float, seconds: float, rounds: int) -> list[Row]:
    """All rows of this benchmark."""
    tokens = round(rate * seconds)
    with tempfile.TemporaryDirectory() as directory:
        keys = Path(directory) / "keys.toml"
        keys.write_text(f'[keys."{KEY}"]\nrpm = 4000000000\ninput_tpm = 4000000000\noutput_tpm = 4000000000\n')
        mock = ("--mock-length", f"fixed:{tokens}", "--mock-tokens-per-s", str(rate))
        with running_fleet(keys, *mock) as fleet:
            results = [uvloop.run(load(fleet, streams, tokens, min(1.0, seconds / 4))) for _ in range(rounds)]
    within = f"{rate * 0.95:g} to {rate * 1.05:g}"
    return [
        row(
            f"token rate of a stream, {streams} at once at {rate:g}/s",
            "1/s",
            [statistics.mean(each.rates) for each in results],
            within,
        ),
        row("… the slowest stream", "1/s", [min(each.rates) for each in results], within),
        row("… the fastest stream", "1/s", [max(each.rates) for each in results], within),
        row("CPU of the node", "cores", [each.cores for each in results], "< 0.5"),
        row("CPU of the node per token", "µs", [each.cores / (streams * rate) * 1e6 for each in results]),
    ]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--streams", type=int, default=200)
    parser.add_argument("--rate", type=float, default=50)
    parser.add_argument("--seconds", type=float, default=6)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", help="write the rows there, too")
    options = parser.parse_args()
    rows = measure(options.streams, options.rate, options.seconds, options.rounds)
    show("Streams on one node", rows, json_path=options.json)


if __name__ == "__main__":
    main()
