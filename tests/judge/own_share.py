"""Judges what nodes admitted alone: rule 1 of `bounds`, in each window, by the order in which each node told."""

from __future__ import annotations

import heapq
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterator
from itertools import accumulate
from math import inf

from .bounds import share
from .ledgers import Ledger
from .records import DECIDED, NO_LIMIT, NOTHING, UNITS, Op, Record, Triple, Violation, by_unit, least, minus, plus
from .times import enters_ms, holds, is_sure, leaves_ms


def judge_own_shares(record: Record, ledger: Ledger) -> Iterator[Violation]:
    """Return the requests that a node admitted alone beyond its share of the window."""
    by_node: defaultdict[int, list[Op]] = defaultdict(list)
    for op in ledger.admitted:
        by_node[op.node].append(op)
    for node, admitted in by_node.items():
        if any(op.degraded for op in admitted):
            yield from (_since_told if ledger.is_long else _own_rule)(record, ledger, node, admitted)


def _own_rule(record: Record, ledger: Ledger, node: int, admitted: list[Op]) -> Iterator[Violation]:
    admitted = sorted((op for op in admitted if is_sure(op, ledger.window_ms)), key=lambda op: op.told_ms)
    forgotten = list(ledger.history.forgotten_ms)
    settles = sorted((op for op in admitted if op.settled_ms is not None), key=lambda op: op.settled_ms or 0.0)
    next_settle = 0
    inside: dict[int, Op] = {}
    held: dict[int, Triple] = {}
    leaving: list[tuple[int, int]] = []
    own, now_ms = NOTHING, 0

    def drop(number: int) -> None:
        nonlocal own
        if inside.pop(number, None) is not None:
            own = minus(own, held.pop(number))

    for op in admitted:
        while forgotten and forgotten[0] < op.told_ms:
            forgotten.pop(0)
            for number in list(inside):
                drop(number)
        while next_settle < len(settles) and (settles[next_settle].settled_ms or 0.0) <= op.told_ms:
            settled = settles[next_settle]
            next_settle += 1
            if id(settled) in inside:
                left = least(settled.need, settled.settled)
                own = plus(own, minus(left, held[id(settled)]))
                held[id(settled)] = left
        now_ms = max(now_ms, enters_ms(op))
        while leaving and leaving[0][0] <= now_ms:
            drop(heapq.heappop(leaving)[1])
        inside[id(op)], held[id(op)] = op, holds(op, op.told_ms)
        own = plus(own, held[id(op)])
        heapq.heappush(leaving, (leaves_ms(op, ledger.window_ms), id(op)))
        if op.degraded:
            yield from _beyond(record, ledger, op, own, f"by node {node} itself when it admitted alone")


def _since_told(record: Record, ledger: Ledger, node: int, admitted: list[Op]) -> Iterator[Violation]:
    """Judge a long window: the share is of what the limit had left by the store's last reply.

    Any reply about the account tells, also of requests that don't count here, and of those that nobody waits for: so
    only what was admitted since a request that the store decided after all of it was asked is sure to be since then.
    """
    told = [op for op in ledger.telling if op.node == node and op.time_ms and not op.degraded]
    events = sorted([(op.told_ms, 0, op) for op in told] + [(op.told_ms, 1, op) for op in admitted], key=_order)
    usage = _ToldUsage(ledger, node)
    since: list[Op] = []
    for at_ms, is_admission, op in events:
        if not is_admission:
            since = [each for each in since if each.told_ms > op.asked_ms]
        elif op.degraded:
            since.append(op)
            own = NOTHING
            for each in since:
                own = plus(own, holds(each, at_ms))
            how = f"by node {node} alone since the store's last word to it"
            yield from _beyond(record, ledger, op, own, how, usage.at_least(op.asked_ms))
            if not usage.may_be_told(op) and _is_limited(ledger, op):
                what = f"node {node} admitted alone {op.need}, and knew nothing of the window"
                yield Violation("more than its share", ledger.place.text, op.told_ms, what)


class _ToldUsage:
    """What the store must have told a node of the usage of a long window, from which nothing leaves within a run."""

    def __init__(self, ledger: Ledger, node: int) -> None:
        history = ledger.history
        self._keeps_data = not (history.losses or history.rollbacks or history.forgotten_ms)
        by_store = sorted((op for op in ledger.admitted if not op.degraded), key=lambda op: op.time_ms)
        self._times = [op.time_ms for op in by_store]
        # Each holds at least what is left of it in the end.
        self._sums = list(accumulate((least(op.need, op.counts) for op in by_store), plus, initial=NOTHING))
        replies = [op for op in ledger.ops if op.node == node and op.outcome in DECIDED and not op.degraded]
        self._replies = sorted((op.told_ms, op.time_ms) for op in replies)
        # Whether a reply to any of these came, nobody may have been told.
        self._sent_ms = min((op.asked_ms for op in ledger.ops if op.node == node and not op.at_once), default=inf)

    def at_least(self, at_ms: float) -> Triple:
        """Return the least usage that a reply had told by then."""
        heard = bisect_left(self._replies, (at_ms, 0))
        if not self._keeps_data or not heard:
            return NOTHING
        time_ms = max(told for _, told in self._replies[:heard])
        return self._sums[bisect_left(self._times, time_ms)]

    def may_be_told(self, op: Op) -> bool:
        """Return whether a reply can have told anything of the window before the node admitted this request."""
        return self._sent_ms < op.asked_ms


def _order(event: tuple[float, int, Op]) -> tuple[float, int]:
    return event[0], event[1]


def _is_limited(ledger: Ledger, op: Op) -> bool:
    return any(limit != NO_LIMIT and need for limit, need in zip(ledger.limits(op), by_unit(op.need), strict=True))


def _beyond(
    record: Record, ledger: Ledger, op: Op, own: Triple, how: str, told: Triple = NOTHING
) -> Iterator[Violation]:
    amounts, need, used = by_unit(own), by_unit(op.need), by_unit(told)
    for unit, limit in enumerate(ledger.limits(op)):
        part = share(max(limit - used[unit], 0), record.sharing.fewest(op.asked_ms, op.told_ms))
        if limit != NO_LIMIT and amounts[unit] > part and need[unit]:
            what = f"{amounts[unit]} {UNITS[unit]} {how}; its share is {part}"
            yield Violation("more than its share", ledger.place.text, op.told_ms, what)
