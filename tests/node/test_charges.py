"""What a node remembers and owes without the store: its own window, and charges, on a clock of the test's."""

from __future__ import annotations

import pytest

from limiter_node.decisions import Decision, Outcome
from limiter_node.limiter.own_window import OwnWindow
from limiter_node.limits import Amounts
from limiter_node.store import unsent_charges
from limiter_node.store.charges import Charge
from limiter_node.store.key_queue import KeyQueue
from limiter_node.store.knowledge import KeyKnowledge
from limiter_node.store.scripts import load_script
from limiter_node.store.unsent_charges import UnsentCharges
from limiter_node.store.wire.script_target import ScriptTarget

NOTHING = Amounts(0, 0, 0)
NOW_MS = 1_700_000_000_000


def decided(outcome: Outcome, need: Amounts, time_ms: int = NOW_MS) -> Decision:
    return Decision(outcome, -1, 0, NOTHING, NOTHING, NOTHING, need, time_ms, "")


# ---- the own window --------------------------------------------------------------------------------------------------


def test_what_was_admitted_counts_for_a_window_and_at_most_a_second_longer() -> None:
    window = OwnWindow(600)
    window.note([decided(Outcome.ADMITTED, Amounts(1, 5, 7)), decided(Outcome.REJECTED, Amounts(1, 100, 100))], 1)
    window.add(NOW_MS + 30_000, Amounts(1, 10, 10), NOW_MS + 30_000)
    assert window.used(NOW_MS + 60_000) == Amounts(2, 15, 17)
    assert window.used(NOW_MS + 61_000) == Amounts(1, 10, 10)
    assert window.reset_ms(NOW_MS + 61_000) == Amounts(30_000, 30_000, 30_000)
    assert window.used(NOW_MS + 91_000) == NOTHING
    assert window.reset_ms(NOW_MS + 91_000) == NOTHING


def test_what_is_given_back_leaves_its_own_second() -> None:
    window = OwnWindow(600)
    window.add(NOW_MS, Amounts(1, 5, 7), NOW_MS)
    window.add(NOW_MS + 5_000, Amounts(1, 5, 7), NOW_MS + 5_000)
    window.give_back(NOW_MS // 100, 0, 7)
    window.give_back(NOW_MS // 100 + 50, 2, -3, 1)
    assert window.used(NOW_MS + 5_000) == Amounts(1, 8, 10)
    window.give_back(NOW_MS // 100, 100, 100, 100)
    window.give_back(NOW_MS // 100 - 5_000, 1, 1, 1)
    assert window.used(NOW_MS + 5_000) == Amounts(0, 3, 10), "never below zero, nothing where nothing was"


@pytest.mark.parametrize(("excess", "after_ms"), [(1, 61_000), (2, 61_000), (3, 66_000), (4, None)])
def test_when_so_much_has_left(excess: int, after_ms: int | None) -> None:
    window = OwnWindow(600)
    for offset_ms in (0, 900, 5_000):
        window.add(NOW_MS + offset_ms, Amounts(1, 0, 0), NOW_MS + offset_ms)
    assert window.frees_in_ms(0, excess, NOW_MS) == after_ms


def test_what_lies_in_the_future_is_brought_back_and_nothing_else() -> None:
    window = OwnWindow(600)
    window.add(NOW_MS + 3_600_000, Amounts(8, 0, 0), NOW_MS + 3_600_000)  # then the clock steps back
    for second, requests in ((0, 1), (10, 2), (50, 4)):
        window.add(NOW_MS + 1_000 * second, Amounts(requests, 0, 0), NOW_MS)
    window.bring_back(NOW_MS + 50_999)
    assert window.used(NOW_MS + 50_999).requests == 15
    assert window.used(NOW_MS + 61_000).requests == 14
    assert window.used(NOW_MS + 71_000).requests == 12
    assert window.used(NOW_MS + 111_000) == NOTHING
    window.add(NOW_MS + 200_000, Amounts(1, 0, 0), NOW_MS + 200_000)
    window.bring_back(NOW_MS + 150_000)
    assert window.frees_in_ms(0, 1, NOW_MS + 150_000) == 61_000


def test_a_used_key_keeps_no_more_than_a_window() -> None:
    window = OwnWindow(600)
    for second in range(1_000):
        window.add(NOW_MS + 1_000 * second, Amounts(1, 1, 1), NOW_MS + 1_000 * second)
    assert window.used(NOW_MS + 999_000) == Amounts(61, 61, 61)
    assert len(window._cells()) <= 62


# ---- charges -----------------------------------------------------------------------------------------------------


def a_queue() -> KeyQueue:
    return KeyQueue("kid", ScriptTarget(load_script("decide"), 0, (), (), 0), KeyKnowledge(600))


def buckets(queue: KeyQueue) -> list[int]:
    return [charge.bucket for charge in queue.charges or ()]


def test_admissions_of_a_bucket_are_one_charge_and_what_they_give_back_lessens_it() -> None:
    unsent, queue = UnsentCharges(600), a_queue()
    first = unsent.charge(queue, Charge(1_000, Amounts(1, 10, 100)), 1_000)
    assert unsent.charge(queue, Charge(1_000, Amounts(1, 10, 100)), 1_000) is first
    second = unsent.charge(queue, Charge(1_001, Amounts(1, 1, 1)), 1_001)
    assert second is not first
    assert not first.give_back(0, 150)
    assert unsent.size == 2
    taken = unsent.take(queue, 1)
    assert (taken, unsent.size) == ([(first, Amounts(2, 20, 50))], 1)
    # Under way: what is given back now is settled once the store has answered.
    assert not first.give_back(5, 20)
    assert first.mark_counted(999, Amounts(2, 20, 50)) == (0, 5, 20)
    assert (first.counted_in, first.bucket) == (999, 1_000)
    assert first.give_back(1, 1), "and from then on at once, by the caller"
    third = unsent.charge(queue, Charge(1_001, Amounts(1, 1, 1)), 1_001)
    assert third is second
    assert unsent.charge(queue, Charge(1_000, Amounts(1, 1, 1)), 1_000) is not second, (
        "a clock that steps back begins another"
    )


def test_what_has_left_the_window_is_forgotten() -> None:
    unsent, queue = UnsentCharges(600), a_queue()
    for bucket in (1_000, 1_100, 1_601):
        unsent.charge(queue, Charge(bucket, Amounts(1, 1, 1)), bucket)
    assert buckets(queue) == [1_100, 1_601]
    unsent.forget(queue, 1_701)
    assert (buckets(queue), unsent.size) == ([1_601], 1)


def test_a_node_that_owes_too_much_widens_its_charges(monkeypatch: pytest.MonkeyPatch) -> None:
    """They move on with what joins them: counted late, never early."""
    monkeypatch.setattr(unsent_charges, "MANY", 10)
    unsent, queue = UnsentCharges(600), a_queue()
    for bucket in range(1_000, 1_200):
        unsent.charge(queue, Charge(bucket, Amounts(1, 2, 3)), bucket)
    owed = queue.charges
    assert owed is not None
    assert len(owed) <= 10 + 200 // unsent_charges.WIDE + 1
    assert sum(charge.requests for charge in owed) == 200
    assert sum(charge.output_tokens for charge in owed) == 600
    assert owed[-1].bucket == 1_199
