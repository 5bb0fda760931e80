"""The audit on hand-made records: what is right is proved, and each way of being wrong is found, exactly.

The ledger gives every record the figures of an exact limiter; tests decide what was admitted when. Limits are 10
requests, 1000 input and 1000 output tokens unless said otherwise.
"""

from __future__ import annotations

from random import Random
from time import perf_counter
from typing import Any

import pytest
from bench_fakes import KEY, T0, Ledger, run_info

from bench_client.audit.completeness import Completeness
from bench_client.audit.judge import audit_records
from bench_client.audit.report import AuditReport
from bench_client.errors import BenchError

WINDOW = "window over the limit"
UNJUSTIFIED = "unjustified 429"
TOO_MUCH = "counted too much"
TOO_LITTLE = "counted too little"
INCONSISTENT = "inconsistent response"
RETRY = "dishonest retry-after"


def audit(ledger: Ledger, **changes: Any) -> AuditReport:
    return audit_records(ledger.records, run_info(), **changes)


def found(ledger: Ledger, **changes: Any) -> dict[str, int]:
    return dict(audit(ledger, **changes).findings.counts)


def change(ledger: Ledger, index: int = -1, **values: Any) -> None:
    ledger.records[index] = ledger.records[index]._replace(**values)


# ---- windows --------------------------------------------------------------------------------------------------------


def test_a_clean_run_is_proved(ledger: Ledger) -> None:
    for at_ms in range(0, 10_000, 1000):
        ledger.admit(at_ms)
    ledger.reject(10_000, 0)
    report = audit(ledger)
    assert report.proved
    assert (report.admitted, report.rejected, report.rejections_held, report.windows, report.keys) == (10, 1, 1, 10, 1)
    assert report.verdict.startswith("audit: PROVED no 60 s window over its limit (10 windows, 1 keys), 1 of 1 ")


# what one admission counts, and how many of them reach the limit exactly
FILLING = {
    "requests": ({"inputs": 1, "cap": 1, "output": 1}, 10),
    "input_tokens": ({"inputs": 250, "cap": 1, "output": 1}, 4),
    "output_tokens": ({"inputs": 1, "cap": 200, "output": 200}, 5),
}


@pytest.mark.parametrize("dimension", FILLING)
def test_exactly_at_the_limit_is_allowed_and_one_more_is_a_violation(ledger: Ledger, dimension: str) -> None:
    need, count = FILLING[dimension]
    for index in range(count):
        ledger.admit(index * 1000, **need)
    report = audit(ledger)
    assert report.proved
    assert report.worst[dimension].ratio == 1.0
    ledger.admit(59_998, inputs=1, cap=1, output=1)
    report = audit(ledger)
    assert report.findings.counts[WINDOW] == 1
    (example,) = [finding for finding in report.findings.examples if finding.kind == WINDOW]
    assert dimension in example.message
    assert example.request == count
    worst = report.worst[dimension]
    assert (worst.used, worst.limit, worst.key, worst.time_ms) == (worst.limit + 1, worst.limit, KEY, T0 + 59_998)


@pytest.mark.parametrize("dimension", FILLING)
def test_events_a_whole_window_apart_are_never_in_the_same_one(dimension: str) -> None:
    """The window's edge, from both sides: at 60000 ms the first no longer counts, at 59999 ms it does."""
    need = FILLING[dimension][0]
    limits = {"requests": (1, 9999, 9999), "input_tokens": (9, 250, 9999), "output_tokens": (9, 9999, 200)}[dimension]
    for later_ms, violations in ((60_000, 0), (59_999, 1)):
        ledger = Ledger(limits=limits)
        ledger.admit(7, **need)
        ledger.admit(7 + later_ms, **need)
        assert audit(ledger).findings.counts[WINDOW] == violations


