"""The judge on made-up records of an account: it finds what is wrong in each window, and only that."""

from __future__ import annotations

from typing import Any

import pytest

from judge.at_rest import Foretold, foretell
from judge.judge import judge
from judge.policies import Declared, Rule
from judge.records import (
    ADMITTED,
    NEVER,
    NO_LIMIT,
    REJECTED,
    UNKNOWN,
    AccountHistory,
    AccountPut,
    Count,
    Loss,
    Op,
    Peek,
    Place,
    Record,
    Touched,
    Triple,
)

START = 1_000_200_000
"""A multiple of the buckets' widths, in ms."""
ANN, BOB = "a" * 32, "b" * 32
HOUR_MS = 3_600_000
NONE: tuple[int | None, ...] = (None,) * 4
OF_ACCOUNT = Rule("", 1_000, (), (4, None, None, 100))
OF_TEAM = Rule("team", HOUR_MS, (), (6, None, None, None))
OF_MODEL = Rule(f"={ANN}", 1_000, ("o3*",), (None, 10, None, None), (1, None, None, None))
DECLARED = Declared("@acme", (OF_ACCOUNT, OF_TEAM, OF_MODEL), ("team",), {ANN: "team", BOB: ""})


class MadeUp:
    """A record of one account, made by hand."""

    def __init__(self, nodes: int = 1) -> None:
        self.record = Record(nodes, 10, "local", 100)
        self.history = AccountHistory([AccountPut(START - 10, START - 9, DECLARED)])
        self.record.accounts["@acme"] = self.history
        self.record.account_of = {ANN: "@acme", BOB: "@acme"}

    def ask(self, at_ms: int, kid: str = ANN, outcome: str = ADMITTED, **changes: Any) -> Op:
        asked_ms = START + at_ms
        op = Op(0, kid, asked_ms, (1, 1, 1), asked_ms + 2, outcome, time_ms=asked_ms + 1, models=("gpt",))
        op.need = (1, 1, 1)
        for name, value in changes.items():
            setattr(op, name, value)
        if outcome != UNKNOWN and "path" not in changes:
            rules = DECLARED.path(kid, op.models) or []
            op.path = tuple(Touched(DECLARED.place(rule), rule.limits) for rule in rules)
        self.record.ops.append(op)
        return op

    @property
    def refuted(self) -> set[tuple[str, int]]:
        """The rules that are broken, with the length of the window in which they are; 0: in none."""
        lengths = {place.text: place.per_ms for rule in DECLARED.rules for place in [DECLARED.place(rule)]}
        return {(each.rule, lengths.get(each.key, 0)) for each in judge(self.record).violations}


def test_each_window_of_a_path_is_judged_by_its_own_length() -> None:
    made = MadeUp()
    for at_ms in (0, 1, 2, 3, 2_000, 2_001):
        made.ask(at_ms)
    assert not made.refuted
    made.ask(5_000)
    assert made.refuted == {("window above its bound", HOUR_MS), ("ceiling", HOUR_MS)}


def test_keys_of_other_teams_count_in_the_account() -> None:
    made = MadeUp()
    for at_ms in range(4):
        made.ask(at_ms, (ANN, BOB)[at_ms % 2])
    assert not made.refuted
    made.ask(5, BOB)
    assert made.refuted == {("window above its bound", 1_000), ("ceiling", 1_000)}


def test_tokens_are_input_and_output_together() -> None:
    made = MadeUp()
    made.ask(0, BOB, need=(1, 60, 40))
    assert not made.refuted
    made.ask(1, BOB, need=(1, 0, 1))
    assert made.refuted == {("window above its bound", 1_000), ("ceiling", 1_000)}


def test_audited_limits_and_other_models_bound_nothing() -> None:
    made = MadeUp()
    for at_ms in range(2):
        made.ask(at_ms, models=("O3-mini",), need=(1, 5, 0))
    made.ask(3, need=(1, 50, 0))
    assert not made.refuted
    made.ask(4, models=("o3",), need=(1, 1, 0))
    assert {rule for rule, _ in made.refuted} == {"window above its bound", "ceiling"}


@pytest.mark.parametrize("left_out", [0, 1])
def test_a_path_is_the_declared_one(left_out: int) -> None:
    made = MadeUp()
    op = made.ask(0)
    op.path = op.path[:left_out] + op.path[left_out + 1 :]
    assert ("limits that were not in force", 0) in made.refuted


def test_a_window_whose_limits_were_taken_away_counts_on_until_its_length_has_passed() -> None:
    made = MadeUp()
    gone = Declared("@acme", (OF_ACCOUNT._replace(enforced=NONE, until_ms=START + 1_010),), (), {BOB: ""})
    made.history.puts.append(AccountPut(START + 10, START + 11, gone))
    touched = Touched(DECLARED.place(OF_ACCOUNT), (NO_LIMIT,) * 4)
    made.ask(100, BOB, path=(touched,))
    made.ask(2_000, BOB, path=())
    assert not made.refuted
    made.ask(110, BOB, path=())
    assert made.refuted == {("limits that were not in force", 0)}


