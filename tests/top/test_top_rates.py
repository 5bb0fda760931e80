"""From pages of metrics to rates: what is counted between two samples, and never less than nothing."""

from __future__ import annotations

from dataclasses import replace
from math import inf

import pytest

from limiter_node.top.rates import Quantile, difference, mean, quantile, rates, together
from limiter_node.top.sample import NOTHING, Histogram, NodeSample, NotOurs, read_sample

PAGE = """\
# TYPE limiter_build_info gauge
limiter_build_info{version="0.1.0",node="n1"} 1.0
# TYPE limiter_decisions_total counter
limiter_decisions_total{outcome="admitted",reason="none"} 70
limiter_decisions_total{reason="requests",outcome="rejected"} 30
# TYPE limiter_degraded_decisions_total counter
limiter_degraded_decisions_total{outcome="refused"} 4
# TYPE limiter_decision_seconds histogram
limiter_decision_seconds_bucket{le="0.0001"} 10
limiter_decision_seconds_bucket{le="0.0002"} 60
limiter_decision_seconds_bucket{le="+Inf"} 100
limiter_decision_seconds_sum 0.5
limiter_decision_seconds_count 100
# TYPE limiter_batch_operations histogram
limiter_batch_operations_bucket{le="1.0"} 40
limiter_batch_operations_bucket{le="+Inf"} 50
limiter_batch_operations_sum 75
# TYPE limiter_shard_call_seconds histogram
limiter_shard_call_seconds_bucket{shard="h:1",le="0.0001"} 5
limiter_shard_call_seconds_bucket{le="+Inf",shard="h:1"} 8
# TYPE limiter_shard_cut_off gauge
limiter_shard_cut_off{shard="h:1"} 0
limiter_shard_cut_off{shard="h:2"} 1
limiter_shards_cut_off 1
limiter_live_nodes 3
limiter_waiting_requests 2
limiter_requests_in_flight 5
# TYPE limiter_responses_total counter
limiter_responses_total{code="200"} 70
limiter_responses_total{code="429"} 30
limiter_shed_requests_total 1
limiter_input_tokens_total 700
process_cpu_seconds_total 1.5
process_resident_memory_bytes 1e8
process_start_time_seconds 1000.5
"""


def test_a_page_is_read_whatever_the_order_of_its_labels() -> None:
    assert read_sample(PAGE, 12.0) == NodeSample(
        at_s=12.0,
        node="n1",
        version="0.1.0",
        started_s=1000.5,
        cpu_s=1.5,
        memory_bytes=1e8,
        decisions={("admitted", "none"): 70, ("rejected", "requests"): 30},
        degraded={"refused": 4},
        responses=100,
        shed=1,
        tokens={"input": 700},
        latency=Histogram((0.0001, 0.0002, inf), (10, 50, 40), 0.5),
        batches=Histogram((1, inf), (40, 10), 75),
        shard_calls={"h:1": Histogram((0.0001, inf), (5, 3), 0)},
        cut_off=frozenset({"h:2"}),
        shards_cut_off=1,
        requests_in_flight=5,
        waiting=2,
        live_nodes=3,
    )


def test_what_a_node_does_not_tell_is_absent() -> None:
    sample = read_sample("limiter_shards_cut_off 0\n", 1.0)
    assert sample == NodeSample(1.0)
    assert (sample.cpu_s, sample.live_nodes, sample.latency) == (None, None, NOTHING)


@pytest.mark.parametrize(
    ("page", "reason"),
    [
        ("<html>", "not Prometheus text"),
        ("go_goroutines 7\n", "its metrics are not a limiter's"),
        ("", "its metrics are not a limiter's"),
        ('limiter_decisions_total{outcome="admitted"} 1\n', "other labels"),
        ('limiter_decision_seconds_bucket{le="x"} 1\n', "other labels"),
    ],
)
def test_what_is_no_nodes_page_is_told(page: str, reason: str) -> None:
    with pytest.raises(NotOurs, match=reason):
        read_sample(page, 1.0)


def sample(at_s: float, **values: object) -> NodeSample:
    return replace(read_sample(PAGE, at_s), **values)  # type: ignore[arg-type]


def test_rates_are_differences_over_the_time_between() -> None:
    later = sample(
        14.0,
        decisions={("admitted", "none"): 90, ("rejected", "requests"): 30, ("rejected", "input_tokens"): 6},
        degraded={"refused": 4, "admitted": 2},
        responses=126,
        cpu_s=2.5,
        tokens={"input": 900},
        latency=Histogram((0.0001, 0.0002, inf), (10, 60, 40), 0.502),
        batches=Histogram((1, inf), (44, 14), 95),
    )
    found = rates(sample(12.0), later)
    assert found is not None
    assert found.requests == 13
    assert found.decisions == {
        ("admitted", "none"): 10,
        ("rejected", "requests"): 0,
        ("rejected", "input_tokens"): 3,
    }
    assert (found.degraded, found.tokens, found.shed, found.cpu) == (
        {"refused": 0, "admitted": 1},
        {"input": 100},
        0,
        0.5,
    )
    assert found.latency.counts == (0, 10, 0)
    assert mean(found.batches) == 20 / 8
    assert quantile(found.latency, 0.5) == Quantile(pytest.approx(0.00015))


@pytest.mark.parametrize(
    "then",
    [
        {"started_s": 2000.0},
        {"node": "n2"},
        {"responses": 99},
        {"decisions": {("admitted", "none"): 69}},
        {"tokens": {"input": 1}},
        {"cpu_s": 0.1},
        {"latency": Histogram((0.0001, inf), (1, 2), 0)},
        {"at_s": 12.0},
    ],
)
def test_a_node_that_began_anew_has_no_rates_rather_than_negative_ones(then: dict[str, object]) -> None:
    assert rates(sample(12.0), sample(14.0)) is not None
    assert rates(sample(12.0), replace(sample(14.0), **then)) is None  # type: ignore[arg-type]
    assert rates(None, sample(14.0)) is None


def test_a_shard_whose_calls_are_counted_anew_counts_from_nothing() -> None:
    bounds = (1.0, inf)
    assert difference(Histogram(bounds, (5, 5), 9), Histogram(bounds, (6, 5), 10)) == Histogram(bounds, (1, 0), 1)
    assert difference(Histogram(bounds, (5, 5), 9), Histogram(bounds, (1, 0), 1)) == Histogram(bounds, (1, 0), 1)
    assert difference(NOTHING, Histogram(bounds, (1, 0), 1)) == Histogram(bounds, (1, 0), 1)


@pytest.mark.parametrize(
    ("counts", "share", "expected"),
    [
        ((0, 0, 0, 0), 0.5, None),
        ((10, 0, 0, 0), 0.5, Quantile(0.5)),
        ((0, 10, 0, 0), 0.5, Quantile(1.5)),
        ((50, 0, 50, 0), 0.5, Quantile(1.0)),
        ((0, 0, 99, 1), 0.99, Quantile(4.0)),
        ((0, 0, 98, 2), 0.99, Quantile(4.0, True)),
    ],
)
def test_quantiles(counts: tuple[float, ...], share: float, expected: Quantile | None) -> None:
    assert quantile(Histogram((1.0, 2.0, 4.0, inf), counts, 0), share) == expected


def test_nodes_are_added_up() -> None:
    first, second = Histogram((1.0, inf), (1, 2), 3), Histogram((1.0, inf), (4, 5), 6)
    assert together([NOTHING, first, second]) == Histogram((1.0, inf), (5, 7), 9)
    assert together([first, Histogram((2.0, inf), (4, 5), 6)]) == first
    assert together([]) == NOTHING