@pytest.mark.parametrize(("later_ms", "violations"), [(5_000, 0), (4_999, 1)])
def test_a_limiter_under_test_may_have_a_shorter_window(later_ms: int, violations: int) -> None:
    ledger = Ledger(limits=(1, 9999, 9999), window_ms=5_000)
    ledger.admit(7)
    ledger.admit(7 + later_ms)
    report = audit(ledger, window_ms=5_000)
    assert report.findings.counts[WINDOW] == violations
    assert report.verdict.startswith("audit: PROVED no 5 s window" if not violations else "audit: REFUTED")
    assert audit(ledger).findings.counts[WINDOW] == 1, "the real window is longer"


@pytest.mark.parametrize("later_ms", [5_101, 5_000])
def test_rejections_are_held_against_the_shorter_window(later_ms: int) -> None:
    ledger = Ledger(limits=(1, 9999, 9999), window_ms=5_000)
    ledger.admit(0)
    ledger.reject(later_ms, 0)
    assert found(ledger, window_ms=5_000).get(UNJUSTIFIED, 0) == (later_ms > 5_100)


def test_output_counts_as_produced_not_as_reserved(ledger: Ledger) -> None:
    for at_ms in range(0, 9000, 1000):
        ledger.admit(at_ms, cap=900, output=100)
    assert found(ledger) == {}
    assert audit(ledger).worst["output_tokens"].used == 900


def test_keys_are_windows_of_their_own(ledger: Ledger) -> None:
    other = Ledger(key="ba9876543210")
    for at_ms in range(0, 10_000, 1000):
        ledger.admit(at_ms)
        other.admit(at_ms)
    report = audit_records(ledger.records + other.records, run_info())
    assert report.proved
    assert report.keys == 2


def test_a_window_is_held_against_the_limit_at_its_newest_admission(ledger: Ledger) -> None:
    for at_ms in range(0, 8000, 1000):
        ledger.admit(at_ms)
    ledger.limits = (20, 1000, 1000)
    for at_ms in range(8000, 16_000, 1000):
        ledger.admit(at_ms)
    assert found(ledger) == {}
    ledger.limits = (10, 1000, 1000)
    ledger.reject(20_000, 0)  # 16 in use, none left: announced as 10 of 10
    assert found(ledger) == {}
    ledger.admit(21_000)
    assert audit(ledger).findings.counts[WINDOW] == 1


def test_what_needs_no_output_is_admitted_after_its_limit_was_lowered(ledger: Ledger) -> None:
    for at_ms in range(0, 8000, 1000):
        ledger.admit(at_ms)
    ledger.limits = (10, 1000, 100)
    ledger.admit(9_000, cap=0, output=0)
    assert found(ledger) == {}
    ledger.admit(10_000, cap=1, output=1)
    assert audit(ledger).findings.counts[WINDOW] == 1


def test_within_one_millisecond_the_order_is_unknown_and_the_sum_counts_once(ledger: Ledger) -> None:
    for _ in range(11):
        ledger.admit(5)
    assert audit(ledger).findings.counts[WINDOW] == 1


def test_a_lowered_limit_holds_from_the_next_admission_on(ledger: Ledger) -> None:
    ledger.limits = (20, 1000, 1000)
    for at_ms in range(0, 15_000, 1000):
        ledger.admit(at_ms)
    ledger.limits = (10, 1000, 1000)
    assert found(ledger) == {}
    ledger.admit(20_000)
    assert audit(ledger).findings.counts[WINDOW] == 1


def test_of_two_limits_in_one_millisecond_the_larger_is_taken(ledger: Ledger) -> None:
    ledger.limits = (1, 1000, 1000)
    ledger.admit(5)
    ledger.limits = (2, 1000, 1000)
    ledger.admit(5)
    assert audit(ledger).findings.counts[WINDOW] == 0


# ---- rejections -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("dimension", "name"), list(enumerate(FILLING)))
def test_a_rejection_at_the_very_limit_is_justified_and_one_below_is_not(dimension: int, name: str) -> None:
    need, count = FILLING[name]
    ledger = Ledger()
    for index in range(count - 1):
        ledger.admit(index * 10, **need)
    fits = (1, 250, 200)[dimension]
    ledger.reject(5000, dimension, requested=fits, retry_after_ms=1)
    assert audit(ledger).findings.counts[UNJUSTIFIED] == 1
    ledger.records.pop()
    if dimension:
        ledger.reject(5000, dimension, requested=fits + 1)
    else:
        ledger.admit(4000, inputs=1, cap=1, output=1)
        ledger.reject(5000, dimension)
    assert found(ledger) == {}


