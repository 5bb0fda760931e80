"""The audit on requests that a limiter admitted and the service behind it failed: they count as requests, their tokens
are given back."""

from __future__ import annotations

from typing import Any

import pytest
from bench_fakes import Ledger, run_info
from test_bench_audit import (
    INCONSISTENT,
    RETRY,
    TOO_LITTLE,
    TOO_MUCH,
    UNJUSTIFIED,
    WINDOW,
    audit,
    change,
    found,
    random_run,
)

from bench_client.audit.judge import audit_records


@pytest.mark.parametrize("status", [400, 404, 429, 500, 502, 503, 504])
def test_an_admitted_request_that_fails_counts_as_a_request_and_no_tokens(ledger: Ledger, status: int) -> None:
    """Ten of them use the limit up; their tokens are free again a second after the answer."""
    for at_ms in range(0, 10_000, 1000):
        if status == 429:
            ledger.fail_limited(at_ms, inputs=500, cap=900)
        else:
            ledger.fail(at_ms, status, upstream_status=status, inputs=500, cap=900)
    ledger.reject(20_000, 0)
    report = audit(ledger)
    assert report.proved
    assert (report.admitted, report.failed, report.rejected, report.unknown) == (10, 10, 1, 0)
    assert "10 admitted requests failed at the upstream" in report.text()
    assert report.as_dict()["failed_upstream"] == 10
    assert [report.worst[name].used for name in report.worst] == [10, 0, 0]
    ledger.fail(30_000)
    assert audit(ledger).findings.counts[WINDOW] == 1


def test_nothing_is_said_of_failures_where_there_were_none(ledger: Ledger) -> None:
    ledger.admit(0)
    assert "upstream" not in audit(ledger).text()


def test_a_limiter_that_gives_the_request_back_is_found(ledger: Ledger) -> None:
    """By its counter at once, and when the limit is exceeded for good by the window."""
    for at_ms in range(0, 5000, 1000):
        ledger.fail(at_ms, upstream_status=500, leaves=(0, 0, 0))
    for at_ms in range(5000, 10_000, 1000):
        ledger.admit(at_ms)
    kinds = found(ledger)
    assert kinds == {TOO_LITTLE: 9}
    ledger.admit(10_000)
    report = audit(ledger)
    assert report.findings.counts[WINDOW] == 1
    (example,) = [finding for finding in report.findings.examples if finding.kind == WINDOW]
    assert "11 requests admitted in the 60 s" in example.message
    assert example.request == 10


@pytest.mark.parametrize(("later_ms", "kinds"), [(1_000, {}), (1_001, {TOO_MUCH: 2, UNJUSTIFIED: 1})])
@pytest.mark.parametrize("dimension", [1, 2])
def test_tokens_that_are_not_given_back_are_found_after_a_second(
    ledger: Ledger, dimension: int, later_ms: int, kinds: dict[str, int]
) -> None:
    """Done at 105 ms: what was sent until 1105 ms may have come before its refund."""
    inputs, cap = (700, 0) if dimension == 1 else (0, 700)
    ledger.admit(0, inputs=1, cap=1, output=1)
    ledger.fail(5, inputs=inputs, cap=cap, took_ms=100, refunded_ms=float("inf"))
    ledger.reject(105 + later_ms, dimension, requested=400)
    if kinds:
        ledger.admit(105 + later_ms, inputs=1, cap=1, output=1)
    assert found(ledger) == kinds


@pytest.mark.parametrize("leaves", [(1, 10, 0), (1, 0, 20)])
def test_tokens_kept_by_a_failed_request_show_in_the_counters_alone(
    ledger: Ledger, leaves: tuple[int, int, int]
) -> None:
    ledger.admit(0)
    ledger.fail(1000, upstream_status=503, leaves=leaves)
    ledger.admit(1900)
    assert found(ledger) == {}, "it may be on its way"
    ledger.admit(2100)
    assert found(ledger) == {TOO_MUCH: 1}


def test_a_failed_request_has_no_usage_and_may_have_no_body(ledger: Ledger) -> None:
    ledger.fail(0, error="closed", upstream_status=500, refunded_ms=float("inf"), cap=900)
    ledger.reject(5000, 2, requested=200)
    assert found(ledger) == {}


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ({"remaining_requests": 10}, TOO_LITTLE),
        ({"remaining_requests": 7}, TOO_MUCH),
        ({"remaining_output": -1}, INCONSISTENT),
        ({"reserved_output": 19}, INCONSISTENT),
        ({"limit_requests": None}, INCONSISTENT),
    ],
)
def test_what_a_failed_request_tells_is_held_against_the_others(
    ledger: Ledger, values: dict[str, Any], kind: str
) -> None:
    ledger.admit(0)
    ledger.fail(2000, upstream_status=500)
    assert found(ledger) == {}
    change(ledger, **values)
    assert found(ledger)[kind] == 1


