"""Judges what callers of accounts' keys were told: paths, limits, keys that are not, and why a request was rejected."""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Iterator

from .bounds import STORE_TOLERANCE_MS, TOLD_TOLERANCE_MS
from .counted import share_of
from .ledgers import Ledger, ledgers
from .policies import Declared
from .records import (
    ADMITTED,
    DECIDED,
    EXACT_CLOCK,
    NEVER,
    NO_LIMIT,
    NOTHING,
    REJECTED,
    UNITS,
    UNKNOWN,
    AccountHistory,
    Op,
    Record,
    Touched,
    Triple,
    Violation,
    by_unit,
    minus,
    most,
    plus,
)

_HUGE = 10**14
"""Requests of so many tokens fill what a window can hold at all, also where it has no limit."""


def judge_told_paths(record: Record) -> Iterator[Violation]:
    """Return what callers of accounts' keys must not have been told."""
    for op in record.ops:
        tag = record.account_of.get(op.key)
        if tag is None:
            continue
        history = record.accounts[tag]
        if op.outcome == UNKNOWN:
            yield from _unknown(record, history, op)
        elif op.outcome in DECIDED:
            yield from _path(record, history, op)
            yield from _named(op)
    for ops in _by_key(record).values():
        yield from _alone_after_unknown(record, ops)
    if record.clock == EXACT_CLOCK:
        for ledger in ledgers(record):
            if ledger.place.per_ms:
                yield from _rejections(record, ledger)


def _by_key(record: Record) -> dict[str, list[Op]]:
    by_key: defaultdict[str, list[Op]] = defaultdict(list)
    for op in sorted(record.ops, key=lambda op: op.told_ms):
        if op.key in record.account_of:
            by_key[op.key].append(op)
    return by_key


# ---- paths and limits ------------------------------------------------------------------------------------------------


def _path(record: Record, history: AccountHistory, op: Op) -> Iterator[Violation]:
    """The store decides by the policies of that moment, a node alone by any that it can have been told."""
    since_ms, until_ms = (0.0, op.told_ms) if op.degraded else (op.asked_ms, op.told_ms)
    if record.clock == EXACT_CLOCK and not op.degraded:
        since_ms, until_ms = op.time_ms - STORE_TOLERANCE_MS, op.time_ms + STORE_TOLERANCE_MS
    found = history.in_force(since_ms, until_ms)
    if any(_is_path_of(each, op, record.clock != EXACT_CLOCK) for each in found):
        return
    if op.degraded:
        # The node may know the account as it was at one time, and the key as it was at another.
        known = {Touched(each.place(rule), rule.limits) for each in found for rule in each.rules}
        if all(touched in known for touched in op.path):
            return
    yield Violation(
        "limits that were not in force",
        op.key,
        op.told_ms,
        f"node {op.node}: {op.outcome} {op.degraded} by {[(each.place.text, each.limits) for each in op.path]}",
    )


def _is_path_of(declared: Declared, op: Op, is_any_time: bool) -> bool:
    rules = declared.path(op.key, op.models)
    if rules is None:
        return False
    told = list(op.path)
    for rule in rules:
        touched = Touched(declared.place(rule), rule.limits)
        if told and told[0] == touched:
            told.pop(0)
        # A window whose limits were taken away ends by the node's estimate of the store's clock.
        elif not rule.until_ms or (op.time_ms < rule.until_ms - TOLD_TOLERANCE_MS and not is_any_time):
            return False
    return not told


def _named(op: Op) -> Iterator[Violation]:
    """The limit that is named as the cause is one that rejects, and for "never" one that the request exceeds."""
    if op.outcome == ADMITTED:
        return
    limit = op.path[op.exceeded].limits[op.unit] if op.exceeded >= 0 and op.unit >= 0 else NO_LIMIT
    need = by_unit(op.need)
    if limit == NO_LIMIT and op.outcome == REJECTED and need[op.unit] >= _HUGE:
        return
    if limit == NO_LIMIT or not need[op.unit] or (op.outcome == NEVER) != (need[op.unit] > limit):
        what = (
            f"node {op.node}: {op.outcome} {op.degraded} need {op.need}, window {op.exceeded}, unit {op.unit}, {limit}"
        )
        yield Violation("a rejection by no limit", op.key, op.told_ms, what)