@pytest.mark.parametrize("dimension", [0, 1, 2])
def test_only_the_binding_dimension_can_justify(dimension: int) -> None:
    ledger = Ledger()
    other = (dimension + 1) % 3
    need, count = list(FILLING.values())[other]
    for index in range(count):
        ledger.admit(index * 10, **need)
    ledger.reject(5000, dimension, requested=1, retry_after_ms=1)
    assert audit(ledger).findings.counts[UNJUSTIFIED] == 1


@pytest.mark.parametrize(("later_ms", "justified"), [(60_000, True), (60_100, True), (60_101, False)])
def test_rejections_may_be_late_by_a_bucket_and_no_more(later_ms: int, justified: bool) -> None:
    ledger = Ledger(limits=(1, 1000, 1000))
    ledger.admit(99)
    ledger.reject(99 + later_ms, 0, retry_after_ms=1, remaining_requests=0)
    assert (audit(ledger).findings.counts[UNJUSTIFIED] == 0) == justified


def test_the_reservation_justifies_until_the_settle_is_surely_applied(ledger: Ledger) -> None:
    """The response is done at 105 ms: a request sent at 1105 ms may have come before its settle, at 1106 ms not."""
    ledger.admit(5, cap=900, output=10, took_ms=100)
    ledger.entries[0].settled_ms = float("inf")  # a limiter that never settles
    ledger.reject(1105, 2, requested=200)
    assert found(ledger) == {}
    ledger.reject(1106, 2, requested=200)
    assert found(ledger) == {UNJUSTIFIED: 1, TOO_MUCH: 1}


def test_the_grace_counts_from_when_the_client_had_sent_not_from_the_decision(ledger: Ledger) -> None:
    ledger.admit(5, cap=900, output=10, took_ms=100)
    ledger.entries[0].settled_ms = float("inf")
    ledger.reject(3000, 2, requested=200, sent_us=1_000_000)
    assert found(ledger) == {}


def test_an_admission_after_the_rejection_does_not_justify_it(ledger: Ledger) -> None:
    ledger.reject(1000, 1, requested=500, retry_after_ms=1, remaining_input=100)
    ledger.admit(1001, inputs=900)
    assert audit(ledger).findings.counts[UNJUSTIFIED] == 0  # the first decision tells of usage from before the run
    ledger.records.clear()
    ledger.entries.clear()
    ledger.admit(0, inputs=1)
    ledger.reject(1000, 1, requested=500, retry_after_ms=1)
    ledger.admit(1001, inputs=900)
    assert audit(ledger).findings.counts[UNJUSTIFIED] == 1


def test_an_admission_in_the_same_millisecond_does(ledger: Ledger) -> None:
    ledger.admit(0, inputs=1)
    ledger.admit(1000, inputs=900)
    ledger.reject(1000, 1, requested=500)
    assert found(ledger) == {}


def test_what_can_never_fit_must_be_larger_than_the_limit(ledger: Ledger) -> None:
    ledger.reject(0, 1, requested=1001, never_fits=True, retry_after_ms=None)
    ledger.reject(10, 2, requested=1001, never_fits=True, retry_after_ms=None)
    assert found(ledger) == {}
    ledger.reject(20, 1, requested=1000, never_fits=True, retry_after_ms=None)
    assert found(ledger) == {UNJUSTIFIED: 1}


# ---- usage from before the run --------------------------------------------------------------------------------------


@pytest.mark.parametrize("first", ["admitted", "rejected"])
def test_what_was_in_use_before_the_run_justifies(ledger: Ledger, first: str) -> None:
    ledger.carry(-50, 5, 900, 700)
    if first == "admitted":
        ledger.admit(1000, inputs=50)
    else:
        ledger.reject(1000, 1, requested=200)
    ledger.reject(2000, 1, requested=200)
    ledger.reject(2010, 2, requested=301)
    assert found(ledger) == {}


