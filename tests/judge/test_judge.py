"""The judge itself, on records that are made up or tampered with; and a short selection of what `make judge` runs."""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncIterator
from typing import Any

import pytest

from judge.bounds import ceiling
from judge.counted import judge_counted
from judge.judge import judge
from judge.records import (
    ADMITTED,
    REJECTED,
    STEPPED_BACK,
    STEPPED_FORWARD,
    UNAVAILABLE,
    UNKNOWN,
    Count,
    Deletion,
    KeyHistory,
    Loss,
    Op,
    Peek,
    Place,
    Put,
    Record,
    Rollback,
    Triple,
)
from judge.run import run
from judge.scenarios import SCENARIOS, draw_plan
from judge.store import JudgedStore, judged_store

KEY, LIMIT = "a-key", 4
LIMITS: Triple = (LIMIT, 1_000, 1_000)
START = 1_000_000
"""When the records begin, in ms."""


class MadeUp:
    """A record of one key, made by hand: windows of 1 s, `nodes` nodes with a budget of 100 ms."""

    def __init__(self, nodes: int = 1, *, declared: bool = True, clock: str = "exact") -> None:
        self.record = Record(nodes, 10, "local", 100, clock=clock)
        self.history = KeyHistory(is_declared=declared, puts=[Put(START - 10, START - 9, LIMITS, 0)])
        self.record.keys[KEY] = self.history

    def ask(self, at_ms: int, outcome: str = ADMITTED, **changes: Any) -> Op:
        """Ask at that time, from the beginning; the store decides a ms later, and the caller is told after 2."""
        asked_ms = START + at_ms
        op = Op(0, KEY, asked_ms, (1, 10, 10), asked_ms + 2, outcome, time_ms=asked_ms + 1)
        op.limits, op.need = LIMITS, (1, 10, 10)
        if outcome == UNKNOWN:
            op.limits, op.need, op.time_ms = (0, 0, 0), (0, 0, 0), 0
        for name, value in changes.items():
            assert hasattr(op, name)
            setattr(op, name, value)
        self.record.ops.append(op)
        return op

    def alone(self, at_ms: int, **changes: Any) -> Op:
        """Ask at that time a node that decides alone, at once."""
        return self.ask(at_ms, **{"degraded": "local", "at_once": True, "told_ms": START + at_ms + 0.1, **changes})

    def fill(self, at_ms: int, count: int, **changes: Any) -> None:
        """Admit some at that time."""
        for _ in range(count):
            self.ask(at_ms, **changes)

    def counted(self, at_ms: int, buckets: dict[int, Triple]) -> None:
        """Say what the store counts at that time; buckets are relative to the beginning's."""
        first = START // 100
        peek = Peek(START + at_ms, {first + number: amounts for number, amounts in buckets.items()})
        self.record.counts = [Count(START + at_ms, {Place(KEY): peek})]

    def lose(self, at_ms: int, **changes: Any) -> None:
        self.history.losses.append(Loss(START + at_ms, START + at_ms + 0.5, **changes))

    def roll_back(self, at_ms: int, dump_ms: int) -> None:
        self.history.rollbacks.append(
            Rollback(START + at_ms, START + at_ms + 0.5, START + dump_ms, START + dump_ms + 0.5)
        )

    def delete(self, at_ms: int) -> None:
        self.history.deletions.append(Deletion(START + at_ms, START + at_ms + 1))

    def put(self, at_ms: int, limits: Triple = LIMITS) -> None:
        self.history.puts.append(Put(START + at_ms, START + at_ms + 1, limits, 0))

    @property
    def refuted(self) -> set[str]:
        """The rules that the judge finds broken."""
        return {violation.rule for violation in judge(self.record).violations}


ABOVE = "window above its bound"


# ---- windows ---------------------------------------------------------------------------------------------------------


def test_a_window_may_hold_its_limit_and_not_one_more() -> None:
    made = MadeUp()
    made.fill(0, 2)
    made.fill(990, 2)
    assert not made.refuted
    made.ask(1_000)
    assert made.refuted == {ABOVE, "ceiling"}


def test_a_window_ends_when_its_length_is_over() -> None:
    made = MadeUp()
    made.fill(0, LIMIT)
    made.fill(1_001, LIMIT)
    assert not made.refuted


