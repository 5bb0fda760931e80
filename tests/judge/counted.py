"""Judges whether each operation is counted exactly once: what callers were told against what the store's window holds.

Each operation counts between a least and a most, in a bucket between a first and a last one. For the store's decisions
these are the same: one number in one bucket. They differ only where nobody outside can know, and as little as possible:

- A request that a node decided alone after it had been sent counts in the bucket of the one or of the other.
- One that a node decided at once counts where the node, uncertain of the store's clock, keeps it longest.
- One whose caller was cancelled may count as a request; its tokens went back.
- A node that died may not have told its last settles and its own admissions, and what it called unavailable may count.
- Before a loss: what a dead node had admitted may be lost. All else has to be there, and once: each node that lives was
  asked once more afterwards. It may lie one bucket later.
- Before a dump that was restored: what is in the dump may count beside what nodes charge again.
- Until a deleted key is put again: a node that had not heard of the deletion may charge what it owes, or nothing.

Buckets are compared as sums of all from one bucket on, for each bucket, so that exchanges between neighbours show, too.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import NamedTuple

from .ledgers import Ledger, ledgers
from .records import (
    ADMITTED,
    CANCELLED,
    DIMENSIONS,
    EXACT_CLOCK,
    NEVER,
    NOTHING,
    OVERLOADED,
    REJECTED,
    UNAVAILABLE,
    KeyHistory,
    Op,
    Peek,
    Record,
    Triple,
    Violation,
    least,
    most,
    plus,
)

COUNTERS: Triple = (2**32 - 1, 2**32 - 1, 2**32 - 1)
"""The most that a plain key's bucket holds; without a limit (policy `open`) callers may be told more than that."""

WIDE_COUNTERS: Triple = (2**32 - 1, 2**53 - 1, 2**53 - 1)
"""The same for an account's windows."""


class Share(NamedTuple):
    """How an operation may be counted."""

    first: int
    last: int
    at_least: Triple
    at_most: Triple


def judge_counted(record: Record) -> Iterator[Violation]:
    """Return the keys whose windows hold more or less than callers were told."""
    if record.clock != EXACT_CLOCK:
        return
    doubts = _doubts(record)
    for ledger in ledgers(record):
        for count in record.counts:
            if (peek := count.peeks.get(ledger.place)) is not None:
                known = (op for op in ledger.ops if op.asked_ms <= count.drained_ms)
                shares = [share_of(record, ledger, op, count.drained_ms, doubts.get(id(op), 0.0)) for op in known]
                yield from _compare(record, ledger, peek, [share for share in shares if share is not None])


def _doubts(record: Record) -> dict[int, float]:
    """Return, for each request that a node decided alone and at once, how uncertain it was of the store's clock, in ms.

    A reply tells the store's clock at some moment between asking and hearing. Nobody is told when the node heard the
    last one: its batch may have had settles and charges alone, or came too late for its requests. But it was asked for
    after the last of the requests that the store is known to have decided by then, because batches leave one by one.
    """
    doubts: dict[int, float] = {}
    asked_since: dict[tuple[int, str], float] = {}
    for op in sorted(record.ops, key=lambda op: op.told_ms):
        of = op.node, record.owner(op.key)
        if op.at_once:
            doubts[id(op)] = op.told_ms - asked_since.get(of, op.asked_ms)
        elif op.outcome in (ADMITTED, REJECTED, NEVER) and not op.degraded:
            asked_since[of] = max(op.asked_ms, asked_since.get(of, 0.0))
        else:
            asked_since.setdefault(of, op.asked_ms)
    return doubts


def share_of(record: Record, ledger: Ledger, op: Op, drained_ms: float, doubt_ms: float = 0.0) -> Share | None:
    """Return how the operation may be counted when all nodes were drained; None if it isn't.

    `doubt_ms`: how far behind the bucket in which its node charged it may lie.
    """
    history, bucket_ms = ledger.history, ledger.bucket_ms
    died = record.deaths.get(op.node, drained_ms) < drained_ms
    end = int(drained_ms) // bucket_ms
    asked = int(op.asked_ms) // bucket_ms
    rollbacks = [each for each in history.rollbacks if each.ended_ms <= drained_ms]
    dumps = sum(op.asked_ms <= each.dump_ended_ms for each in rollbacks)
    if op.outcome == CANCELLED:
        return Share(asked, end, NOTHING, op.most if died or dumps else (1, 0, 0))
    if op.outcome in (UNAVAILABLE, OVERLOADED):
        return Share(asked, end, NOTHING, op.most) if died or dumps else None
    if op.outcome != ADMITTED:
        return None

    at_least = at_most = op.counts
    larger = most(op.need, op.counts)
    if op.degraded:
        first = int(min(op.time_ms, op.asked_ms)) // bucket_ms
        last = min(int(op.told_ms + doubt_ms) // bucket_ms + 1, end) if op.at_once else end
    else:
        first = last = op.time_ms // bucket_ms
    since_ms = op.asked_ms if op.degraded else op.time_ms
    lost = any(since_ms <= each.ended_ms <= drained_ms for each in (*history.losses, *rollbacks))
    if died:
        at_least, at_most = least(op.need, at_least), larger
        if op.degraded or lost:
            at_least = NOTHING
    if lost:  # it is counted again at the end of its cell of the node's own window
        cell = ((last + 1) * bucket_ms - 1) // ledger.cell_ms
        last = ((cell + 1) * ledger.cell_ms - 1) // bucket_ms + 1
    if dumps:
        at_most = larger[0] * (1 + dumps), larger[1] * (1 + dumps), larger[2] * (1 + dumps)
        last = max(last, end) if op.degraded else last
    if any(since_ms <= at_ms <= drained_ms for at_ms in history.forgotten_ms):
        at_least, at_most = NOTHING, most(larger, at_most)
    return Share(first, last, at_least, at_most)


def _compare(record: Record, ledger: Ledger, peek: Peek, shares: list[Share]) -> Iterator[Violation]:
    now = peek.time_ms // ledger.bucket_ms
    oldest = now - ledger.buckets
    at_least: defaultdict[int, Triple] = defaultdict(lambda: NOTHING)
    at_most: defaultdict[int, Triple] = defaultdict(lambda: NOTHING)
    for count in shares:
        at_least[min(count.first, now)] = plus(at_least[min(count.first, now)], count.at_least)
        at_most[min(count.last, now)] = plus(at_most[min(count.last, now)], count.at_most)
    counters = COUNTERS if isinstance(ledger.history, KeyHistory) else WIDE_COUNTERS
    low = high = held = NOTHING
    for bucket in range(now, oldest - 1, -1):
        low, high = plus(low, least(at_least[bucket], counters)), plus(high, at_most[bucket])
        held = plus(held, peek.buckets.get(bucket, NOTHING))
        for dimension, name in enumerate(DIMENSIONS):
            # Without a limit a bucket may be full, and nobody outside knows which one it was.
            is_least_known = record.policy != "open" or high[dimension] <= counters[dimension]
            if held[dimension] > high[dimension] or (is_least_known and held[dimension] < low[dimension]):
                told = str(low[dimension]) if low == high else f"{low[dimension]} to {high[dimension]}"
                yield Violation(
                    "not counted once",
                    ledger.place.text,
                    bucket * ledger.bucket_ms,
                    f"the store counts {held[dimension]} {name} in the last {now - bucket + 1} buckets, "
                    f"callers were told {told}",
                )
                return
