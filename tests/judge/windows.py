"""Judges the true windows of a record: rule 2 of `bounds` and its ceiling here, rule 1 in `own_share`.

Each window's admissions are gone through in the order of time, here by the store's time with all nodes together, there
for each node in the order in which it told. What happens within one millisecond has no order: it is taken in the order
that is best for the dispatchers (what leaves before what enters), and judged when all of it has happened.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import dataclass, field
from operator import itemgetter

from .bounds import Knowledge, ceiling
from .ledgers import Ledger, ledgers
from .own_share import judge_own_shares
from .records import (
    DECIDED,
    EXACT_CLOCK,
    NO_LIMIT,
    NOTHING,
    STEPPED_BACK,
    STEPPED_FORWARD,
    UNITS,
    Limits,
    Loss,
    Op,
    Record,
    Rollback,
    Triple,
    Violation,
    by_unit,
    least,
    minus,
    most,
    plus,
)
from .times import enters_ms, holds, is_sure, leaves_ms

_LEAVE, _SETTLE, _BEGUN, _DONE, _DUMP, _ENTER, _TOLD = range(7)
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


def judge_windows(record: Record) -> tuple[list[Violation], Worst]:
    """Return what windows held too much, and the fullest one."""
    worst = Worst()
    violations: list[Violation] = []
    if record.clock == STEPPED_FORWARD:
        return violations, worst
    for ledger in ledgers(record):
        if record.clock == STEPPED_BACK:
            violations += _sure_windows(record, ledger, worst)
            continue
        assert record.clock == EXACT_CLOCK
        violations += _store_rule(record, ledger, worst)
        if record.policy == "local":
            violations += judge_own_shares(record, ledger)
    return violations, worst


# ---- rule 2 ----------------------------------------------------------------------------------------------------------


def _events(ledger: Ledger) -> list[tuple[float, int, Op | Loss | Rollback | None]]:
    history, events = ledger.history, list[tuple[float, int, Op | Loss | Rollback | None]]()
    for op in ledger.telling:
        if op.outcome in DECIDED and not op.degraded:
            events.append((op.time_ms, _TOLD, op))
    for op in ledger.admitted:
        if not is_sure(op, ledger.window_ms):
            continue
        events.append((enters_ms(op), _ENTER, op))
        events.append((leaves_ms(op, ledger.window_ms), _LEAVE, op))
        if op.settled_ms is not None:
            events.append((int(op.settled_ms), _SETTLE, op))
    events += [(at_ms, _DONE, None) for at_ms in history.forgotten_ms]
    ends = [done.ended_ms for done in (*history.losses, *history.rollbacks)]
    for done in (*history.losses, *history.rollbacks):
        events.append((done.ended_ms, _DONE, done))
        events.append((int(done.begun_ms), _BEGUN, done))
        if isinstance(done, Rollback):
            # What was lost in that millisecond, but before, is not in the dump.
            begun_ms = int(done.dump_begun_ms)
            before = [end_ms for end_ms in ends if begun_ms <= end_ms <= done.dump_begun_ms]
            events.append((max([begun_ms, *before]), _DUMP, done))
    events.sort(key=itemgetter(0, 1))
    return events


def _store_rule(record: Record, ledger: Ledger, worst: Worst) -> Iterator[Violation]:
    """Rule 2, and the ceiling."""
    known = Knowledge()
    losses: list[float] = []
    group: list[Op] = []
    group_ms = -1.0
    for at_ms, what, subject in _events(ledger):
        if group and (at_ms > group_ms or what == _TOLD):
            yield from _judge_group(record, ledger, known, group, group_ms, losses, worst)
            group = []
        if isinstance(subject, Op):
            if what == _ENTER:
                known.enter(subject, holds(subject, at_ms))
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
        yield from _judge_group(record, ledger, known, group, group_ms, losses, worst)


def _judge_group(
    record: Record, ledger: Ledger, known: Knowledge, group: list[Op], at_ms: float, losses: list[float], worst: Worst
) -> Iterator[Violation]:
    total, place = by_unit(known.total), ledger.place.text
    for unit, limit in enumerate(_most_limits(ledger, group)):
        worst.note(total[unit], limit, UNITS[unit])
    if record.policy != "open":
        # An outage's share may be of other limits than this admission's: of those that the node was told last.
        for unit, limit in enumerate(ledger.largest):
            bound = ceiling(
                limit,
                nodes=record.sharing.fewest(at_ms - ledger.window_ms, at_ms),
                incarnations=known.incarnations(),
                alone=known.alone(),
                losses=sum(at_ms - ledger.window_ms <= loss_ms for loss_ms in losses),
            )
            if limit != NO_LIMIT and total[unit] > bound and any(by_unit(op.need)[unit] for op in group):
                what = f"{total[unit]} {UNITS[unit]}, {bound} at most in all faults"
                yield Violation("ceiling", place, at_ms, what)
    by_store = [op for op in group if not op.degraded]
    if not by_store:
        return
    unknown = NOTHING
    for node in {op.node for op in by_store}:
        unknown = most(unknown, known.unknown_to(node))
    for unit, limit in enumerate(_most_limits(ledger, by_store)):
        others = by_unit(unknown)[unit]
        if limit != NO_LIMIT and total[unit] > limit + others and any(by_unit(op.need)[unit] for op in by_store):
            yield Violation(
                "window above its bound",
                place,
                at_ms,
                f"{total[unit]} {UNITS[unit]} after an admission by the store; limit {limit}, "
                f"unknown to it {others} of other nodes",
            )


def _most_limits(ledger: Ledger, group: list[Op]) -> Limits:
    requests, input_tokens, output_tokens, tokens = map(max, *(ledger.limits(op) for op in (group[0], *group)))
    return requests, input_tokens, output_tokens, tokens


# ---- a clock that was stepped back -----------------------------------------------------------------------------------


def _sure_windows(record: Record, ledger: Ledger, worst: Worst) -> Iterator[Violation]:
    """The limit, in windows that hold the same wherever each admission was between its asking and its telling."""
    admitted = sorted(ledger.admitted, key=lambda op: op.told_ms)
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
                left = least(settled.need, settled.settled)
                total = plus(total, minus(left, held[id(settled)]))
                held[id(settled)] = left
        while inside and inside[0][0] < op.told_ms - ledger.window_ms:
            total = minus(total, held.pop(heapq.heappop(inside)[1]))
        held[id(op)] = holds(op, op.told_ms)
        total = plus(total, held[id(op)])
        heapq.heappush(inside, (op.asked_ms, id(op), op))
        if op.degraded:
            continue  # its share is another limit; what the store admits next is judged with it
        amounts, need = by_unit(total), by_unit(op.need)
        for unit, limit in enumerate(ledger.limits(op)):
            worst.note(amounts[unit], limit, UNITS[unit])
            if limit != NO_LIMIT and amounts[unit] > limit and need[unit] and record.nodes == 1:
                what = f"{amounts[unit]} {UNITS[unit]} of {limit}, the clock was stepped back"
                yield Violation("window above its bound", ledger.place.text, op.told_ms, what)