def test_a_node_alone_has_its_share_of_a_long_window_since_the_last_word_to_it() -> None:
    made = MadeUp(2)
    alone = {"degraded": "local", "at_once": True}
    made.ask(0)
    for at_ms in (2_000, 4_000, 6_000):
        made.ask(at_ms, told_ms=START + at_ms + 0.1, **alone)
    assert not made.refuted
    made.ask(8_000, told_ms=START + 8_000.1, **alone)
    assert made.refuted == {("more than its share", HOUR_MS)}


def test_its_share_is_of_what_the_store_had_told_to_be_left() -> None:
    made = MadeUp(2)
    alone = {"degraded": "local", "at_once": True}
    for at_ms, node in ((0, 0), (1_000, 1), (2_000, 1), (3_000, 1), (4_000, 0)):
        made.ask(at_ms, node=node)
    made.ask(6_000, told_ms=START + 6_000.1, **alone)
    assert not made.refuted
    second = made.ask(7_500, told_ms=START + 7_500.1, **alone)
    assert made.refuted == {("more than its share", HOUR_MS)}
    made.record.ops.remove(second)
    made.record.ops[2].settled_ms, made.record.ops[2].settled = START + 2_500.0, (0, 0, 0)
    made.ask(7_500, told_ms=START + 7_500.1, **alone)
    assert made.refuted == {("more than its share", HOUR_MS)}, "of three, one is its share"
    made.history.losses.append(Loss(START + 5_000, START + 5_001))
    assert ("more than its share", HOUR_MS) not in made.refuted


def test_a_node_that_was_told_nothing_of_a_long_window_admits_nothing() -> None:
    made = MadeUp(2)
    made.ask(0, node=1)
    made.ask(10, BOB)
    made.ask(2_000, degraded="local", at_once=True, told_ms=START + 2_000.1)
    assert made.refuted == {("more than its share", HOUR_MS)}
    made.ask(20)
    assert not made.refuted


def test_a_rejection_has_a_cause() -> None:
    made = MadeUp()
    for at_ms in range(4):
        made.ask(at_ms)
    made.ask(10, outcome=REJECTED, exceeded=0, unit=0)
    assert not made.refuted
    made.ask(11, outcome=REJECTED, exceeded=1, unit=0)
    assert made.refuted == {("a rejection without a cause", HOUR_MS)}
    made = MadeUp()
    made.ask(0, models=("o3",), outcome=REJECTED, exceeded=2, unit=0)  # that limit is only audited
    assert made.refuted == {("a rejection by no limit", 0), ("a rejection without a cause", 1_000)}


def test_a_declared_key_is_not_unknown() -> None:
    made = MadeUp()
    made.ask(0, outcome=UNKNOWN)
    assert made.refuted == {("a declared key was unknown", 0)}
    made.history.puts.append(AccountPut(START - 5, START - 4, Declared("@acme", DECLARED.rules, (), {BOB: ""})))
    assert not made.refuted


def test_every_window_counts_what_was_admitted_and_nothing_else() -> None:
    made = MadeUp()
    made.ask(0)
    made.ask(10, outcome=REJECTED, exceeded=0, unit=0, time_ms=START + 11)
    places = [DECLARED.place(OF_ACCOUNT), DECLARED.place(OF_TEAM)]
    right: Triple = (1, 1, 1)
    for wrong in places:
        for held in ((0, 0, 0), (2, 2, 2)):
            peeks: dict[Place, Peek | None] = {
                place: Peek(
                    START + 100, {START // (100 if place.per_ms == 1_000 else 6_000): held if place == wrong else right}
                )
                for place in places
            }
            made.record.counts = [Count(START + 100, peeks)]
            assert ("not counted once", wrong.per_ms) in made.refuted


@pytest.mark.parametrize(
    ("need", "foretold"),
    [
        ((1, 0, 0), Foretold(REJECTED, 1, 0, 601 * 6_000 - 50)),
        ((1, 101, 0), Foretold(NEVER, 0, 3)),
    ],
)
def test_what_is_told_at_rest_can_be_foretold(need: Triple, foretold: Foretold) -> None:
    peeks = {
        DECLARED.place(OF_ACCOUNT): Peek(START, {START // 100: (4, 0, 0)}),
        DECLARED.place(OF_TEAM): Peek(START, {START // 6_000: (6, 0, 0)}),
    }
    op = Op(0, ANN, START + 50, need, time_ms=START + 50)
    assert foretell(DECLARED, op, peeks, models=("gpt",), need=need) == foretold


def test_there_is_room_again_in_the_ms_that_was_foretold() -> None:
    peeks = {DECLARED.place(OF_ACCOUNT): Peek(START, {START // 100: (4, 0, 0)})}
    for at_ms, outcome in ((1_099, REJECTED), (1_100, ADMITTED)):
        op = Op(0, BOB, START, (1, 0, 0), time_ms=START + at_ms)
        assert foretell(DECLARED, op, peeks, models=(), need=(1, 0, 0)).outcome == outcome