def test_it_does_so_for_no_longer_than_a_window() -> None:
    for later_ms, justified in ((60_100, True), (60_101, False)):
        ledger = Ledger()
        ledger.carry(0, 0, 900, 0)
        ledger.admit(1, inputs=50)
        ledger.reject(later_ms + 1, 1, requested=200, retry_after_ms=1)
        assert (audit(ledger).findings.counts[UNJUSTIFIED] == 0) == justified


def test_it_is_no_more_than_the_first_decision_says(ledger: Ledger) -> None:
    ledger.carry(0, 0, 700, 0)
    ledger.admit(100, inputs=50)
    ledger.reject(200, 1, requested=250, retry_after_ms=1)
    assert found(ledger)[UNJUSTIFIED] == 1


def test_it_is_never_held_against_the_limiter(ledger: Ledger) -> None:
    ledger.carry(0, 10, 1000, 1000)
    ledger.admit(60_101)
    assert found(ledger) == {}


def test_none_left_may_mean_more_than_the_limit(ledger: Ledger) -> None:
    """Before the run the limit was lowered below what was in use; then it is raised again."""
    ledger.carry(0, 0, 1500, 0)
    ledger.reject(1000, 1, requested=100)
    ledger.limits = (10, 1600, 1000)
    ledger.reject(2000, 1, requested=200)
    assert found(ledger) == {}


def test_the_first_decision_is_the_first_of_the_store_not_of_the_file(ledger: Ledger) -> None:
    ledger.carry(0, 0, 900, 0)
    ledger.reject(1000, 1, requested=200)
    ledger.reject(2000, 1, requested=200)
    ledger.records.reverse()
    ledger.reject(61_500, 1, requested=200, retry_after_ms=1)
    assert audit(ledger).findings.counts[UNJUSTIFIED] == 1


# ---- unknown outcomes -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "lost", [{"error": "timeout"}, {"error": "reset"}, {"error": None, "status": 503}, {"error": None, "status": 500}]
)
def test_unknown_outcomes_justify_but_never_violate(ledger: Ledger, lost: dict[str, Any]) -> None:
    for at_ms in range(0, 9000, 1000):
        ledger.admit(at_ms)
    ledger.lose(9000, counted=(1, 10, 20), **lost)
    ledger.reject(9500, 0)
    report = audit(ledger)
    assert report.proved
    assert report.unknown == 1
    for at_ms in range(61_000, 70_000, 1000):
        ledger.lose(at_ms)
    assert audit(ledger).findings.counts[WINDOW] == 0


def test_an_unknown_request_without_a_cap_may_have_reserved_anything(ledger: Ledger) -> None:
    ledger.admit(0)
    ledger.lose(10, counted=(1, 10, 500), max_tokens=None)
    ledger.reject(100, 2, requested=600)
    assert found(ledger) == {}


def test_or_the_keys_reserve_where_another_request_tells_it(ledger: Ledger) -> None:
    ledger.admit(0, cap=None, reserved=100, output=10)
    ledger.lose(10, counted=(1, 10, 100), max_tokens=None)
    ledger.reject(100, 2, requested=900)
    assert found(ledger) == {}
    ledger.reject(200, 2, requested=700, retry_after_ms=1, remaining_output=690)
    assert found(ledger)[UNJUSTIFIED] == 1


@pytest.mark.parametrize(
    "refused", [{"error": None, "status": 400}, {"error": None, "status": 401}, {"error": "connect", "sent_us": None}]
)
def test_what_was_surely_not_admitted_justifies_nothing(ledger: Ledger, refused: dict[str, Any]) -> None:
    ledger.admit(0)
    for at_ms in range(10, 300, 10):
        ledger.lose(at_ms, **refused)
    ledger.reject(1000, 0, retry_after_ms=1)
    assert audit(ledger).findings.counts[UNJUSTIFIED] == 1
    assert audit(ledger).unknown == 0