@pytest.mark.parametrize("foreign", [{}, {"limit_requests": None, "remaining_output": None}, {"limit_requests": 0}])
def test_an_upstreams_429_says_nothing_about_our_limits(ledger: Ledger, foreign: dict[str, Any]) -> None:
    ledger.fail_limited(0, **foreign)
    for at_ms in range(1000, 9000, 1000):
        ledger.admit(at_ms)
    ledger.fail_limited(9000, **foreign)
    ledger.reject(10_000, 0)
    report = audit(ledger)
    assert report.proved, report.text()
    assert (report.failed, report.rejected) == (2, 1)
    assert report.worst["requests"][:2] == (10, 10)
    change(ledger, -2, reserved_output=None)
    assert found(ledger) == {INCONSISTENT: 1}, "our own headers are still ours"


def test_but_it_counts_and_is_held_against_the_limits_around_it(ledger: Ledger) -> None:
    for at_ms in range(0, 10_000, 1000):
        ledger.admit(at_ms)
    ledger.fail_limited(10_000)
    assert audit(ledger).findings.counts[WINDOW] == 1
    ledger.limits = (11, 1000, 1000)
    ledger.reject(11_000, 0)
    assert audit(ledger).findings.counts[WINDOW] == 0, "it may have been raised before"
    ledger.fail_limited(12_000)
    assert audit(ledger).findings.counts[WINDOW] == 1


def test_a_key_that_only_ever_met_the_upstreams_limit_has_none_that_is_known(ledger: Ledger) -> None:
    for at_ms in range(0, 20_000, 1000):
        ledger.fail_limited(at_ms)
    report = audit(ledger)
    assert report.proved
    assert report.worst == {}
    assert report.failed == 20
    assert "20 admitted requests" in report.text()


@pytest.mark.parametrize("values", [{"upstream_status": None}, {"exceeded": "gpu_seconds"}, {"time_ms": None}])
def test_a_429_that_says_neither_whose_it_is_nor_when_is_unknown(ledger: Ledger, values: dict[str, Any]) -> None:
    ledger.admit(0)
    ledger.fail_limited(10)
    change(ledger, **values)
    report = audit(ledger)
    assert (report.failed, report.rejected, report.unknown) == (0, 0, 1)


def test_a_rejection_cannot_be_the_upstreams_too(ledger: Ledger) -> None:
    ledger.admit(0, inputs=600)
    ledger.reject(10, 1, requested=500, upstream_status=429)
    assert found(ledger) == {INCONSISTENT: 1}


def test_input_that_failed_requests_give_back_makes_no_promise_a_lie(ledger: Ledger) -> None:
    ledger.admit(0, inputs=750)
    ledger.fail(1000, 503, inputs=250, took_ms=1000)
    ledger.reject(1500, 1, requested=250)
    ledger.admit(2500, inputs=250)
    assert found(ledger) == {}


def test_their_requests_are_kept_so_promises_about_those_are_held(ledger: Ledger) -> None:
    for at_ms in range(0, 10_000, 1000):
        ledger.fail(at_ms)
    ledger.reject(30_000, 0, retry_after_ms=29_999)
    assert found(ledger) == {RETRY: 1}
    change(ledger, retry_after_ms=30_101)
    ledger.admit(60_100)
    assert found(ledger) == {RETRY: 1}


@pytest.mark.parametrize("how", ["fail", "fail_limited"])
def test_what_was_admitted_without_the_store_and_failed_is_listed_so(ledger: Ledger, how: str) -> None:
    ledger.admit(0)
    getattr(ledger, how)(10, degraded="local")
    ledger.admit(2000)
    report = audit(ledger)
    assert report.proved
    assert report.degraded == {"local failed": 1}
    assert (report.admitted, report.failed) == (2, 0)
    assert report.worst_with_degraded["requests"].used == 3


@pytest.mark.parametrize("lost", [0.0, 0.08])
def test_so_is_one_in_front_of_an_upstream_that_fails(lost: float) -> None:
    report = audit_records(random_run(0, 1500, keys=3, lost=lost, upstream_fails=0.4), run_info())
    assert report.findings.counts == {}
    assert report.rejected > 100
    assert report.failed > 200
    assert (report.unknown > 0) == (lost > 0)