def test_no_window_is_sure_to_hold_what_was_told_more_than_its_length_later() -> None:
    """The process stood still: when between asking and telling the node has admitted it alone, nobody can say."""
    made = MadeUp()
    made.ask(0, degraded="local", told_ms=START + 1_500)
    for at_ms in (1_600, 4_000):
        made.fill(at_ms, LIMIT)
    assert made.refuted == {"a request beyond its budget"}
    made.record.stalls.append((START + 10, START + 1_499))
    assert not made.refuted
    alone = MadeUp(2)
    alone.record.stalls.append((START + 10, START + 1_499))
    for at_ms in (1_300, 1_400):
        alone.alone(at_ms)
    alone.ask(0, degraded="local", told_ms=START + 1_500)
    assert not alone.refuted


@pytest.mark.parametrize("dimension", [1, 2])
def test_tokens_are_judged_as_requests_are(dimension: int) -> None:
    need = [1, 0, 0]
    need[dimension] = 500
    made = MadeUp()
    made.fill(0, 2, need=tuple(need))
    assert not made.refuted
    need[dimension] = 1
    made.ask(10, need=tuple(need))
    assert made.refuted == {ABOVE, "ceiling"}


def test_reservations_count_until_they_are_settled_and_not_beyond_them() -> None:
    made = MadeUp()
    made.ask(0, need=(1, 0, 900), settled_ms=START + 50, settled=(1, 0, 100))
    made.ask(60, need=(1, 0, 900), settled_ms=START + 61, settled=(1, 0, 2_000))
    assert not made.refuted
    made.record.ops[0].settled_ms = START + 62.0
    assert made.refuted == {ABOVE, "ceiling"}


def test_two_nodes_share_one_limit() -> None:
    made = MadeUp(2)
    made.fill(0, 2, node=0)
    made.fill(5, 2, node=1)
    assert not made.refuted
    made.ask(10, node=1)
    assert made.refuted == {ABOVE, "ceiling"}


def test_a_node_alone_admits_its_share_and_not_one_more() -> None:
    made = MadeUp(2)
    made.fill(0, LIMIT, node=0)  # the worst: all of it through the other
    made.alone(10, node=1)
    made.alone(11, node=1)
    assert not made.refuted
    made.alone(12, node=1)
    assert made.refuted == {"more than its share", "ceiling"}


def test_a_share_is_by_the_number_of_nodes_that_was_told() -> None:
    made = MadeUp(1)
    made.record.sharing.change(START + 10.0, 2)
    made.alone(20)
    made.alone(30)
    assert not made.refuted
    made.alone(40)
    assert made.refuted == {"more than its share"}
    made.record.sharing.change(START + 35.0, 1)
    assert not made.refuted


def test_what_a_node_had_admitted_through_the_store_is_part_of_its_share() -> None:
    made = MadeUp(2)
    made.fill(0, 2, node=1)
    made.alone(10, node=1)
    assert made.refuted == {"more than its share"}


def test_what_a_node_admitted_alone_is_unknown_until_the_store_has_decided_for_it_again() -> None:
    made = MadeUp(2)
    for at_ms in (0, 1):
        made.alone(at_ms, node=1)
    made.fill(10, LIMIT, node=0)
    assert not made.refuted
    made.ask(5, REJECTED, node=1)  # with it came what the node owed
    assert made.refuted == {ABOVE}


def test_one_node_stays_within_the_limit_whatever_is_lost() -> None:
    made = MadeUp(1)
    made.fill(0, LIMIT)
    made.lose(10)
    assert not made.refuted
    made.ask(20)
    assert made.refuted == {ABOVE, "ceiling"}


@pytest.mark.parametrize("first", [0, 1])
def test_a_loss_admits_at_most_what_others_had_not_told(first: int) -> None:
    made = MadeUp(2)
    made.fill(0, LIMIT, node=0)
    made.lose(10)
    made.fill(20, LIMIT, node=1)
    assert not made.refuted
    made.ask(15, REJECTED, node=first)  # who asked before has charged what it had admitted
    assert made.refuted == ({ABOVE} if first == 0 else set())


def test_each_loss_counts_once() -> None:
    made = MadeUp(3)
    made.fill(0, LIMIT, node=0)
    made.lose(10)
    made.fill(20, LIMIT, node=1)
    made.lose(30)
    made.fill(40, LIMIT, node=2)
    assert not made.refuted
    made.history.losses.pop(0)
    assert made.refuted == {ABOVE, "ceiling"}


