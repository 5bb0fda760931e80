"""Plain keys: the script of now beside an earlier one, and the figures that paths are compared with."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

from benchmarks.lib.measuring import Row, ratios, row
from benchmarks.lib.shard import INPUT_TOKENS, OUTPUT_TOKENS, Shard
from benchmarks.paths.cases import Case, Micros, per_second
from limiter_node.credentials import key_id
from limiter_node.store.codec import pack_admit, pack_settle
from limiter_node.store.keyspace import past_key, window_key
from limiter_node.store.scripts import Script

KEYS, COALESCED = 1_000, 32
ONE = [pack_admit(INPUT_TOKENS, OUTPUT_TOKENS, 0)]
SPREAD, FULL_BATCH = "spread", f"one key x {COALESCED}"
REJECT_OLDEST, REJECT_NEWEST = "a rejection, the oldest bucket frees enough", "a rejection, only the newest does"
_AIMS = {SPREAD: 0.9, FULL_BATCH: 0.9, REJECT_OLDEST: 0.75, REJECT_NEWEST: 0.75}

STAYS, CHANGES, LEAVES = "the bucket stays", "the bucket changes", "the bucket changes and one leaves"
SETTLES = "settle and admit in full windows"
SOME = 20
"""The keys that take turns where each call begins a bucket."""


def compared_cases(shard: Shard, scripts: Sequence[Script], now_ms: int) -> dict[str, Case]:
    """Return the cases of each script by its number, 0 the present one, then an earlier one if there is one."""
    kids = [key_id(f"compared-{number}") for number in range(KEYS)]
    full = key_id("full")
    for kid in (*kids, full):
        shard.declare(kid)
    shard.fill(full, 600, now_ms)
    shard.declare(full, rpm=600, tpm=600 * INPUT_TOKENS)
    shard.keep(window_key(full), past_key(full))
    whole = [pack_admit(600 * INPUT_TOKENS, 1, 0)]
    found: dict[str, Case] = {}
    for kind, calls, operations, some, clock_ms in (
        (SPREAD, 20_000, ONE, kids, 0),
        (FULL_BATCH, 4_000, ONE * COALESCED, kids[:1], 0),
        (REJECT_OLDEST, 4_000, ONE, [full], now_ms),
        (REJECT_NEWEST, 4_000, whole, [full], now_ms),
    ):
        for number, script in enumerate(scripts):
            commands = _calls(shard, some, operations, clock_ms, script)
            found[f"{kind}, {number}"] = Case(calls, commands, len(operations))
    return found


def _calls(
    shard: Shard, kids: Sequence[str], operations: list[bytes], clock_ms: int, script: Script | None = None
) -> Callable[[int], list[bytes]]:
    return lambda count: [shard.command(kids[i % len(kids)], operations, clock_ms, script) for i in range(count)]


def compared_rows(us: Micros, earlier: str) -> list[Row]:
    """Return the rates of the script now; if it was measured beside that earlier commit's, also how they compare."""
    rows = []
    for kind, aim in _AIMS.items():
        now = us[f"{kind}, 0"]
        rows.append(row(f"flat, {kind}: decisions/s of a shard core", "1/s", per_second(now)))
        if earlier:
            before = ratios(us[f"{kind}, 1"], now)
            rows.append(row(f"… ÷ those of the script of {earlier}", "ratio", before, at_least=aim))
    return rows


def base_cases(shard: Shard, now_ms: int) -> dict[str, Case]:
    """Return the cases that paths are compared with, by the same clock as theirs."""
    kids = [key_id(f"flat-{number}") for number in range(KEYS)]
    some = [key_id(f"flat-some-{number}") for number in range(SOME)]
    steady = [key_id(f"flat-steady-{number}") for number in range(SOME)]
    full = key_id("flat-full")
    for kid in (*kids, *some, *steady, full):
        shard.declare(kid)
    shard.fill(full, 600, now_ms)
    every_100_ms = itertools.count(now_ms, 100)

    def settles(count: int) -> list[bytes]:
        return [
            shard.command(full, [pack_settle(ms // 100 - 20, 0, OUTPUT_TOKENS // 2), *ONE], ms)
            for ms in itertools.islice(every_100_ms, count)
        ]

    return {
        STAYS: Case(10_000, _calls(shard, kids, ONE, now_ms)),
        FULL_BATCH: Case(2_000, _calls(shard, kids[:1], ONE * COALESCED, now_ms), COALESCED),
        CHANGES: Case(1_000, changing(shard, lambda key, ms: shard.command(some[key], ONE, ms), now_ms)),
        LEAVES: Case(2_000, leaving(shard, lambda key, ms: shard.command(steady[key], ONE, ms), now_ms)),
        SETTLES: Case(2_000, settles),
    }


def changing(shard: Shard, call: Callable[[int, int], bytes], now_ms: int) -> Callable[[int], list[bytes]]:
    """Return calls of `SOME` keys in turn, each 1 s after its last: each begins a bucket, and none leaves."""
    begins = itertools.count(now_ms, 100_000_000)  # beyond a day: nothing counts any more

    def commands(count: int) -> list[bytes]:
        begin_ms = next(begins)
        shard.run([call(key, begin_ms) for key in range(SOME)])
        return [call(i % SOME, begin_ms + (i // SOME + 1) * 1_000) for i in range(count)]

    return commands


def leaving(shard: Shard, call: Callable[[int, int], bytes], now_ms: int) -> Callable[[int], list[bytes]]:
    """Return calls of `SOME` keys in turn, each 1 s after its last: one bucket of each minute leaves per call."""
    times = itertools.count(now_ms, 1_000)
    for ms in itertools.islice(times, 62):
        shard.run([call(key, ms) for key in range(SOME)])

    def commands(count: int) -> list[bytes]:
        return [call(key, ms) for ms in itertools.islice(times, -(-count // SOME)) for key in range(SOME)]

    return commands