def test_a_lost_request_sent_after_the_rejection_justifies_nothing(ledger: Ledger) -> None:
    for at_ms in range(0, 9000, 1000):
        ledger.admit(at_ms)
    ledger.reject(9500, 0, retry_after_ms=1, took_ms=10)
    ledger.lose(9511)
    assert audit(ledger).findings.counts[UNJUSTIFIED] == 1


@pytest.mark.parametrize(("later_ms", "justified"), [(70_150, True), (70_151, False)])
def test_a_lost_request_stops_justifying_some_time_after_its_window(later_ms: int, justified: bool) -> None:
    """Given up at 50 ms, it may have been admitted up to 10 s later, and then counts for 60.1 s."""
    ledger = Ledger(limits=(1, 1000, 1000))
    ledger.lose(0, took_ms=50)
    ledger.reject(2, 1, requested=2000, never_fits=True, retry_after_ms=None)  # tells that nothing was in use before
    ledger.reject(later_ms, 0, retry_after_ms=1, remaining_requests=0)
    assert (audit(ledger).findings.counts[UNJUSTIFIED] == 0) == justified


def test_an_admission_whose_body_was_lost_counts_as_one_request_at_least(ledger: Ledger) -> None:
    for at_ms in range(0, 10_000, 1000):
        ledger.admit(at_ms)
    ledger.admit(11_000, error="closed", prompt_tokens=None, completion_tokens=None)
    assert audit(ledger).findings.counts[WINDOW] == 1


def test_an_admission_whose_body_was_lost_may_keep_its_reservation(ledger: Ledger) -> None:
    ledger.admit(5, cap=900, took_ms=100, error="closed", prompt_tokens=None, completion_tokens=None)
    ledger.entries[0].settled_ms = float("inf")
    ledger.reject(5000, 2, requested=200)
    assert found(ledger) == {}


# ---- counters -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("at_ms", "found_too_much"), [(30, 0), (60, 1)])
def test_a_decision_that_is_told_again_may_tell_the_counters_of_then(
    ledger: Ledger, at_ms: int, found_too_much: int
) -> None:
    """Its first reply was lost; what was admitted until it was answered may be counted in what it tells."""
    ledger.admit(0)
    told = ledger.admit(10, took_ms=30)
    ledger.admit(10 + at_ms)
    assert told.remaining_requests is not None
    change(ledger, 1, remaining_requests=told.remaining_requests - 1)
    assert found(ledger).get(TOO_MUCH, 0) == found_too_much


@pytest.mark.parametrize("field", ["remaining_requests", "remaining_input", "remaining_output"])
def test_a_counter_that_counts_more_than_there_was_is_found(ledger: Ledger, field: str) -> None:
    ledger.admit(0)
    record = ledger.admit(10)
    change(ledger, **{field: getattr(record, field) - 1})
    assert found(ledger) == {TOO_MUCH: 1}


@pytest.mark.parametrize("field", ["remaining_requests", "remaining_input", "remaining_output"])
def test_a_counter_that_forgot_something_is_found(ledger: Ledger, field: str) -> None:
    ledger.admit(0)
    record = ledger.admit(10)
    change(ledger, **{field: getattr(record, field) + 1})
    assert found(ledger) == {TOO_LITTLE: 1}


def test_a_counter_still_has_what_is_less_than_a_window_old(ledger: Ledger) -> None:
    ledger.admit(0)
    record = ledger.admit(59_999)
    assert found(ledger) == {}
    assert record.remaining_requests is not None
    change(ledger, remaining_requests=record.remaining_requests + 1)
    assert found(ledger) == {TOO_LITTLE: 1}


def test_a_window_that_forgets_too_early_is_found_before_it_admits_too_much() -> None:
    """A limiter that counts 599 buckets: its counter shows the loss although no limit is near."""
    ledger = Ledger(limits=(1000, 100_000, 100_000))
    ledger.admit(0)
    record = ledger.admit(59_950)
    assert record.remaining_requests is not None
    change(ledger, remaining_requests=record.remaining_requests + 1)
    assert found(ledger) == {TOO_LITTLE: 1}