def test_a_rollback_forgets_what_came_after_its_dump_and_nothing_else() -> None:
    made = MadeUp(2)
    made.fill(0, 1, node=0)
    made.fill(20, 3, node=0)
    made.roll_back(30, dump_ms=10)
    made.fill(40, 3, node=1)
    assert not made.refuted
    made.ask(41, node=1)
    assert made.refuted == {ABOVE}


def test_who_died_never_tells_and_who_follows_starts_anew() -> None:
    made = MadeUp(2)
    made.fill(0, 2, node=0)
    made.alone(10, node=1)
    made.alone(11, node=1)
    made.record.deaths[1] = START + 20
    made.fill(30, 2, node=2)
    assert not made.refuted
    made.ask(31, node=2)
    assert made.refuted == {ABOVE, "ceiling"}


def test_a_deletion_forgets_the_usage() -> None:
    made = MadeUp()
    made.fill(0, LIMIT)
    made.delete(10)
    made.alone(20)  # it could not know
    made.put(300)
    put = made.history.puts[-1]
    made.history.puts[-1] = dataclasses.replace(put, ended_ms=START + 320.0)  # it is there before that
    made.ask(310)
    made.fill(330, LIMIT)
    assert not made.refuted
    made.ask(331)
    assert made.refuted == {ABOVE, "ceiling"}


def test_a_limit_that_fell_holds_for_what_is_admitted_then() -> None:
    made = MadeUp()
    made.fill(0, 3)
    made.put(10, (2, 1_000, 1_000))
    made.ask(1_005, limits=(2, 1_000, 1_000))
    assert not made.refuted
    made.ask(20, limits=(2, 1_000, 1_000))
    assert made.refuted == {ABOVE}


def test_a_clock_that_stepped_promises_less() -> None:
    made = MadeUp(clock=STEPPED_FORWARD)
    made.fill(0, LIMIT + 1)
    assert not made.refuted
    made = MadeUp(clock=STEPPED_BACK)
    made.fill(0, LIMIT, time_ms=5)
    made.fill(999, 1, time_ms=5)  # it may have been decided a window later
    assert not made.refuted
    made.fill(900, 1, time_ms=5)
    assert made.refuted == {ABOVE}


@pytest.mark.parametrize(
    ("nodes", "incarnations", "alone", "losses", "most"),
    [
        (1, 1, 1, 3, 10),
        (3, 3, 0, 0, 10),
        (3, 3, 1, 0, 13),
        (3, 3, 3, 0, 16),
        (2, 2, 0, 1, 20),
        (3, 3, 0, 1, 20),
        (3, 3, 0, 5, 30),
        (3, 2, 0, 5, 20),
        (3, 4, 3, 0, 19),
    ],
)
def test_the_ceiling_in_numbers(nodes: int, incarnations: int, alone: int, losses: int, most: int) -> None:
    assert ceiling(10, nodes=nodes, incarnations=incarnations, alone=alone, losses=losses) == most


# ---- counted once ----------------------------------------------------------------------------------------------------

ONCE = "not counted once"


def test_a_node_alone_may_be_as_uncertain_of_the_clock_as_it_can_have_waited_for_a_reply() -> None:
    """Also for the reply to a batch of settles alone, which nobody was told of."""
    made = MadeUp()
    made.ask(0)
    made.alone(450)
    made.counted(950, {0: (1, 10, 10), 9: (1, 10, 10)})
    assert not made.refuted
    made.ask(320)  # the node has asked once more since, so that it heard of the clock later than this
    made.counted(950, {0: (1, 10, 10), 3: (1, 10, 10), 6: (1, 10, 10)})
    assert not made.refuted
    made.counted(950, {0: (1, 10, 10), 3: (1, 10, 10), 7: (1, 10, 10)})
    assert made.refuted == {ONCE}


