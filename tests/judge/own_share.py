"""Judges what nodes admitted alone: rule 1 of `bounds`, in each window, by the order in which each node told."""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Iterator

from .bounds import share
from .ledgers import Ledger
from .records import NO_LIMIT, NOTHING, UNITS, Op, Record, Triple, Violation, by_unit, least, minus, plus
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
    """Judge a long window: the share is of what was left by the store's last reply, which is the limit at most.

    Any reply about the account tells, also of requests that don't count here, and of those that nobody waits for: so
    only what was admitted since a request that the store decided after all of it was asked is sure to be since then.
    """
    told = [op for op in ledger.telling if op.node == node and op.time_ms and not op.degraded]
    events = sorted([(op.told_ms, 0, op) for op in told] + [(op.told_ms, 1, op) for op in admitted], key=_order)
    since: list[Op] = []
    for at_ms, is_admission, op in events:
        if not is_admission:
            since = [each for each in since if each.told_ms > op.asked_ms]
        elif op.degraded:
            since.append(op)
            own = NOTHING
            for each in since:
                own = plus(own, holds(each, at_ms))
            yield from _beyond(record, ledger, op, own, f"by node {node} alone since the store's last word to it")


def _order(event: tuple[float, int, Op]) -> tuple[float, int]:
    return event[0], event[1]


def _beyond(record: Record, ledger: Ledger, op: Op, own: Triple, how: str) -> Iterator[Violation]:
    amounts, need = by_unit(own), by_unit(op.need)
    for unit, limit in enumerate(ledger.limits(op)):
        part = share(limit, record.sharing.fewest(op.asked_ms, op.told_ms))
        if limit != NO_LIMIT and amounts[unit] > part and need[unit]:
            what = f"{amounts[unit]} {UNITS[unit]} {how}; its share is {part}"
            yield Violation("more than its share", ledger.place.text, op.told_ms, what)
