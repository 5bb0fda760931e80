"""The body of ``GET /v1/rate_limits``, literally."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from path_decisions import DAY_MS, KID, MINUTE_MS, RESET_MS, SINCE_MS, USED, acme_plan, flat_plan

from limiter_node.decisions import PathUsage, Usage
from limiter_node.http.responses.rate_limits_body import rate_limits
from limiter_node.limits import Amounts
from limiter_node.plans import Plan
from limiter_node.policy import AUDIT, Limit, PolicyWindow

ZEROS = Amounts(0, 0, 0)
SINCE = "2025-11-23T12:13:20.000Z"
NONE = {"requests": None, "input_tokens": None, "output_tokens": None}


def body(plan: Plan, used: Any, reset_ms: Any, **options: Any) -> dict[str, Any]:
    usage = Usage(ZEROS, ZEROS, ZEROS, 256, 5, "", (), path=PathUsage(plan, tuple(used), tuple(reset_ms)))
    return dict(orjson.loads(rate_limits(usage, 60_000, KID, **options)))


def limit(subject: str, unit: str, window: str, numbers: tuple[int, int, int, int], **changes: Any) -> dict[str, Any]:
    """`numbers`: limit, used, remaining, reset_ms."""
    fields = ("limit", "used", "remaining", "reset_ms")
    return {
        "name": None,
        "subject": subject,
        "unit": unit,
        "window": window,
        "reserved": None,
        "mode": "enforce",
        "counting_since": SINCE,
        **dict(zip(fields, numbers, strict=True)),
        **changes,
    }


def test_a_plain_key() -> None:
    usage = Usage(Amounts(60, 1_000, 500), Amounts(61, 999, 0), Amounts(60_100, 12, 0), 256, 5, "alice", ())
    rest = b'"mode":"enforce","counting_since":null}'
    assert rate_limits(usage, 60_000, KID) == (
        b'{"object":"rate_limits","window_ms":60000,'
        b'"limits":{"requests":60,"input_tokens":1000,"output_tokens":500},'
        b'"used":{"requests":61,"input_tokens":999,"output_tokens":0},'
        b'"remaining":{"requests":0,"input_tokens":1,"output_tokens":500},'
        b'"reset_ms":{"requests":60100,"input_tokens":12,"output_tokens":0},'
        b'"limits_on_path":['
        b'{"name":null,"subject":"alice","unit":"requests","window":"1m",'
        b'"limit":60,"used":61,"reserved":null,"remaining":0,"reset_ms":60100,' + rest + b","
        b'{"name":null,"subject":"alice","unit":"input_tokens","window":"1m",'
        b'"limit":1000,"used":999,"reserved":null,"remaining":1,"reset_ms":12,' + rest + b","
        b'{"name":null,"subject":"alice","unit":"output_tokens","window":"1m",'
        b'"limit":500,"used":0,"reserved":null,"remaining":500,"reset_ms":0,' + rest + b"]}"
    )


@pytest.mark.parametrize(("window_ms", "text"), [(60_000, "1m"), (1_000, "1s"), (1_500, "1500ms"), (100, "100ms")])
def test_a_plain_key_without_a_name_and_another_window(window_ms: int, text: str) -> None:
    told = orjson.loads(rate_limits(Usage(ZEROS, ZEROS, ZEROS, 256, 5, "", ()), window_ms, KID))
    assert told["window_ms"] == window_ms
    assert [(each["subject"], each["window"]) for each in told["limits_on_path"]] == [("0123456789ab", text)] * 3


BIG_MODELS = {"name": "big models", "models": ["o3*", "GPT-5*"]}
ON_PATH = [
    limit("acme", "requests", "1m", (5_000, 4_950, 50, 60_000)),
    limit("acme", "tokens", "1m", (200_000, 160_000, 40_000, 59_000)),
    limit("acme", "output_tokens", "1m", (90_000, 60_000, 30_000, 3_000), **BIG_MODELS),
    limit("acme", "requests", "1s", (10, 3, 7, 900), mode="audit"),
    limit("acme/research", "requests", "1d", (1_000, 900, 100, 80_000_000)),
    limit("acme/research", "input_tokens", "1d", (500, 100, 400, 70_000_000), mode="audit", name="a, é"),
]
SINCE_OF_ALICE = "2025-11-23T12:13:21.234Z"
OWN = [
    limit("acme/alice", "requests", "1m", (60, 13, 47, 12), counting_since=SINCE_OF_ALICE),
    limit("acme/alice", "input_tokens", "1m", (30_000, 28_039, 1_961, 1_000), counting_since=SINCE_OF_ALICE),
]


def test_a_key_of_an_account_has_all_limits_on_its_path() -> None:
    assert body(acme_plan(), USED, RESET_MS, is_of_model=True) == {
        "object": "rate_limits",
        "window_ms": 60_000,
        "limits": {"requests": 60, "input_tokens": 30_000, "output_tokens": 90_000},
        "used": {"requests": 13, "input_tokens": 28_039, "output_tokens": 60_000},
        "remaining": {"requests": 47, "input_tokens": 1_961, "output_tokens": 30_000},
        "reset_ms": {"requests": 12, "input_tokens": 1_000, "output_tokens": 3_000},
        "limits_on_path": ON_PATH + OWN,
    }


def test_without_a_model_limits_for_some_models_are_not_at_the_top() -> None:
    told = body(acme_plan(), USED, RESET_MS)
    assert told["limits_on_path"] == ON_PATH + OWN
    assert told["limits"] == {"requests": 60, "input_tokens": 30_000, "output_tokens": None}
    assert told["used"]["output_tokens"] is told["remaining"]["output_tokens"] is None
    assert told["reset_ms"]["output_tokens"] is None


def test_callers_who_see_their_own_alone_see_nothing_above_their_key() -> None:
    used = (Amounts(5_000, 200_000, 0), *USED[1:])
    told = body(acme_plan("own"), used, RESET_MS, is_of_model=True)
    assert told["limits_on_path"] == [each | {"subject": "alice"} for each in OWN]
    assert told["remaining"] == {"requests": 47, "input_tokens": 1_961, "output_tokens": None}


def test_only_enforcing_limits_of_a_minute_are_at_the_top() -> None:
    plan = flat_plan(
        PolicyWindow(MINUTE_MS, (), (Limit(0, 9, AUDIT), Limit(3, 50)), SINCE_MS),
        PolicyWindow(DAY_MS, (), (Limit(0, 500), Limit(1, 500), Limit(2, 500)), SINCE_MS),
        PolicyWindow(1_000, (), (Limit(0, 500), Limit(1, 500), Limit(2, 500)), SINCE_MS),
    )
    told = body(plan, (Amounts(1, 2, 3),) * 3, (Amounts(1, 2, 3),) * 3)
    assert told["limits"] == told["used"] == told["remaining"] == told["reset_ms"] == NONE
    assert told["limits_on_path"][:2] == [
        limit("alice", "requests", "1m", (9, 1, 8, 1), mode="audit"),
        limit("alice", "tokens", "1m", (50, 5, 45, 3)),
    ]


@pytest.mark.parametrize(
    ("limits", "used", "expected"),
    [((70, 50, 60), (20, 0, 9), (50, 50)), ((70, 50, 60), (65, 0, 9), (70, 5)), ((70, 50, 60), (99, 99, 99), (50, 0))],
)
def test_the_tightest_has_the_fewest_remaining_then_the_smallest_limit(
    limits: tuple[int, ...], used: tuple[int, ...], expected: tuple[int, int]
) -> None:
    windows = [PolicyWindow(MINUTE_MS, (f"{each}*", "m"), (Limit(0, each),)) for each in limits]
    plan = flat_plan(*windows, models=("m",))
    told = body(plan, [Amounts(each, 0, 0) for each in used], [ZEROS] * 3, is_of_model=True)
    assert (told["limits"]["requests"], told["remaining"]["requests"]) == expected
