"""Judges the true windows of a record: rules 1 and 2 of `bounds`, and its ceiling.

Each key's admissions are gone through in the order of time, once by the store's time with all nodes together, once for
each node in the order in which it told. What happens within one millisecond has no order: it is taken in the order that
is best for the dispatchers (what leaves before what enters), and judged when all of it has happened.
"""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from operator import itemgetter

from .bounds import Knowledge, ceiling, share
from .records import (
    ADMITTED,
    DECIDED,
    DIMENSIONS,
    EXACT_CLOCK,
    NOTHING,
    STEPPED_BACK,
    STEPPED_FORWARD,
    KeyHistory,
    Loss,
    Op,
    Record,
    Rollback,
    Triple,
    Violation,
    least,
    minus,
    most,
    plus,
)

_LEAVE, _SETTLE, _DUMP, _BEGUN, _DONE, _ENTER, _TOLD = range(7)
"""The order of events of one millisecond; it is judged before what nodes told the store in it."""


@dataclass
class Worst:
    """The fullest window of all: what it held, of which limit."""

    held: int = 0
    limit: int = 0
    dimension: str = ""
    ratio: float = field(default=0.0)

    def note(self, held: int, limit: int, dimension: str) -> None:
        """Keep it if it is fuller."""
        ratio = held / limit if limit else float(held > 0)
        if ratio > self.ratio:
            self.held, self.limit, self.dimension, self.ratio = held, limit, dimension, ratio


def enters_ms(op: Op) -> int:
    """Return the time from which on it is held: a node's own decision was over when it was told."""
    return int(op.told_ms) if op.degraded else op.time_ms


def leaves_ms(op: Op, window_ms: int) -> int:
    """Return the first time at which no window holds it: a node's own decision was not before it was asked."""
    return (int(op.asked_ms) if op.degraded else op.time_ms) + window_ms + 1


def _holds(op: Op, at_ms: float) -> Triple:
    # A settle may be of the admission's own millisecond.
    return least(op.need, op.settled) if op.settled_ms is not None and int(op.settled_ms) <= at_ms else op.need


def judge_windows(record: Record) -> tuple[list[Violation], Worst]:
    """Return what windows held too much, and the fullest one."""
    worst = Worst()
    violations: list[Violation] = []
    if record.clock == STEPPED_FORWARD:
        return violations, worst
    by_key: defaultdict[str, list[Op]] = defaultdict(list)
    for op in record.ops:
        by_key[op.key].append(op)
    for key, ops in by_key.items():
        if record.clock == STEPPED_BACK:
            violations += _sure_windows(record, key, ops, worst)
            continue
        assert record.clock == EXACT_CLOCK
        violations += _store_rule(record, key, ops, worst)
        if record.policy == "local":
            violations += _own_rule(record, key, ops)
    return violations, worst


# ---- rule 2 ----------------------------------------------------------------------------------------------------------


def _events(record: Record, history: KeyHistory, ops: list[Op]) -> list[tuple[float, int, Op | Loss | Rollback | None]]:
    events: list[tuple[float, int, Op | Loss | Rollback | None]] = []
    for op in ops:
        if op.outcome in DECIDED and not op.degraded:
            events.append((op.time_ms, _TOLD, op))
        if op.outcome == ADMITTED:
            events.append((enters_ms(op), _ENTER, op))
            events.append((leaves_ms(op, record.window_ms), _LEAVE, op))
            if op.settled_ms is not None:
                events.append((int(op.settled_ms), _SETTLE, op))
    events += [(at_ms, _DONE, None) for at_ms in history.forgotten_ms]
    for done in (*history.losses, *history.rollbacks):
        events.append((done.ended_ms, _DONE, done))
        events.append((int(done.begun_ms), _BEGUN, done))
        if isinstance(done, Rollback):
            events.append((int(done.dump_begun_ms), _DUMP, done))
    events.sort(key=itemgetter(0, 1))
    return events


def _store_rule(record: Record, key: str, ops: list[Op], worst: Worst) -> Iterator[Violation]:
    """Rule 2, and the ceiling."""
    known = Knowledge()
    losses: list[float] = []
    group: list[Op] = []
    group_ms = -1.0
    for at_ms, what, subject in _events(record, record.keys[key], ops):
        if group and (at_ms > group_ms or what == _TOLD):
            yield from _judge_group(record, key, known, group, group_ms, losses, worst)
            group = []
        if isinstance(subject, Op):
            if what == _ENTER:
                known.enter(subject, _holds(subject, at_ms))
                group.append(subject)
                group_ms = at_ms
            elif what == _LEAVE:
                known.leave(subject)
            elif what == _SETTLE:
                known.settle(subject, least(subject.need, subject.settled))
            else:
                known.told(subject)
        elif subject is None:
            known.forget()
        elif what == _DUMP:
            known.dumped(id(subject))
        elif what == _BEGUN:
            losses.append(subject.ended_ms)
            known.may_lose(None if isinstance(subject, Loss) else id(subject))
        elif isinstance(subject, Loss):
            known.lost()
        else:
            known.rolled_back(id(subject))
    if group:
        yield from _judge_group(record, key, known, group, group_ms, losses, worst)


