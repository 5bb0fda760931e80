"""The cost of a decision in the store: decisions per second of one shard core, their flatness, and a key's memory.

One server, one connection; the figures are per second of the *server's* CPU time (`benchmarks.lib.shard`).

    python -m benchmarks.script_speed [--server-binary PATH] [--json FILE]
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import time

from benchmarks.lib.measuring import Row, interleaved, row, show
from benchmarks.lib.shard import INPUT_TOKENS, OUTPUT_TOKENS, Shard
from limiter_node.credentials import key_id
from limiter_node.store.codec import pack_admit, pack_settle
from limiter_node.store.embedded.stores import EmbeddedStore

KEYS = 1000
COALESCED = 32


def measure(port: int, rounds: int) -> list[Row]:
    """Return all rows of this benchmark."""
    shard = Shard(port)
    one = [pack_admit(INPUT_TOKENS, OUTPUT_TOKENS, 0)]
    kids = [key_id(f"bench-{i}") for i in range(KEYS)]
    for kid in kids:
        shard.declare(kid)
    now_ms = int(time.time() * 1000)

    def spread() -> float:
        return 40_000 / shard.run([shard.command(kids[i % KEYS], one) for i in range(40_000)])

    def coalesced() -> float:
        return 8_000 * COALESCED / shard.run([shard.command(kids[0], one * COALESCED) for _ in range(8_000)])

    # A key's clock goes on from its newest bucket: each measurement has keys of its own.
    sizes = (1, 1_000, 1_000_000)
    filled = [key_id(f"filled-{size}") for size in sizes]
    for kid, size in zip(filled, sizes, strict=True):
        shard.declare(kid)
        shard.fill(kid, size, now_ms)

    def at_fill(kid: str) -> float:
        return shard.run([shard.command(kid, one, now_ms) for _ in range(20_000)]) / 20_000 * 1e6

    def settled() -> float:  # each in a call of its own, as on a key with little traffic
        bucket = int(time.time() * 10)
        settle = [pack_settle(bucket, 0, OUTPUT_TOKENS // 2)]
        calls = ((kid, operations) for kid in kids * 10 for operations in (one, settle))
        return 20_000 / shard.run([shard.command(kid, operations, bucket * 100) for kid, operations in calls])

    # A full window in which each call begins a bucket, lets one leave, and settles what was admitted two seconds ago.
    steady = key_id("steady")
    shard.declare(steady)
    shard.fill(steady, 600, now_ms)
    clock_ms = itertools.count(now_ms, 100)

    def moving() -> float:
        commands = []
        for ms in itertools.islice(clock_ms, 4_000):
            settle = pack_settle(ms // 100 - 20, 0, OUTPUT_TOKENS // 2)
            commands.append(shard.command(steady, [settle, *one], ms))
        return shard.run(commands) / 4_000 * 1e6

    speeds = interleaved(rounds, [spread, coalesced, settled, moving])
    fills = interleaved(rounds, [lambda kid=kid: at_fill(kid) for kid in filled])  # type: ignore[misc]

    limited = key_id("limited")
    shard.declare(limited)
    shard.fill(limited, 600, now_ms)
    shard.declare(limited, rpm=600, tpm=600 * INPUT_TOKENS)
    some, half, whole = ([pack_admit(buckets * INPUT_TOKENS, 1, 0)] for buckets in (20, 300, 600))
    rejects = interleaved(
        rounds,
        [
            lambda operations=operations: (  # type: ignore[misc]
                shard.run([shard.command(limited, operations, now_ms) for _ in range(2_000)]) / 2_000 * 1e6
            )
            for operations in (one, some, half, whole)
        ],
    )
    slow = key_id("ten-a-minute")
    shard.declare(slow)
    shard.fill(slow, 10, now_ms)
    return [
        row(f"decisions/s of a shard core, {KEYS} keys, one per call", "1/s", speeds[0], "≥ 80,000"),
        row(f"decisions/s of a shard core, one key, {COALESCED} per call", "1/s", speeds[1], "≥ 900,000"),
        row(f"calls/s of a shard core, {KEYS} keys, an admission and its settle in turn", "1/s", speeds[2]),
        row("a settle and an admission in a full window, each call in a new bucket", "µs", speeds[3]),
        *(
            row(f"a decision with {size:,} requests in the window", "µs", times)
            for size, times in zip(sizes, fills, strict=True)
        ),
        row(
            "… with 1,000,000 ÷ with 1",
            "ratio",
            [many / few for many, few in zip(fills[2], fills[0], strict=True)],
            "≤ 1.1",
        ),
        row("a rejection, the oldest bucket frees enough", "µs", rejects[0], "< an admission"),
        row("a rejection, the oldest 20 buckets free enough", "µs", rejects[1]),
        row("a rejection, half the window frees enough", "µs", rejects[2]),
        row("a rejection, only the whole window frees enough", "µs", rejects[3]),
        row("memory of a key with 1,000,000 requests a minute", "bytes", [shard.memory(filled[2])], "≤ 12 KB"),
        row("memory of a key with ten requests a minute", "bytes", [shard.memory(slow)], "≤ 600"),
    ]


def main() -> None:
    """Measure with the options given, and print the rows."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--server-binary", help="a system redis-server or valkey-server instead of the embedded one")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", help="file to write the rows to as well")
    options = parser.parse_args()

    async def run() -> list[Row]:
        async with EmbeddedStore("single", binary=options.server_binary) as store:
            return await asyncio.to_thread(measure, store.servers[0].port, options.rounds)

    show("Script and memory", asyncio.run(run()), json_path=options.json)


if __name__ == "__main__":
    main()