# ---- responses ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "kinds"),
    [
        ({"reserved_output": 19, "max_tokens": 19, "remaining_output": 982}, {TOO_LITTLE: 1}),
        ({"max_tokens": 30}, {INCONSISTENT: 1}),
        ({"reserved_output": None}, {INCONSISTENT: 1}),
        ({"completion_tokens": None}, {INCONSISTENT: 1}),
        ({"remaining_requests": -1}, {INCONSISTENT: 1}),
        ({"remaining_requests": 11}, {INCONSISTENT: 1, TOO_LITTLE: 1}),
    ],
)
def test_admissions_that_contradict_themselves(ledger: Ledger, values: dict[str, Any], kinds: dict[str, int]) -> None:
    ledger.admit(0)
    change(ledger, **values)
    assert found(ledger) == kinds


@pytest.mark.parametrize(
    "values",
    [
        {"remaining_input": 500},
        {"requested": None},
        {"retry_after_ms": None},
        {"requested": 1001},
        {"requested": 1001, "never_fits": True},
    ],
)
def test_rejections_that_contradict_themselves(ledger: Ledger, values: dict[str, Any]) -> None:
    ledger.admit(0, inputs=600)
    ledger.reject(10, 1, requested=500)
    assert found(ledger) == {}
    change(ledger, **values)
    assert found(ledger)[INCONSISTENT] >= 1


def test_a_message_that_names_another_reservation(ledger: Ledger) -> None:
    ledger.admit(0, cap=600, output=600)
    ledger.reject(10, 2, requested=500)
    change(ledger, requested=499)
    assert found(ledger) == {INCONSISTENT: 1}


def test_a_success_that_does_not_say_when_it_was_decided(ledger: Ledger) -> None:
    ledger.admit(0)
    ledger.admit(10, time_ms=None)
    report = audit(ledger)
    assert dict(report.findings.counts) == {"success without a decision": 1}
    assert not report.proved


# ---- retry-after ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("dimension", "name"), list(enumerate(FILLING)))
def test_a_promise_too_short_to_be_kept_is_found(dimension: int, name: str) -> None:
    need, count = FILLING[name]
    ledger = Ledger()
    for index in range(count):
        ledger.admit(index * 1000, **need)
    record = ledger.reject(30_000, dimension, requested=(1, 250, 200)[dimension])
    assert record.retry_after_ms == 30_100
    assert found(ledger) == {}
    change(ledger, retry_after_ms=30_000)  # true, if buckets were infinitely small
    assert found(ledger) == {}
    change(ledger, retry_after_ms=29_999)
    assert found(ledger) == {RETRY: 1}


@pytest.mark.parametrize("dimension", [0, 1])
def test_a_promise_too_long_is_found_when_another_request_gets_in_earlier(dimension: int) -> None:
    need, count = list(FILLING.values())[dimension]
    requested = (1, 250)[dimension]
    ledger = Ledger()
    for index in range(count):
        ledger.admit(index * 1000, **need)
    ledger.reject(30_000, dimension, requested=requested)
    ledger.admit(60_100, **need)  # the moment promised
    assert found(ledger) == {}
    change(ledger, -2, retry_after_ms=30_101)
    assert found(ledger) == {RETRY: 1}
    if dimension:
        change(ledger, -1, prompt_tokens=requested - 1)  # a smaller need may have fit earlier
        assert RETRY not in found(ledger)


@pytest.mark.parametrize("needs", [(250, 10), (10, 250), (300, 250), (250, 300)])
def test_whichever_of_several_later_requests_got_in_too_early(needs: tuple[int, int]) -> None:
    ledger = Ledger(limits=(100, 1000, 1000))
    for at_ms in range(0, 4000, 1000):
        ledger.admit(at_ms, inputs=250)
    ledger.reject(30_000, 1, requested=250, retry_after_ms=33_000)
    ledger.admit(61_200, inputs=needs[0])
    ledger.admit(62_300, inputs=needs[1])
    assert found(ledger) == {RETRY: 1}


def test_input_given_back_by_a_failed_request_makes_no_promise_a_lie(ledger: Ledger) -> None:
    ledger.admit(0, inputs=750)
    ledger.lose(1000, counted=(1, 250, 0), error=None, status=503, input_tokens=250)
    ledger.reject(1500, 1, requested=250)
    ledger.entries[-1].amounts = (1, 0, 0)
    ledger.admit(2500, inputs=250)
    assert found(ledger) == {}


