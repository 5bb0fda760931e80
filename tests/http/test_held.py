"""The budget for bytes that are held: what has room in it, and that all of it comes back."""

from __future__ import annotations

import pytest

from limiter_node.errors import Overloaded
from limiter_node.held import SMALL_BYTES, HeldBytes, Hold

MOST = 8 * SMALL_BYTES


def test_what_is_taken_is_given_back_once() -> None:
    budget = HeldBytes(MOST)
    hold, other = Hold(budget), Hold(budget)
    hold.take(100)
    hold.take(10)
    hold.give(60)
    other.take(5)
    assert (budget.held, hold.size) == (55, 50)
    hold.release()
    hold.release()
    assert budget.held == 5
    other.release()
    assert budget.held == 0


def test_what_is_refused_takes_nothing() -> None:
    budget = HeldBytes(MOST)
    hold = Hold(budget)
    hold.take(100)
    for refuse in (hold.take, hold.expect):
        with pytest.raises(Overloaded):
            refuse(MOST)
    assert (hold.size, budget.held) == (100, 100)


def test_large_ones_leave_an_eighth_to_small_ones() -> None:
    budget = HeldBytes(MOST)
    large, small = Hold(budget), Hold(budget)
    large.expect(7 * SMALL_BYTES)
    with pytest.raises(Overloaded):
        large.expect(7 * SMALL_BYTES + 1)
    for _ in range(7):
        large.take(SMALL_BYTES)
    with pytest.raises(Overloaded):
        large.take(1)
    assert (large.size, budget.held) == (7 * SMALL_BYTES, 7 * SMALL_BYTES)
    small.take(SMALL_BYTES)
    assert budget.held == MOST
    with pytest.raises(Overloaded):
        Hold(budget).take(1)
    Hold(budget).take(0)
