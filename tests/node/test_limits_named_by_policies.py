"""The limit that a policy names where it rejects a request on a path, while the store is away."""

from __future__ import annotations

import pytest
from path_decisions import DAY_MS, MINUTE_MS, flat_plan

from limiter_node.decisions import Need, Outcome
from limiter_node.limiter.fallback import KnownPath, KnownWindow
from limiter_node.limiter.own_window import OwnWindow
from limiter_node.limiter.path_policies import decide_path
from limiter_node.limits import Amounts
from limiter_node.policy import INPUT_TOKENS, OUTPUT_TOKENS, REQUESTS, TOKENS, Limit, PolicyWindow

NOW_MS = 1_763_916_000_000
SECOND_MS = 1_000


def known_path(*windows: PolicyWindow, ago_ms: tuple[int, ...] = ()) -> KnownPath:
    """A path of which the store has told that nothing is used. This node admitted a request per entry of `ago_ms`."""
    plan = flat_plan(*windows)
    known = [KnownWindow(OwnWindow(each.buckets)) for each in plan.windows]
    for each in known:
        each.told, each.ends_ms = Amounts(0, 0, 0), NOW_MS
        for ago in sorted(ago_ms, reverse=True):
            each.own.add(NOW_MS - ago, Amounts(1, 10, 10), NOW_MS - ago)
    return KnownPath(plan, NOW_MS, NOW_MS, known)


@pytest.mark.parametrize(
    ("windows", "need", "window", "unit"),
    [
        ([(MINUTE_MS, INPUT_TOKENS, 50), (DAY_MS, INPUT_TOKENS, 40)], Need(60, 0), 1, INPUT_TOKENS),
        ([(MINUTE_MS, INPUT_TOKENS, 40), (DAY_MS, INPUT_TOKENS, 50)], Need(60, 0), 0, INPUT_TOKENS),
        ([(MINUTE_MS, INPUT_TOKENS, 40), (DAY_MS, INPUT_TOKENS, 40)], Need(60, 0), 0, INPUT_TOKENS),
        ([(MINUTE_MS, TOKENS, 90), (DAY_MS, OUTPUT_TOKENS, 50)], Need(40, 51), 1, OUTPUT_TOKENS),
        ([(MINUTE_MS, TOKENS, 90), (DAY_MS, OUTPUT_TOKENS, 50)], Need(41, 50), 0, TOKENS),
    ],
)
def test_of_limits_that_a_request_can_never_fit_the_smallest(
    windows: list[tuple[int, int, int]], need: Need, window: int, unit: int
) -> None:
    known = known_path(*(PolicyWindow(per_ms, (), (Limit(of, amount),)) for per_ms, of, amount in windows))
    decision = decide_path("local", known, need, 1)
    assert (decision.outcome, decision.dimension, decision.retry_after_ms) == (Outcome.NEVER_FITS, unit, 0)
    assert decision.path is not None
    assert decision.path.exceeded == window


@pytest.mark.parametrize("is_turned", [False, True])
@pytest.mark.parametrize(
    ("short", "long"), [((SECOND_MS, REQUESTS), (MINUTE_MS, REQUESTS)), ((SECOND_MS, TOKENS), (10_000, INPUT_TOKENS))]
)
def test_of_several_in_the_way_the_one_that_frees_last(
    short: tuple[int, int], long: tuple[int, int], is_turned: bool
) -> None:
    windows = [PolicyWindow(per, (), (Limit(unit, 1 if unit == REQUESTS else 20),)) for per, unit in (short, long)]
    known = known_path(*(reversed(windows) if is_turned else windows), ago_ms=(500,))
    decision = decide_path("local", known, Need(15, 0), 1)
    assert (decision.outcome, decision.dimension) == (Outcome.REJECTED, long[1])
    assert decision.path is not None
    assert decision.path.exceeded == (0 if is_turned else 1)
    assert long[0] - 500 <= decision.retry_after_ms <= long[0] + long[0] // 60
