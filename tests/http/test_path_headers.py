"""The headers of decisions on paths, literally; which limits they list, in which order, and what they hide."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st
from limit_headers import listed_limits
from path_decisions import DAY_MS, MINUTE_MS, RESET_MS, USED, acme_plan, flat_plan, on_path

from limiter_node.decisions import Decision, Outcome
from limiter_node.http.responses.caller_view import header_text
from limiter_node.http.responses.headers import ResponseHeaders
from limiter_node.http.responses.path_headers import MAX_LIST_CHARS, MAX_LISTED, MAX_PLANS, PathHeaders
from limiter_node.limits import Amounts
from limiter_node.plans import Plan
from limiter_node.policy import AUDIT, MAX_AMOUNT, Limit, PolicyWindow

HEADERS = ResponseHeaders("node-1")
FRAME = {
    "Server": "limiter-node",
    "Content-Type": "application/json",
    "x-limiter-time-ms": "1763916000123",
    "x-limiter-input-tokens": "25",
    "x-limiter-reserved-output": "100",
    "x-limiter-node": "node-1",
    "x-request-id": "req_1",
}
"""The headers that name no limit."""
OF_ALICE = {
    "x-ratelimit-limit-requests": "60",
    "x-ratelimit-remaining-requests": "47",
    "x-ratelimit-reset-requests": "12ms",
    "x-ratelimit-limit-input-tokens": "30000",
    "x-ratelimit-remaining-input-tokens": "1961",
    "x-ratelimit-reset-input-tokens": "1s",
}
OF_PATH = FRAME | {
    **OF_ALICE,
    "x-ratelimit-limit-output-tokens": "90000",
    "x-ratelimit-remaining-output-tokens": "30000",
    "x-ratelimit-reset-output-tokens": "3s",
    "x-ratelimit-limit-tokens": "30000",
    "x-ratelimit-remaining-tokens": "1961",
    "x-ratelimit-reset-tokens": "1s",
    "RateLimit-Policy": (
        '"acme requests/1m";q=5000;w=60, "acme/alice input_tokens/1m";q=30000;w=60, '
        '"acme/research requests/1d";q=1000;w=86400, "acme tokens/1m";q=200000;w=60, '
        '"acme output_tokens/1m";q=90000;w=60, "acme/alice requests/1m";q=60;w=60'
    ),
    "RateLimit": (
        '"acme requests/1m";r=50;t=60, "acme/alice input_tokens/1m";r=1961;t=1, '
        '"acme/research requests/1d";r=100;t=80000, "acme tokens/1m";r=40000;t=59, '
        '"acme output_tokens/1m";r=30000;t=3, "acme/alice requests/1m";r=47;t=1'
    ),
}


def rendered(decision: Decision, headers: ResponseHeaders = HEADERS) -> dict[str, str]:
    block = headers.decided(decision, "req_1")
    assert block.endswith("\r\n")
    assert block.isascii()
    found = dict(line.split(": ", 1) for line in block.removesuffix("\r\n").split("\r\n"))
    assert len({name.lower() for name in found}) == block.count("\r\n"), "a header is there twice"
    return found


def of_acme(show: str = "path", **changes: Any) -> dict[str, str]:
    return rendered(on_path(acme_plan(show), USED, RESET_MS, **changes))


def test_an_admission() -> None:
    assert of_acme() == OF_PATH


@pytest.mark.parametrize(
    ("exceeded", "dimension", "limit", "unit"),
    [
        (0, 0, "acme requests/1m", "requests"),
        (0, 3, "acme tokens/1m", "tokens"),
        (1, 2, "acme output_tokens/1m", "output_tokens"),
        (3, 0, "acme/research requests/1d", "requests"),
        (4, 1, "acme/alice input_tokens/1m", "input_tokens"),
    ],
)
def test_a_rejection_names_the_limit(exceeded: int, dimension: int, limit: str, unit: str) -> None:
    told = of_acme(outcome=Outcome.REJECTED, dimension=dimension, exceeded=exceeded, retry_after_ms=3_890)
    rejection = {"x-limiter-exceeded": unit, "x-limiter-limit": limit}
    assert told == OF_PATH | rejection | {"retry-after-ms": "3890", "retry-after": "4"}
    told = of_acme(outcome=Outcome.NEVER_FITS, dimension=dimension, exceeded=exceeded)
    assert told == OF_PATH | rejection | {"x-should-retry": "false"}


@pytest.mark.parametrize(
    ("ms", "seconds"), [(1, "1"), (60_001, "60"), (60_100, "60"), (60_101, "61"), (86_000_001, "86001")]
)
def test_a_wait_is_exact_in_ms_and_at_most_60_s_within_a_minute(ms: int, seconds: str) -> None:
    told = of_acme(outcome=Outcome.REJECTED, dimension=0, exceeded=3, retry_after_ms=ms)
    assert (told["retry-after-ms"], told["retry-after"]) == (str(ms), seconds)


def test_a_policys_decision_says_so() -> None:
    assert of_acme(degraded="local") == OF_PATH | {"x-limiter-degraded": "local"}


def test_callers_who_see_their_own_alone_get_neither_names_nor_numbers_above_their_key() -> None:
    own = FRAME | {
        **OF_ALICE,
        "x-ratelimit-limit-tokens": "30000",
        "x-ratelimit-remaining-tokens": "1961",
        "x-ratelimit-reset-tokens": "1s",
        "RateLimit-Policy": '"alice input_tokens/1m";q=30000;w=60, "alice requests/1m";q=60;w=60',
        "RateLimit": '"alice input_tokens/1m";r=1961;t=1, "alice requests/1m";r=47;t=1',
    }
    assert of_acme("own", need=Amounts(1, 1_000, 100)) == own | {"x-limiter-input-tokens": "1000"}
    told = of_acme("own", outcome=Outcome.REJECTED, dimension=0, exceeded=3, retry_after_ms=70_000)
    assert told == own | {
        "x-limiter-exceeded": "requests",
        "x-limiter-limit": "account",
        "retry-after-ms": "70000",
        "retry-after": "70",
    }
    told = of_acme("own", outcome=Outcome.REJECTED, dimension=1, exceeded=4, retry_after_ms=1)
    assert told["x-limiter-limit"] == "alice input_tokens/1m"


@pytest.mark.parametrize(
    ("outcome", "need", "seconds_used", "research_used", "audited"),
    [
        (Outcome.ADMITTED, Amounts(1, 25, 100), 10, 500, None),
        (Outcome.ADMITTED, Amounts(1, 25, 100), 11, 500, "acme requests/1s"),
        (Outcome.ADMITTED, Amounts(1, 25, 100), 11, 501, "acme requests/1s, a%2C %C3%A9"),
        (Outcome.ADMITTED, Amounts(1, 0, 100), 10, 501, None),  # a need of 0 always fits
        (Outcome.REJECTED, Amounts(1, 25, 100), 9, 475, None),
        (Outcome.REJECTED, Amounts(1, 25, 100), 10, 475, "acme requests/1s"),
        (Outcome.REJECTED, Amounts(1, 26, 100), 9, 475, "a%2C %C3%A9"),
        (Outcome.NEVER_FITS, Amounts(1, 26, 100), 9, 475, "a%2C %C3%A9"),
        (Outcome.REJECTED, Amounts(1, 0, 100), 9, 501, None),
    ],
)
def test_audited_limits_that_would_have_rejected_are_named(
    outcome: Outcome, need: Amounts, seconds_used: int, research_used: int, audited: str | None
) -> None:
    used = [*USED[:2], Amounts(seconds_used, 0, 0), Amounts(900, research_used, 200), USED[4]]
    is_admitted = outcome is Outcome.ADMITTED
    dimension, exceeded = (-1, -1) if is_admitted else (0, 0)
    decision = on_path(acme_plan(), used, outcome=outcome, need=need, dimension=dimension, exceeded=exceeded)
    assert rendered(decision).get("x-limiter-audit") == audited


MINUTE_TRIPLE = PolicyWindow(MINUTE_MS, (), (Limit(0, 60), Limit(1, 5_000_000_000), Limit(2, 9_000)))


def test_a_flat_keys_limits_per_minute_keep_their_names() -> None:
    plan = flat_plan(
        MINUTE_TRIPLE,
        PolicyWindow(MINUTE_MS, ("o3*",), (Limit(0, 30), Limit(3, 4_000))),
        PolicyWindow(DAY_MS, (), (Limit(0, 500),)),
        name='é "x"',
        models=("o3",),
    )
    used = (Amounts(6, 10, 900), Amounts(4, 10, 900), Amounts(400, 0, 0))
    told = rendered(on_path(plan, used))
    named = '"%C3%A9 %22x%22 requests/1d";q=500;w=86400, "%C3%A9 %22x%22 tokens/1m";q=4000;w=60, '
    named += '"%C3%A9 %22x%22 requests/1m";q=30;w=60, "rpm";q=60;w=60, "output-tpm";q=9000;w=60, '
    assert told["RateLimit-Policy"] == named + '"input-tpm";q=5000000000;w=60'
    assert told["x-ratelimit-limit-requests"] == "30"
    assert told["x-ratelimit-limit-input-tokens"] == "5000000000"
    assert (told["x-ratelimit-limit-tokens"], told["x-ratelimit-remaining-tokens"]) == ("4000", "3090")


def test_a_flat_key_sees_its_own_limits_whatever_is_shown() -> None:
    plan = flat_plan(MINUTE_TRIPLE, PolicyWindow(DAY_MS, (), (Limit(0, 9),)), name="a/b")
    own = Plan(plan.who, plan.windows, plan.output_reserve, "own", 0, is_flat=True)
    told = rendered(on_path(own, [Amounts(1, 2, 3)] * 2))
    assert told == rendered(on_path(plan, [Amounts(1, 2, 3)] * 2))
    assert '"a/b requests/1d";r=8' in told["RateLimit"]


@pytest.mark.parametrize(
    ("limits", "used", "expected"),
    [
        ([], Amounts(0, 0, 0), {}),
        ([Limit(0, 60)], Amounts(1, 2, 3), {"requests": "60 59"}),
        ([Limit(0, 60, AUDIT)], Amounts(1, 2, 3), {}),
        ([Limit(3, 60)], Amounts(1, 2, 3), {"tokens": "60 55"}),
        ([Limit(1, 50), Limit(3, 60)], Amounts(1, 2, 3), {"input-tokens": "50 48", "tokens": "50 48"}),
        ([Limit(2, 60), Limit(3, 62)], Amounts(1, 2, 3), {"output-tokens": "60 57", "tokens": "60 57"}),
        ([Limit(2, 60), Limit(3, 61)], Amounts(1, 2, 3), {"output-tokens": "60 57", "tokens": "61 56"}),
        ([Limit(2, 60), Limit(3, 60)], Amounts(1, 100, 3), {"output-tokens": "60 57", "tokens": "60 0"}),
        ([Limit(0, 0)], Amounts(0, 0, 0), {"requests": "0 0"}),
    ],
)
def test_a_unit_without_a_limit_per_minute_has_no_headers(
    limits: list[Limit], used: Amounts, expected: dict[str, str]
) -> None:
    told = rendered(on_path(flat_plan(PolicyWindow(MINUTE_MS, (), tuple(limits))), [used]))
    units = ("requests", "input-tokens", "output-tokens", "tokens")
    assert {
        unit: f"{told[f'x-ratelimit-limit-{unit}']} {told[f'x-ratelimit-remaining-{unit}']}"
        for unit in units
        if f"x-ratelimit-reset-{unit}" in told
    } == expected
    has_any = any(limit.mode != AUDIT for limit in limits)
    assert ("RateLimit" in told) == ("RateLimit-Policy" in told) == has_any


@pytest.mark.parametrize("per_ms", [1_000, 59_000, 61_000, 3_600_000])
def test_only_windows_of_a_minute_count_for_the_older_headers(per_ms: int) -> None:
    told = rendered(on_path(flat_plan(PolicyWindow(per_ms, (), (Limit(0, 60),))), [Amounts(1, 0, 0)]))
    assert not [name for name in told if name.startswith("x-ratelimit")]
    assert told["RateLimit-Policy"].endswith(f";q=60;w={per_ms // 1000}")


def test_of_equal_remainders_the_smallest_limit_is_told() -> None:
    windows = [PolicyWindow(MINUTE_MS, (f"{each}*", "m"), (Limit(0, each),)) for each in (70, 50, 60)]
    told = rendered(on_path(flat_plan(*windows, models="m"), [Amounts(each, 0, 0) for each in (20, 0, 9)]))
    assert told["x-ratelimit-limit-requests"] == "50"


# ---- the order, and its bound --------------------------------------------------------------------------------------

AMOUNTS = st.integers(0, 1_000) | st.integers(0, MAX_AMOUNT)


@given(st.lists(st.tuples(AMOUNTS, AMOUNTS), min_size=1, max_size=40))
def test_the_smallest_share_comes_first_and_sixteen_are_listed(states: list[tuple[int, int]]) -> None:
    windows = [PolicyWindow(1_000 * n, (), (Limit(0, limit),)) for n, (limit, _) in enumerate(states, start=1)]
    told = rendered(on_path(flat_plan(*windows), [Amounts(used, 0, 0) for _, used in states]))
    policies = re.findall(r'"alice requests/(\w+)";q=(\d+);w=(\d+)', told["RateLimit-Policy"])
    remainders = re.findall(r'"alice requests/(\w+)";r=(\d+);t=0', told["RateLimit"])
    assert [per for per, *_ in policies] == [per for per, _ in remainders], "the two fields name the same limits"
    assert len(policies) == len(remainders) == min(len(states), MAX_LISTED)
    shares = []
    for (_, quota, seconds), (_, remaining) in zip(policies, remainders, strict=True):
        limit, used = states[int(seconds) - 1]
        assert (int(quota), int(remaining)) == (limit, max(0, limit - used))
        shares.append(int(remaining) / limit if limit else 0.0)
    assert shares == sorted(shares)
    listed = {int(seconds) for *_, seconds in policies}
    left_out = [max(0, limit - used) / limit if limit else 0.0 for limit, used in states]
    assert all(share >= shares[-1] for n, share in enumerate(left_out, start=1) if n not in listed)


def test_the_order_follows_the_usage_from_decision_to_decision() -> None:
    plan = flat_plan(PolicyWindow(MINUTE_MS, (), (Limit(0, 10), Limit(1, 10))))
    for used, first in [(Amounts(1, 2, 0), "input-tpm"), (Amounts(3, 2, 0), "rpm"), (Amounts(1, 2, 0), "input-tpm")]:
        told = rendered(on_path(plan, [used]))
        assert told["RateLimit-Policy"].startswith(f'"{first}";q=10')
        assert told["RateLimit"].startswith(f'"{first}";r=')


def test_at_most_sixteen_audited_limits_are_named() -> None:
    windows = [PolicyWindow(1_000 * n, (), (Limit(0, 0, AUDIT, f"limit {n}"),)) for n in range(1, 30)]
    told = rendered(on_path(flat_plan(*windows), [Amounts(1, 0, 0)] * 29))
    assert told["x-limiter-audit"] == ", ".join(f"limit {n}" for n in range(1, MAX_LISTED + 1))


@pytest.mark.parametrize(("name", "listed"), [("n" * 128, 16), ("é" * 128, 5), ("\N{GRINNING FACE}" * 128, 2)])
def test_long_names_leave_the_lists_short(name: str, listed: int) -> None:
    """A client's bounds for a head are not reached, whatever an operator calls keys and limits."""
    windows = [
        PolicyWindow(86_400_000 * n, (), (Limit(0, MAX_AMOUNT), Limit(1, 0, AUDIT, f"{n:02}{name[2:]}")))
        for n in range(1, 32)
    ]
    resets = [Amounts(each.per_ms + each.bucket_ms, 0, 0) for each in windows]
    told = rendered(on_path(flat_plan(*windows, name=name), [Amounts(0, 1, 0)] * len(windows), resets))
    for field in ("RateLimit-Policy", "RateLimit", "x-limiter-audit"):
        assert len(told[field]) <= MAX_LIST_CHARS
        assert told[field].count(",") == listed - 1


