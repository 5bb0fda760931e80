"""Which requests an overloaded node turns away, and that it leaves alone who was turned away."""

from __future__ import annotations

import pytest

from limiter_node.http.overload import CALM_S, FULL_S, MAX_PAUSE_S, LoopLoad


def after(*turns_s: float) -> LoopLoad:
    load = LoopLoad()
    for turn_s in turns_s:
        load.turn_took(turn_s)
    return load


@pytest.mark.parametrize(
    ("turns_s", "share"),
    [
        ((0.001, 0.001, 0.001), 0.0),
        ((CALM_S, CALM_S, CALM_S), 0.0),
        (((CALM_S + FULL_S) / 2,) * 3, 0.5),
        ((FULL_S,) * 3, 1.0),
        ((1.0,) * 3, 1.0),
        ((1.0, 1.0, 0.001), 0.0),
        ((0.001, 1.0, 1.0), 0.0),
        ((0.001, 1.0, 1.0, 1.0), 1.0),
    ],
)
def test_the_share_grows_with_the_shortest_of_the_last_turns(turns_s: tuple[float, ...], share: float) -> None:
    assert after(*turns_s).share == pytest.approx(share)


@pytest.mark.parametrize("share", [0.0, 0.25, 0.5, 1.0])
def test_the_share_is_spread_evenly(share: float) -> None:
    load = LoopLoad()
    load.share = share
    shed = [load.sheds() for _ in range(100)]
    assert sum(shed) == 100 * share
    assert abs(sum(shed[:50]) - sum(shed[50:])) <= 1


def test_the_pause_grows_with_the_connections_and_is_bounded() -> None:
    load = LoopLoad()
    load.connections = 100
    few = load.pause_s()
    load.connections = 1_000
    assert load.pause_s() == pytest.approx(10 * few)
    load.connections = 1_000_000
    assert load.pause_s() == MAX_PAUSE_S