def test_output_that_is_settled_early_makes_no_promise_a_lie(ledger: Ledger) -> None:
    ledger.admit(0, cap=1000, output=10, took_ms=2000)
    ledger.reject(1000, 2, requested=100)
    ledger.admit(2500, cap=900, output=900)
    assert found(ledger) == {}


def test_a_changed_limit_makes_no_promise_a_lie(ledger: Ledger) -> None:
    for at_ms in range(0, 10_000, 1000):
        ledger.admit(at_ms)
    ledger.reject(20_000, 0)
    ledger.limits = (20, 1000, 1000)
    ledger.admit(21_000)
    assert found(ledger) == {}


@pytest.mark.parametrize(("last_ms", "slid"), [(59_999, False), (60_000, True)])
def test_a_run_shorter_than_a_window_says_that_none_has_slid(ledger: Ledger, last_ms: int, slid: bool) -> None:
    """It is proved all the same."""
    ledger.admit(0)
    ledger.admit(last_ms)
    report = audit(ledger)
    assert report.proved
    assert ("no 60 s window has slid: the decisions span 59.9 s" in report.text()) is not slid
    assert report.as_dict()["span_ms"] == last_ms


# ---- decisions without the store, runs cut off, nothing at all -------------------------------------------------------


def test_degraded_decisions_are_listed_apart_and_can_justify_later_ones(ledger: Ledger) -> None:
    for at_ms in range(0, 9000, 1000):
        ledger.admit(at_ms)
    for at_ms in range(9000, 12_000, 1000):
        ledger.admit(at_ms, degraded="local")
    ledger.reject(12_000, 0, degraded="local")
    ledger.reject(20_000, 0)
    report = audit(ledger)
    assert report.proved
    assert report.degraded == {"local 200": 3, "local 429": 1}
    assert (report.admitted, report.rejected) == (9, 1)
    assert report.worst["requests"].used == 9
    assert report.worst_with_degraded["requests"].used == 12
    assert "degraded decisions (local 200)" in report.text()


@pytest.mark.parametrize(("later_ms", "kinds"), [(5_000, {}), (12_000, {TOO_MUCH: 1})])
def test_what_was_rejected_without_the_store_may_count_there_until_it_is_given_back(
    ledger: Ledger, later_ms: int, kinds: dict[str, int]
) -> None:
    ledger.admit(0)
    ledger.reject(1_000, 0, degraded="local")
    told = ledger.admit(1_000 + later_ms)
    assert told.remaining_requests is not None
    change(ledger, remaining_requests=told.remaining_requests - 1)
    assert found(ledger) == kinds


def test_what_a_store_forgot_while_it_was_away_is_not_held_against_the_counters(ledger: Ledger) -> None:
    ledger.admit(0)
    ledger.admit(10, degraded="local")
    ledger.entries.clear()
    ledger.admit(20)
    assert found(ledger) == {}


def test_degraded_decisions_without_figures_are_taken(ledger: Ledger) -> None:
    ledger.admit(0)
    ledger.admit(10, degraded="open", time_ms=None, limit_requests=None)
    assert audit(ledger).degraded == {"open 200": 1}


def test_of_a_run_cut_off_late_rejections_are_not_held_against_the_bounds(ledger: Ledger) -> None:
    """A timeout of 10 s: what is missing from the end was sent at most 11 s before the last request done."""
    ledger.admit(0)
    ledger.reject(5000, 0, retry_after_ms=1)
    ledger.admit(15_900)
    killed = Completeness(("killed",), only_the_end_is_missing=True)
    assert UNJUSTIFIED not in found(ledger, complete=killed)
    assert "not complete (killed): 0 of 1 rejections" in audit(ledger, complete=killed).text()
    ledger.admit(16_500)
    assert found(ledger, complete=killed)[UNJUSTIFIED] == 1
    assert UNJUSTIFIED not in found(ledger, complete=Completeness(("a hole",))), "anything may be missing before it"
    assert found(ledger)[UNJUSTIFIED] == 1


