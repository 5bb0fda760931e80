"""Judges what callers were told: that each request ended, in time, as it may; times, limits, and keys that are not."""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterator

from .bounds import STORE_TOLERANCE_MS, TOLD_TOLERANCE_MS
from .records import (
    ADMITTED,
    CANCELLED,
    DECIDED,
    EXACT_CLOCK,
    NEVER,
    OVERLOADED,
    PENDING,
    REJECTED,
    UNAVAILABLE,
    UNKNOWN,
    KeyHistory,
    Op,
    Record,
    Violation,
)

_SAME_MOMENT_MS = 30
"""When a node cuts off a shard it decides all that waits for it in one go."""
MARGIN_MS = 300
"""What a busy machine may add to a request's budget, beside the time for which this process stood still."""


def judge_told(record: Record) -> Iterator[Violation]:
    """Return what callers must not have been told; `told_paths` judges what only accounts have."""
    for op in record.ops:
        yield from _end(record, op)
        if op.outcome in DECIDED:
            yield from _policy(record, op)
            yield from _time(record, op)
            if op.key in record.keys:
                yield from _limits(record, op)
    by_key: defaultdict[str, list[Op]] = defaultdict(list)
    for op in sorted(record.ops, key=lambda op: op.told_ms):
        by_key[op.key].append(op)
    alone = _Alone(record.ops)
    for key, history in record.keys.items():
        yield from _unknown(history, by_key[key], alone)
        for deletion in history.deletions:
            if record.clock == EXACT_CLOCK:
                yield from _decided_while_deleted(record, history, deletion.ended_ms, by_key[key])
        if history.deletions:
            yield from _alone_after_unknown(history, by_key[key], alone)


def _end(record: Record, op: Op) -> Iterator[Violation]:
    if op.outcome == PENDING:
        yield Violation("a request without an end", op.key, op.asked_ms, f"asked node {op.node}, no end")
        return
    if op.outcome not in (ADMITTED, REJECTED, NEVER, UNKNOWN, UNAVAILABLE, OVERLOADED, CANCELLED):
        yield Violation("an end that is none", op.key, op.told_ms, f"node {op.node}: {op.outcome}")
    # A request waits for the budget at most, and as long again behind others of its key.
    budget_ms = 2 * record.timeout_ms + MARGIN_MS
    took_ms = op.told_ms - op.asked_ms
    if took_ms > budget_ms:
        stood_ms = sum(
            min(until, op.told_ms) - max(since, op.asked_ms)
            for since, until in record.stalls
            if since < op.told_ms and until > op.asked_ms
        )
        if took_ms - stood_ms > budget_ms:
            yield Violation(
                "a request beyond its budget",
                op.key,
                op.asked_ms,
                f"node {op.node}: {op.outcome} {op.degraded} after {took_ms:.0f} ms, of which this process stood still "
                f"for {stood_ms:.0f}; {budget_ms} at most",
            )


def _policy(record: Record, op: Op) -> Iterator[Violation]:
    """Without the store the policy of the run decides: `closed` nothing, and `open` rejects nothing."""
    if op.degraded and (op.degraded != record.policy or (op.degraded == "open" and op.outcome != ADMITTED)):
        what = f"node {op.node}: {op.outcome} by {op.degraded}, the policy is {record.policy}"
        yield Violation("a decision of another policy", op.key, op.told_ms, what)


def _time(record: Record, op: Op) -> Iterator[Violation]:
    if record.clock != EXACT_CLOCK:
        return
    ahead_ms = op.time_ms - op.told_ms
    tolerance_ms = TOLD_TOLERANCE_MS if op.degraded else STORE_TOLERANCE_MS
    if ahead_ms > tolerance_ms:
        yield Violation(
            "a told time in the future",
            op.key,
            op.told_ms,
            f"node {op.node}: {op.outcome} {op.degraded} told a time {ahead_ms:.0f} ms ahead of the store's clock",
        )
    if not op.degraded and op.time_ms < op.asked_ms - STORE_TOLERANCE_MS:
        yield Violation(
            "a decision before its request",
            op.key,
            op.told_ms,
            f"node {op.node}: {op.outcome} at a time {op.asked_ms - op.time_ms:.0f} ms before it was asked",
        )


def _limits(record: Record, op: Op) -> Iterator[Violation]:
    """The store decides by the limits of that moment, a node alone by any that it can have been told."""
    history = record.keys[op.key]
    since_ms, until_ms = (0.0, op.told_ms) if op.degraded else (op.asked_ms, op.told_ms)
    if record.clock == EXACT_CLOCK and not op.degraded:
        since_ms, until_ms = op.time_ms - STORE_TOLERANCE_MS, op.time_ms + STORE_TOLERANCE_MS
    puts = history.puts
    for number, put in enumerate(puts):
        followed_ms = puts[number + 1].ended_ms if number + 1 < len(puts) else float("inf")
        # Where the limits were lost a node may declare again any that it knows, until they are put again.
        lost_later = any(
            loss.with_limits and loss.ended_ms > put.begun_ms and not _put_between(history, loss.begun_ms, since_ms)
            for loss in history.losses
            if loss.begun_ms <= until_ms
        )
        if put.limits == op.limits and put.begun_ms <= until_ms and (followed_ms >= since_ms or lost_later):
            return
    yield Violation(
        "limits that were not in force",
        op.key,
        op.told_ms,
        f"node {op.node}: {op.outcome} {op.degraded} by {op.limits}",
    )


