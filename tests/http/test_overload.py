"""Which requests an overloaded node turns away, and that it leaves alone who was turned away."""

from __future__ import annotations

import pytest

from limiter_node.http.server.overload import CALM_S, LATE_S, MAX_PAUSE_S, TOO_LATE_S, LoopLoad


def after(*rounds: tuple[float, ...]) -> LoopLoad:
    """What a load is after rounds in which requests had waited so long."""
    load = LoopLoad()
    for waits_s in rounds:
        for waited_s in waits_s:
            load.sheds(waited_s)
        load.end_round()
    return load


@pytest.mark.parametrize(
    ("rounds", "is_full"),
    [
        ((), False),
        (((0.001,),) * 3, False),
        (((CALM_S,),) * 3, False),
        (((CALM_S * 1.01,),) * 3, True),
        (((0.0, CALM_S * 2.1),) * 3, True),
        (((1.0,),), False),
        (((1.0,), (0.001,), (0.001,)), False),
        (((1.0,), (0.001,), (1.0,), (0.001,)), True),
        (((1.0,), (1.0,), (0.001,), (0.001,)), True),
        (((1.0,), (1.0,), (0.001,), (0.001,), (0.001,)), False),
        (((1.0,), (1.0,), (), (), ()), False),
    ],
)
def test_a_node_is_full_while_two_of_the_last_rounds_were(rounds: tuple[tuple[float, ...], ...], is_full: bool) -> None:
    load = after(*rounds)
    assert load.sheds(LATE_S * 1.01) is is_full
    assert not load.sheds(LATE_S * 0.99), "what came just now is served"


def test_a_long_round_without_requests_says_nothing() -> None:
    for late_s, is_full in ((CALM_S * 1.01, True), (CALM_S * 0.99, False)):
        load = after((1.0,), (1.0,), (0.001,))
        for _ in range(4):
            load.end_round(late_s)
        assert load.sheds(LATE_S * 1.01) is is_full


def test_who_has_waited_far_too_long_is_turned_away_in_any_case() -> None:
    assert after().sheds(TOO_LATE_S * 1.01)
    assert not after().sheds(TOO_LATE_S * 0.99)


def test_the_pause_grows_with_the_connections_and_is_bounded() -> None:
    load = LoopLoad()
    load.connections = 100
    few = load.pause_s()
    load.connections = 200
    assert load.pause_s() == pytest.approx(2 * few)
    load.connections = 1_000_000
    assert load.pause_s() == MAX_PAUSE_S