def test_what_was_told_and_what_is_counted_are_the_same_numbers_in_the_same_buckets() -> None:
    made = MadeUp()
    made.ask(0)
    made.ask(150, settled_ms=START + 160, settled=(1, 10, 3))
    made.ask(151, REJECTED)
    made.ask(152, UNAVAILABLE)
    right: dict[int, Triple] = {0: (1, 10, 10), 1: (1, 10, 3)}
    made.counted(400, right)
    assert not made.refuted
    for wrong in (
        {0: (1, 10, 10)},  # one is missing
        {0: (1, 10, 10), 1: (2, 20, 6)},  # one counts twice
        {0: (1, 10, 10), 1: (1, 10, 10)},  # a settle is lost
        {0: (1, 10, 10), 1: (1, 10, 0)},  # a settle came twice
        {0: (2, 20, 13)},  # one lies in the bucket before
        {0: (1, 10, 3), 1: (1, 10, 10)},  # the settle went to another bucket
        {**right, 2: (1, 10, 10)},  # one that nobody was told of
    ):
        made.counted(400, wrong)
        assert made.refuted == {ONCE}, wrong


def test_what_has_left_the_window_is_not_counted_any_more() -> None:
    made = MadeUp()
    made.ask(0)
    made.counted(1_100, {})
    assert not made.refuted
    made.counted(1_099, {})
    assert made.refuted == {ONCE}


def test_a_cancelled_request_may_count_and_its_tokens_may_not() -> None:
    made = MadeUp()
    made.ask(0, "cancelled")
    for held in ((0, 0, 0), (1, 0, 0)):
        made.counted(100, {0: held})
        assert not made.refuted
    for held in ((2, 0, 0), (1, 10, 0)):
        made.counted(100, {0: held})
        assert made.refuted == {ONCE}


def test_who_lives_has_told_after_a_loss() -> None:
    made = MadeUp()
    made.ask(0, settled_ms=START + 5, settled=(1, 10, 0))
    made.lose(10)
    for buckets in ({0: (1, 10, 0)}, {1: (1, 10, 0)}):
        made.counted(150, buckets)
        assert not made.refuted
    for held in ((0, 0, 0), (1, 10, 10), (2, 20, 0)):
        made.counted(100, {0: held})
        assert made.refuted == {ONCE}
    made.record.deaths[0] = START + 20
    made.counted(100, {0: (0, 0, 0)})
    assert not made.refuted


def test_what_is_in_a_dump_may_count_twice() -> None:
    made = MadeUp()
    made.ask(0)
    made.ask(50)
    made.roll_back(60, dump_ms=20)
    made.counted(90, {0: (3, 30, 30)})
    assert not made.refuted
    for held in ((4, 40, 40), (1, 10, 10)):
        made.counted(90, {0: held})
        assert made.refuted == {ONCE}


# ---- what callers were told ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"outcome": ""}, "a request without an end"),
        ({"outcome": "ValueError: what"}, "an end that is none"),
        ({"told_ms": START + 501.0}, "a request beyond its budget"),
        ({"told_ms": START + 499.0}, None),
        ({"time_ms": START + 8}, "a told time in the future"),
        ({"time_ms": START + 6}, None),
        ({"time_ms": START - 6}, "a decision before its request"),
        ({"time_ms": START + 103, "degraded": "local"}, "a told time in the future"),
        ({"time_ms": START + 102, "degraded": "local"}, None),
        ({"limits": (5, 1_000, 1_000)}, "limits that were not in force"),
    ],
)
def test_what_a_caller_must_not_be_told(changes: dict[str, Any], rule: str | None) -> None:
    made = MadeUp()
    made.ask(0, **changes)
    assert made.refuted == ({rule} if rule else set())


@pytest.mark.parametrize(
    ("policy", "outcome", "is_right"),
    [
        ("local", ADMITTED, True),
        ("local", REJECTED, True),
        ("closed", ADMITTED, False),
        ("closed", REJECTED, False),
        ("open", ADMITTED, True),
        ("open", REJECTED, False),
    ],
)
def test_the_policy_of_the_run_decides(policy: str, outcome: str, is_right: bool) -> None:
    made = MadeUp()
    made.record.policy = policy
    made.alone(0, outcome=outcome, degraded="local" if policy == "closed" else policy)
    assert made.refuted == (set() if is_right else {"a decision of another policy"})


def test_time_for_which_this_process_stood_still_is_not_the_nodes() -> None:
    made = MadeUp()
    made.ask(0, told_ms=START + 600.0, time_ms=START + 600)
    assert made.refuted == {"a request beyond its budget"}
    made.record.stalls.append((START + 100.0, START + 250.0))
    assert not made.refuted


