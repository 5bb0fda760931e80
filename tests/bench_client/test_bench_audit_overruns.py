"""What a service tells beyond what was admitted (an overrun): told apart, in no window, and paid off before the next.

The ledger's service tells more input than was counted, or more output than was reserved; both count from the settle on.
Limits are 10 requests, 1000 input and 1000 output tokens unless said otherwise.
"""

from __future__ import annotations

from random import Random

import pytest
from bench_fakes import T0, Ledger, run_info

from bench_client.audit.judge import audit_records
from bench_client.audit.report import AuditReport
from bench_client.records.record import Record

PAID_OFF = "admitted before an overrun was paid off"
TOO_LITTLE = "counted too little"
DIMENSIONS = (1, 2)


def audit(ledger: Ledger) -> AuditReport:
    return audit_records(ledger.records, run_info())


def overrun(ledger: Ledger, dimension: int, beyond: int, at_ms: int = 0) -> Record:
    """An admission of 100 tokens in and out, of which the service told so much more."""
    more = {1: {"told": 100 + beyond}, 2: {"output": 100 + beyond}}[dimension]
    return ledger.admit(at_ms, **{"inputs": 100, "cap": 100, "output": 100, **more})


@pytest.mark.parametrize("dimension", DIMENSIONS)
def test_a_window_above_its_limit_by_an_overrun_is_none(ledger: Ledger, dimension: int) -> None:
    """200,000 tokens of a limit of 1,000: the limiter admitted 100."""
    overrun(ledger, dimension, 200_000)
    report = audit(ledger)
    assert report.proved, report.text()
    assert [fill.used for fill in report.worst.values()] == [1, 100, 100]
    assert report.as_dict()["overruns"] == {
        "requests": 1,
        "input_tokens": 200_000 if dimension == 1 else 0,
        "output_tokens": 200_000 if dimension == 2 else 0,
    }
    assert "overruns: for 1 requests the service reported more than was admitted" in report.text()


@pytest.mark.parametrize("dimension", DIMENSIONS)
def test_rejections_are_explained_by_an_overrun(ledger: Ledger, dimension: int) -> None:
    """Also of requests that came before the service had told it to its caller."""
    overrun(ledger, dimension, 900)
    ledger.reject(100, dimension, requested=1)
    ledger.reject(30_000, dimension, requested=1)
    report = audit(ledger)
    assert report.proved, report.text()
    assert report.rejections_held == 2


@pytest.mark.parametrize("dimension", DIMENSIONS)
def test_without_the_overrun_the_same_rejection_is_unjustified(ledger: Ledger, dimension: int) -> None:
    overrun(ledger, dimension, 0)
    ledger.reject(30_000, dimension, requested=1)
    assert audit(ledger).findings.counts["unjustified 429"] == 1


@pytest.mark.parametrize("dimension", DIMENSIONS)
@pytest.mark.parametrize(("beyond", "found"), [(880, {}), (881, {PAID_OFF: 1})])
def test_nothing_is_admitted_before_an_overrun_is_paid_off(
    ledger: Ledger, dimension: int, beyond: int, found: dict[str, int]
) -> None:
    """100 admitted, 880 beyond, 20 requested: that is the limit."""
    overrun(ledger, dimension, beyond)
    ledger.admit(2_000, inputs=20, cap=20)
    assert audit(ledger).findings.counts == found


@pytest.mark.parametrize("dimension", DIMENSIONS)
def test_a_need_of_nothing_does_not_wait_until_an_overrun_is_paid_off(ledger: Ledger, dimension: int) -> None:
    overrun(ledger, dimension, 5_000)
    inputs, output = (0, 20) if dimension == 1 else (20, 0)
    ledger.admit(2_000, inputs=inputs, cap=output, output=output)
    assert audit(ledger).findings.counts == {}


@pytest.mark.parametrize("dimension", DIMENSIONS)
def test_an_overrun_holds_nothing_back_before_its_settle_nor_after_its_bucket_has_gone(
    ledger: Ledger, dimension: int
) -> None:
    """The settle may take a second."""
    overrun(ledger, dimension, 5_000)
    ledger.entries[-1].settled_ms = T0 + 900
    ledger.admit(800, inputs=20, cap=20)
    ledger.admit(60_000, inputs=20, cap=20)
    assert audit(ledger).proved, audit(ledger).text()


@pytest.mark.parametrize("dimension", DIMENSIONS)
def test_an_overrun_that_was_never_counted_is_missed(ledger: Ledger, dimension: int) -> None:
    overrun(ledger, dimension, 500)
    ledger.entries[-1].told_input, ledger.entries[-1].output = 100, 100
    ledger.admit(2_000)
    assert audit(ledger).findings.counts == {TOO_LITTLE: 1}


def test_input_that_may_be_meant_explains_what_was_counted_and_asks_for_nothing(ledger: Ledger) -> None:
    """Cached input that a service tells beside its input: counted or not, both are right."""
    for counted in (100, 700):
        ledger.admit(0, inputs=100, told_input_at_most=700)
        ledger.entries[-1].told_input = counted
        ledger.admit(2_000)
        assert audit(ledger).findings.counts == {}, counted
        ledger.entries.clear()
        ledger.records.clear()


def test_where_services_overrun_a_lost_answer_may_have_done_so_too(ledger: Ledger) -> None:
    overrun(ledger, 1, 10)
    ledger.lose(100, counted=(1, 850, 10))
    ledger.admit(200, inputs=20)
    assert audit(ledger).proved, audit(ledger).text()


def random_run(seed: int, *, forgives: bool = False) -> list[Record]:
    """An exact limiter's records before a service that often tells more; one that forgives never counts that."""
    rng, ledger, at_ms = Random(seed), Ledger(limits=(60, 3000, 3000)), 0
    for _ in range(450):
        at_ms += int(rng.expovariate(1 / 250))
        inputs, cap = rng.randrange(1, 120), rng.randrange(1, 120)
        used = ledger.used(T0 + at_ms)
        over = [d for d, need in enumerate((1, inputs, cap)) if used[d] + need > ledger.limits[d]]
        if over:
            retries = {d: ledger.retry_after_ms(at_ms, d, (1, inputs, cap)[d]) for d in over}
            last = max(over, key=lambda d: retries[d])
            ledger.reject(at_ms, last, requested=(1, inputs, cap)[last], cap=cap)
            continue
        told = inputs + (rng.randrange(2_000) if rng.random() < 0.1 else 0)
        output = cap + rng.randrange(2_000) if rng.random() < 0.1 else rng.randrange(1, cap + 1)
        ledger.admit(at_ms, inputs=inputs, cap=cap, told=told, output=output, took_ms=rng.expovariate(1 / 500))
        ledger.entries[-1].settled_ms += rng.uniform(0, 900)
        if forgives:
            ledger.entries[-1].told_input, ledger.entries[-1].output = 0, min(output, cap)
    rng.shuffle(ledger.records)
    return ledger.records


@pytest.mark.parametrize("seed", range(4))
def test_an_exact_limiter_before_a_service_that_overruns_is_proved(seed: int) -> None:
    report = audit_records(random_run(seed), run_info())
    assert report.findings.counts == {}, report.text()
    assert report.rejected > 30
    assert report.overruns.requests > 5


@pytest.mark.parametrize("seed", range(3))
def test_one_that_forgives_overruns_is_refuted(seed: int) -> None:
    kinds = audit_records(random_run(seed, forgives=True), run_info()).findings.counts
    assert kinds[TOO_LITTLE]
    assert kinds[PAID_OFF]
