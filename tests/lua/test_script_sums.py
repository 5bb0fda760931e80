"""The running sums alone, read without a script: never below what counts, and exact where they say so."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
from reference import Admit, Charge, Settle
from script_driver import Window

from limiter_node.store.keyspace import META_FIELD
from limiter_node.store.values import unpack_sums

OpenWindow = Callable[..., Window]
FAR = 4_000_000_000


def sums(window: Window) -> tuple[tuple[int, int, int], bool]:
    used, is_exact = unpack_sums(window.client.hget(window.keys[1], META_FIELD), window.clock_ms, window.width)  # type: ignore[arg-type]
    return tuple(used), is_exact


@pytest.mark.parametrize("seed", range(4))
def test_sums_are_never_too_low_and_exact_where_they_say_so(open_window: OpenWindow, seed: int) -> None:
    dice = random.Random(seed)
    window = open_window(FAR, FAR, FAR, width=20)
    seen = {True: 0, False: 0}
    for _ in range(300):
        window.clock_ms += dice.choice((0, 30, 100, 450, 1_900, 2_100)) - 200 * (dice.random() < 0.05)
        match dice.randrange(9):
            case 0 | 1:
                window.decide(Admit(dice.randrange(50), dice.randrange(50)))
            case 2:
                window.decide(Charge(window.bucket - dice.randrange(15), 1, dice.choice((0, 9)), dice.choice((0, 9))))
            case 3:
                window.decide(Settle(window.bucket - dice.randrange(10), dice.randrange(30), dice.randrange(30)))
        if window.client.hexists(window.keys[1], META_FIELD):
            told, is_exact = sums(window)
            counted = window.used()
            assert told == counted if is_exact else all(a >= b for a, b in zip(told, counted, strict=True))
            seen[is_exact] += 1
    assert min(seen.values()) > 5, seen


def test_an_old_window_is_empty_and_something_else_is_no_window(open_window: OpenWindow) -> None:
    window = open_window(FAR, FAR, FAR)
    window.admit(5, 5)
    assert sums(window) == ((1, 5, 5), True)
    window.clock_ms += 60_000
    assert sums(window) == ((1, 5, 5), True)
    window.clock_ms += 100
    assert sums(window) == ((0, 0, 0), True)
    with pytest.raises(ValueError, match="48 bytes"):
        unpack_sums(b"x" * 47, 0)