def _judge_group(
    record: Record, key: str, known: Knowledge, group: list[Op], at_ms: float, losses: list[float], worst: Worst
) -> Iterator[Violation]:
    total = known.total
    limits = NOTHING
    for op in group:
        limits = most(limits, op.limits)
    for dimension, name in enumerate(DIMENSIONS):
        worst.note(total[dimension], limits[dimension], name)
    if record.policy != "open":
        # An outage's share may be of other limits than this admission's: of those that the node was told last.
        bounds = [
            ceiling(
                limit,
                nodes=record.nodes,
                incarnations=known.incarnations(),
                alone=known.alone(),
                losses=sum(at_ms - record.window_ms <= loss_ms for loss_ms in losses),
            )
            for limit in _largest(record.keys[key])
        ]
        for dimension, name in enumerate(DIMENSIONS):
            if total[dimension] > bounds[dimension] and any(op.need[dimension] for op in group):
                yield Violation(
                    "ceiling", key, at_ms, f"{total[dimension]} {name}, {bounds[dimension]} at most in all faults"
                )
    by_store = [op for op in group if not op.degraded]
    if not by_store:
        return
    limits = unknown = NOTHING
    for op in by_store:
        limits = most(limits, op.limits)
    for node in {op.node for op in by_store}:
        unknown = most(unknown, known.unknown_to(node))
    for dimension, name in enumerate(DIMENSIONS):
        bound = limits[dimension] + unknown[dimension]
        if total[dimension] > bound and any(op.need[dimension] for op in by_store):
            yield Violation(
                "window above its bound",
                key,
                at_ms,
                f"{total[dimension]} {name} after an admission by the store; limit {limits[dimension]}, "
                f"unknown to it {unknown[dimension]} of other nodes",
            )


def _largest(history: KeyHistory) -> Triple:
    largest = NOTHING
    for put in history.puts:
        largest = most(largest, put.limits)
    return largest


# ---- rule 1 ----------------------------------------------------------------------------------------------------------


def _own_rule(record: Record, key: str, ops: list[Op]) -> Iterator[Violation]:
    by_node: defaultdict[int, list[Op]] = defaultdict(list)
    for op in ops:
        if op.outcome == ADMITTED:
            by_node[op.node].append(op)
    for node, admitted in by_node.items():
        if any(op.degraded for op in admitted):
            yield from _own_rule_of(record, key, node, admitted)


def _own_rule_of(record: Record, key: str, node: int, admitted: list[Op]) -> Iterator[Violation]:
    admitted.sort(key=lambda op: op.told_ms)
    forgotten = record.keys[key].forgotten_ms
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
                holds = least(settled.need, settled.settled)
                own = plus(own, minus(holds, held[id(settled)]))
                held[id(settled)] = holds
        now_ms = max(now_ms, enters_ms(op))
        while leaving and leaving[0][0] <= now_ms:
            drop(heapq.heappop(leaving)[1])
        inside[id(op)], held[id(op)] = op, _holds(op, op.told_ms)
        own = plus(own, held[id(op)])
        heapq.heappush(leaving, (leaves_ms(op, record.window_ms), id(op)))
        if op.degraded:
            for dimension, name in enumerate(DIMENSIONS):
                part = share(op.limits[dimension], record.nodes)
                if own[dimension] > part and op.need[dimension]:
                    yield Violation(
                        "more than its share",
                        key,
                        op.told_ms,
                        f"{own[dimension]} {name} by node {node} itself when it admitted alone; its share is {part}",
                    )


# ---- a clock that was stepped back -----------------------------------------------------------------------------------


def _sure_windows(record: Record, key: str, ops: list[Op], worst: Worst) -> Iterator[Violation]:
    """The limit, in windows that hold the same wherever each admission was between its asking and its telling."""
    admitted = sorted((op for op in ops if op.outcome == ADMITTED), key=lambda op: op.told_ms)
    inside: list[tuple[float, int, Op]] = []
    total = NOTHING
    settles = sorted((op for op in admitted if op.settled_ms is not None), key=lambda op: op.settled_ms or 0.0)
    next_settle = 0
    held: dict[int, Triple] = {}
    for op in admitted:
        while next_settle < len(settles) and (settles[next_settle].settled_ms or 0.0) <= op.told_ms:
            settled = settles[next_settle]
            next_settle += 1
            if id(settled) in held:
                holds = least(settled.need, settled.settled)
                total = plus(total, minus(holds, held[id(settled)]))
                held[id(settled)] = holds
        while inside and inside[0][0] < op.told_ms - record.window_ms:
            total = minus(total, held.pop(heapq.heappop(inside)[1]))
        held[id(op)] = _holds(op, op.told_ms)
        total = plus(total, held[id(op)])
        heapq.heappush(inside, (op.asked_ms, id(op), op))
        if op.degraded:
            continue  # its share is another limit; what the store admits next is judged with it
        for dimension, name in enumerate(DIMENSIONS):
            worst.note(total[dimension], op.limits[dimension], name)
            if total[dimension] > op.limits[dimension] and op.need[dimension] and record.nodes == 1:
                yield Violation(
                    "window above its bound",
                    key,
                    op.told_ms,
                    f"{total[dimension]} {name} of {op.limits[dimension]}, the clock was stepped back",
                )