def test_limits_are_those_of_the_moment() -> None:
    made = MadeUp()
    made.put(100, (9, 1_000, 1_000))
    made.ask(50)
    made.ask(150, limits=(9, 1_000, 1_000))
    made.ask(160, degraded="local", at_once=True)  # a node alone may not have heard of it
    assert not made.refuted
    made.ask(150)
    assert made.refuted == {"limits that were not in force"}


def test_a_declared_key_is_never_unknown() -> None:
    made = MadeUp()
    made.lose(10, with_limits=True)
    made.ask(20, UNKNOWN)
    assert made.refuted == {"a declared key was unknown"}
    made.history.is_declared = False
    assert not made.refuted


def test_a_deleted_key_is_unknown_until_it_is_put_again() -> None:
    made = MadeUp()
    made.delete(10)
    made.ask(20, UNKNOWN)
    made.put(300)
    made.ask(310, UNKNOWN, at_once=True)  # the node was told so, and is alone
    assert not made.refuted
    made.ask(320)
    made.ask(330, UNKNOWN)
    assert made.refuted == {"a declared key was unknown"}


def test_a_revoked_key_is_not_decided_and_not_admitted_by_who_was_told() -> None:
    made = MadeUp(2)
    made.delete(10)
    made.alone(20, node=1)  # it could not know
    made.ask(30, UNKNOWN)
    assert not made.refuted
    made.alone(100)
    assert made.refuted == {"a revoked key was admitted"}
    made = MadeUp()
    made.delete(10)
    made.ask(20)
    assert made.refuted == {"a revoked key was decided"}


def test_what_is_left_is_told() -> None:
    made = MadeUp()
    made.record.leaks.append("a task")
    assert made.refuted == {"something was left"}


# ---- real runs -------------------------------------------------------------------------------------------------------


@pytest.fixture
async def store() -> AsyncIterator[JudgedStore]:
    async with judged_store("single", None) as running:
        yield running


def short(seed: int, scenario: str) -> Any:
    return dataclasses.replace(draw_plan(seed, scenario), seconds=0.6, rounds=1, window_buckets=10)


async def test_a_true_record_that_is_tampered_with_is_refuted(store: JudgedStore) -> None:
    # The window is so long that the newest request is still in it when the nodes are drained.
    plan = dataclasses.replace(short(1, "calm"), nodes=2, policy="local", window_buckets=100)
    result = await run(plan, store)
    record = result.record
    assert not result.verdict.violations, "\n".join(result.story())
    # Of those that the store was looked at after, and with tokens: a cancelled one may count as a request or not.
    counted = [op for op in record.ops if op.asked_ms <= record.counts[-1].drained_ms and op.outcome == ADMITTED]
    newest = max((op for op in counted if any(op.counts[1:])), key=lambda op: op.time_ms)
    record.ops.remove(newest)
    assert {violation.rule for violation in judge_counted(record)} == {ONCE}, "counted, and nobody was told"
    record.ops += [newest, newest]
    assert {violation.rule for violation in judge_counted(record)} == {ONCE}, "told twice, and counted once"
    record.ops.remove(newest)
    assert not judge(record).violations


_TRIES = 5
"""On a busy machine a short run may end before its first fault."""


@pytest.mark.parametrize(
    ("scenario", "seed"),
    [
        ("network", 1),
        ("lies", 22),
        ("freeze", 5),
        ("fleet", 2),
        ("stalls", 3),
        ("server", 1),
        ("loss", 3),
        ("rollback", 37),
        ("keys", 1),
        ("accounts", 1),
        ("mixed", 1),
    ],
)
async def test_no_fault_breaks_a_rule(store: JudgedStore, scenario: str, seed: int) -> None:
    for _ in range(_TRIES):
        result = await run(short(seed, scenario), store)
        assert not result.verdict.violations, "\n".join([result.line, *result.story()])
        if result.record.faults:
            return
    pytest.fail(f"no fault happened in {_TRIES} runs")
    assert len(result.record.ops) > 100


async def test_slots_that_move_break_no_rule() -> None:
    async with judged_store("cluster", None) as cluster:
        result = await run(short(3, "moves"), cluster)
    assert not result.verdict.violations, "\n".join([result.line, *result.story()])


def test_a_seed_draws_the_same_run_again() -> None:
    for seed in range(50):
        assert draw_plan(seed) == draw_plan(seed)
        assert draw_plan(seed, binary="redis-server").scenario.name != "clock"
    assert {draw_plan(seed).scenario.name for seed in range(300)} >= set(SCENARIOS) - {"clock"}