@pytest.mark.parametrize("records", [[], [{"error": "timeout"}], [{"error": None, "status": 503}]])
def test_nothing_decided_is_nothing_to_audit(ledger: Ledger, records: list[dict[str, Any]]) -> None:
    for lost in records:
        ledger.lose(0, **lost)
    with pytest.raises(BenchError, match="nothing to audit"):
        audit(ledger)


def test_the_report_shows_the_first_findings_and_counts_them_all(ledger: Ledger) -> None:
    for at_ms in range(0, 40_000, 1000):
        ledger.admit(at_ms)
    report = audit(ledger)
    assert report.findings.counts[WINDOW] == 30
    text = report.text()
    assert text.count(WINDOW + ":") == 5
    assert f"alice ({KEY})" in text
    assert report.verdict == "audit: REFUTED 30 windows over the limit"
    document = report.as_dict()
    assert document["violations"] == 30
    assert document["proved"] is False


# ---- an exact limiter under random load ------------------------------------------------------------------------------


def random_run(seed: int, requests: int, keys: int, *, lost: float = 0.08, upstream_fails: float = 0.0) -> list[Any]:
    """Records of an exact limiter: random needs, slow and fast responses, some lost, usage from before the run."""
    rng = Random(seed)
    ledgers = [Ledger(limits=(40, 2000, 3000), key=f"{i:012x}") for i in range(keys)]
    for ledger in ledgers:
        ledger.carry(-rng.randrange(50_000), rng.randrange(20), rng.randrange(1000), rng.randrange(1000))
    at_ms, order = 0, []
    for _ in range(requests):
        at_ms += int(rng.expovariate(1 / 200))
        ledger = rng.choice(ledgers)
        inputs, cap, took_ms = rng.randrange(1, 150), rng.randrange(1, 300), rng.expovariate(1 / 500)
        used = ledger.used(T0 + at_ms)
        over = [d for d, need in enumerate((1, inputs, cap)) if used[d] + need > ledger.limits[d]]
        if over:
            retries = {d: ledger.retry_after_ms(at_ms, d, (1, inputs, cap)[d]) for d in over}
            last = max(over, key=lambda d: retries[d])
            ledger.reject(at_ms, last, requested=(1, inputs, cap)[last], cap=cap)
        elif rng.random() < upstream_fails:
            how = rng.choice([ledger.fail, ledger.fail_limited])
            how(at_ms, inputs=inputs, cap=cap, took_ms=took_ms, refunded_ms=rng.uniform(0, 900))
        elif rng.random() < lost:
            ledger.lose(at_ms, counted=(1, inputs, cap), max_tokens=cap, input_tokens=inputs)
        else:
            ledger.admit(at_ms, inputs=inputs, cap=cap, output=rng.randrange(1, cap + 1), took_ms=took_ms)
        order.append(ledger.records[-1])
    rng.shuffle(order)  # records come in the order in which requests were done
    return order


@pytest.mark.parametrize("seed", range(4))
def test_an_exact_limiter_is_proved_whatever_the_load(seed: int) -> None:
    records = random_run(seed, 1500, keys=3)
    report = audit_records(records, run_info())
    assert report.findings.counts == {}
    assert report.rejected > 100
    assert report.unknown >= 5


def test_many_records_are_audited_in_good_time() -> None:
    """Linear but for a logarithm: ten thousand times a key's records must not take its square."""
    ledger = Ledger(limits=(10**6, 10**9, 10**9))
    template, rejection = ledger.admit(0, cap=50), ledger.reject(1, 2, requested=2 * 10**9, never_fits=True)
    records = []
    for i in range(30_000):
        kind = template if i % 3 else rejection._replace(retry_after_ms=None)
        records.append(
            kind._replace(request=i, time_ms=T0 + i, sent_us=i * 1000, done_us=i * 1000 + 500, remaining_requests=0)
        )
    started = perf_counter()
    audit_records(records, run_info())
    assert perf_counter() - started < 10