# ---- keys that are not -----------------------------------------------------------------------------------------------


def _unknown(record: Record, history: AccountHistory, op: Op) -> Iterator[Violation]:
    """A key is unknown only while it is not declared; a read that another request began may tell it a little later."""
    since_ms = op.asked_ms - 2 * record.timeout_ms
    if all(op.key in each.keys for each in history.in_force(since_ms, op.told_ms)):
        yield Violation("a declared key was unknown", op.key, op.told_ms, f"node {op.node}")


def _alone_after_unknown(record: Record, ops: list[Op]) -> Iterator[Violation]:
    last_word: dict[int, Op] = {}
    for op in ops:
        word = last_word.get(op.node)
        if op.degraded and op.outcome == ADMITTED and word and word.told_ms < op.asked_ms:
            history = record.accounts[record.account_of[op.key]]
            # By what was declared since, the node may have met the key again for a request that has no end yet.
            later = history.in_force(word.asked_ms - 2 * record.timeout_ms, op.told_ms)
            if not any(op.key in each.keys for each in later):
                what = f"node {op.node} on its own, {op.told_ms - word.told_ms:.0f} ms after it was told of no such key"
                yield Violation("a revoked key was admitted", op.key, op.told_ms, what)
        if op.outcome == UNKNOWN:
            last_word[op.node] = op
        elif op.outcome in DECIDED and not op.degraded:
            last_word.pop(op.node, None)


# ---- rejections ------------------------------------------------------------------------------------------------------


def _rejections(record: Record, ledger: Ledger) -> Iterator[Violation]:
    """The window named had no room: all that may have counted in it by then, and the request, exceed the limit."""
    rejected = [
        op
        for op in ledger.ops
        if op.outcome == REJECTED and not op.degraded and op.path[op.exceeded].place == ledger.place
    ]
    if not rejected:
        return
    end_ms = max(op.told_ms for op in record.ops) + 1
    # From when on each may count, until when, and how much.
    counted = sorted(
        (_counted(record, ledger, op, end_ms) for op in ledger.ops if _may_count(op)), key=lambda each: each[0]
    )
    inside: list[tuple[float, int, Triple]] = []
    used, counted_next = NOTHING, 0
    for op in sorted(rejected, key=lambda op: op.time_ms):
        oldest_ms = (op.time_ms // ledger.bucket_ms - ledger.buckets) * ledger.bucket_ms
        while counted_next < len(counted) and counted[counted_next][0] <= op.time_ms + STORE_TOLERANCE_MS:
            _, last_ms, amounts = counted[counted_next]
            heapq.heappush(inside, (last_ms, counted_next, amounts))
            used = plus(used, amounts)
            counted_next += 1
        while inside and inside[0][0] <= oldest_ms:
            used = minus(used, heapq.heappop(inside)[2])
        limit = ledger.limits(op)[op.unit]
        if by_unit(used)[op.unit] + by_unit(op.need)[op.unit] <= limit:
            what = f"node {op.node}: {UNITS[op.unit]} {op.need} rejected, {used} used at most, of {limit}"
            yield Violation("a rejection without a cause", ledger.place.text, op.told_ms, what)


def _may_count(op: Op) -> bool:
    # One that a node rejected alone may have been admitted by the store, and counts until it is given back.
    return op.outcome == ADMITTED or bool(op.degraded and not op.at_once) or op.outcome not in (*DECIDED, UNKNOWN)


def _counted(record: Record, ledger: Ledger, op: Op, end_ms: float) -> tuple[float, float, Triple]:
    """Return since when a request may be counted, until when, and how much at most.

    Until a settle arrives the reservation counts; and where a caller was refused, until that is given back.
    """
    share = share_of(record, ledger, op, end_ms)
    amounts = most(op.need, op.counts) if op.outcome == ADMITTED else op.most
    if share is None:
        return op.asked_ms, end_ms + ledger.window_ms, amounts
    return op.asked_ms, (share.last + 1) * ledger.bucket_ms, most(amounts, share.at_most)