def test_the_lines_of_plans_are_kept_by_object_and_bounded() -> None:
    headers = PathHeaders()
    for amount in range(1, MAX_PLANS + 100):
        plan = flat_plan(PolicyWindow(MINUTE_MS, (), (Limit(0, amount),)))
        for _ in range(2):
            assert f"x-ratelimit-limit-requests: {amount}\r\n" in headers.lines(on_path(plan, [Amounts(1, 0, 0)]))
    assert len(headers._lines) == MAX_PLANS


# ---- quoting -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("acme/research requests/1d", "acme/research requests/1d"),
        ("a%b", "a%25b"),
        (' a "b", \\c ', "%20a %22b%22%2C %5Cc%20"),
        ("é\r\nx: y", "%C3%A9%0D%0Ax: y"),
        ("\ud800", "%ED%A0%80"),
        ("", ""),
    ],
)
def test_quoting(name: str, text: str) -> None:
    assert header_text(name) == text


@given(st.text())
def test_quoted_names_are_safe_and_can_be_read_back(name: str) -> None:
    text = header_text(name)
    assert text.isascii()
    assert text.isprintable()
    assert text == text.strip()
    assert not set(text) & {",", '"', "\\"}
    assert unquote(text, "utf-8", "surrogatepass") == name


@given(st.text(min_size=1, max_size=64))
def test_no_name_of_a_flat_key_breaks_out_of_its_header(name: str) -> None:
    plan = flat_plan(PolicyWindow(DAY_MS, (), (Limit(0, 5), Limit(1, 0, AUDIT))), name=name)
    decision = on_path(plan, [Amounts(5, 1, 0)], outcome=Outcome.REJECTED, dimension=0, exceeded=0, retry_after_ms=1)
    told = rendered(decision)
    assert [each.name for each in listed_limits(told)] == [f"{name} requests/1d"]
    limit = f"{name} requests/1d"
    assert unquote(told["x-limiter-limit"], "utf-8", "surrogatepass") == limit
    assert unquote(told["RateLimit"], "utf-8", "surrogatepass") == f'"{limit}";r=0;t=0'
    assert told["x-limiter-audit"].count(",") == 0
