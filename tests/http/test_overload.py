"""Which requests an overloaded node turns away, and that it leaves alone who was turned away."""

from __future__ import annotations

import pytest

from limiter_node.http.overload import CALM_S, LATE_S, MAX_PAUSE_S, LoopLoad


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
        (((1.0,), (1.0,), (0.001,)), False),
        (((0.001,), (1.0,), (1.0,)), False),
        (((0.001,), (1.0,), (1.0,), (1.0,)), True),
        (((1.0,), (1.0,), (1.0,), ()), False),
    ],
)
def test_a_node_is_full_while_each_of_the_last_rounds_was(rounds: tuple[tuple[float, ...], ...], is_full: bool) -> None:
    load = after(*rounds)
    assert load.sheds(LATE_S * 1.01) is is_full
    assert not load.sheds(LATE_S * 0.99), "what came just now is served"


def test_the_pause_grows_with_the_connections_and_is_bounded() -> None:
    load = LoopLoad()
    load.connections = 100
    few = load.pause_s()
    load.connections = 200
    assert load.pause_s() == pytest.approx(2 * few)
    load.connections = 1_000_000
    assert load.pause_s() == MAX_PAUSE_S