def _put_between(history: KeyHistory, after_ms: float, before_ms: float) -> bool:
    return any(after_ms < put.begun_ms and put.ended_ms < before_ms for put in history.puts)


# ---- keys that are not -----------------------------------------------------------------------------------------------


def _unknown(history: KeyHistory, ops: list[Op], alone: _Alone) -> Iterator[Violation]:
    """A declared key is never unknown, but to a node that was told so and can't ask the store again."""
    told: set[int] = set()
    for op in ops:
        if op.outcome == UNKNOWN:
            if _may_be_unknown(history, op):
                told.add(op.node)
            elif not (op.node in told and alone.may_have_said(op)):
                yield Violation("a declared key was unknown", op.key, op.told_ms, f"node {op.node}")
        elif op.outcome in DECIDED and not op.degraded:
            told.discard(op.node)


def _may_be_unknown(history: KeyHistory, op: Op) -> bool:
    for deletion in history.deletions:
        put_again = [put.ended_ms for put in history.puts if put.begun_ms > deletion.ended_ms]
        if deletion.begun_ms <= op.told_ms and (not put_again or min(put_again) >= op.asked_ms):
            return True
    return not history.is_declared and any(loss.with_limits and loss.begun_ms <= op.told_ms for loss in history.losses)


class _Alone:
    """Know when a node decided without its store: that a key is unknown doesn't say who said so."""

    def __init__(self, ops: list[Op]) -> None:
        self._times: defaultdict[int, list[float]] = defaultdict(list)
        for op in ops:
            if op.degraded or op.at_once or op.outcome == UNAVAILABLE:
                self._times[op.node].append(op.told_ms)
        for times in self._times.values():
            times.sort()

    def may_have_said(self, op: Op) -> bool:
        """Return whether the node may have said so by itself: it decided something by itself at that moment."""
        times = self._times[op.node]
        at = bisect_left(times, op.told_ms - _SAME_MOMENT_MS)
        return at < len(times) and times[at] <= op.told_ms + _SAME_MOMENT_MS


def _decided_while_deleted(
    record: Record, history: KeyHistory, deleted_ms: float, ops: list[Op]
) -> Iterator[Violation]:
    puts = [put.begun_ms for put in history.puts if put.begun_ms > deleted_ms]
    ends = [loss.begun_ms for loss in history.losses if loss.with_marks and loss.begun_ms > deleted_ms]
    until_ms = min([*puts, *([] if _all_told(record, deleted_ms, ops, ends) else ends)], default=float("inf"))
    for op in ops:
        if op.outcome in DECIDED and not op.degraded and deleted_ms < op.time_ms <= until_ms - 1:
            yield Violation("a revoked key was decided", op.key, op.told_ms, f"node {op.node}: {op.outcome}")


def _all_told(record: Record, deleted_ms: float, ops: list[Op], ends: list[float]) -> bool:
    """Return whether every node had been told of the deletion when the mark was lost: then all have to keep it."""
    if not ends:
        return True
    told = {op.node for op in ops if op.outcome == UNKNOWN and op.asked_ms > deleted_ms and op.told_ms < min(ends)}
    return not record.deaths and told >= set(range(record.nodes))


def _alone_after_unknown(history: KeyHistory, ops: list[Op], alone: _Alone) -> Iterator[Violation]:
    last_word: dict[int, Op] = {}
    for op in ops:
        word = last_word.get(op.node)
        if op.degraded and op.outcome == ADMITTED and word and word.told_ms < op.asked_ms:
            since_ms = word.asked_ms
            # What was declared again since, by anybody, the node may have heard of by a reply that nobody waited for.
            declared = any(put.ended_ms > since_ms for put in history.puts if put.begun_ms < op.told_ms)
            declared |= any(loss.ended_ms > since_ms and loss.with_marks for loss in history.losses)
            if not declared:
                yield Violation(
                    "a revoked key was admitted",
                    op.key,
                    op.told_ms,
                    f"node {op.node} on its own, {op.told_ms - word.told_ms:.0f} ms after it was told of no such key",
                )
        if op.outcome == UNKNOWN and not alone.may_have_said(op):
            last_word[op.node] = op
        elif op.outcome in DECIDED and not op.degraded:
            last_word.pop(op.node, None)
