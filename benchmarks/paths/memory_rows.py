"""The bytes that windows take in the store, by length, with narrow and with wide cells; and a plain key's."""

from __future__ import annotations

from benchmarks.lib.measuring import Row, row
from benchmarks.lib.shard import Shard
from benchmarks.paths.measured_account import DAY_MS, HOUR_MS, MINUTE_MS, SECOND_MS, MeasuredAccount
from limiter_node.credentials import key_id
from limiter_node.plans import per_text
from limiter_node.policy import PolicyWindow
from limiter_node.store.scripts import Script

_LENGTHS = (SECOND_MS, MINUTE_MS, HOUR_MS, DAY_MS)
_KIB = 1_024
_AIMS = {MINUTE_MS: 12 * _KIB, DAY_MS: 12 * _KIB}
_WIDE_TOKENS = 200_000_000
"""Times the usual tokens: more than 2^32 in a bucket."""


def memory_rows(shard: Shard, script: Script, now_ms: int) -> list[Row]:
    """Return the rows of full windows, each alone in its key's hash, and of a plain key with ten requests a minute."""
    rows = []
    for tokens, cells in (1, ""), (_WIDE_TOKENS, ", amounts above 2^32 in each bucket"):
        account = MeasuredAccount(
            shard, script, f"memory-{tokens}", 2, len(_LENGTHS), own=[(each,) for each in _LENGTHS]
        )
        for key, length in enumerate(_LENGTHS):
            window = PolicyWindow(length)
            # One clock for the account: the next key's windows are filled where those before have ended.
            end_ms = now_ms + key * 2 * DAY_MS
            account.fill([key], end_ms, step_ms=window.bucket_ms, buckets=window.buckets, tokens=tokens)
            taken = shard.redis.memory_usage(account.hashes([key])[1], samples=0) or 0
            aim = None if cells else _AIMS.get(length)
            rows.append(
                row(f"memory of a full window of {per_text(length)}{cells}", "bytes", [float(taken)], at_most=aim)
            )
    slow = key_id("ten-a-minute")
    shard.declare(slow)
    shard.fill(slow, 10, now_ms)
    rows.append(row("memory of a flat key that asks ten times a minute", "bytes", [shard.memory(slow)], at_most=700))
    return rows
