"""Schedules: the same seed makes the same one, at the asked rate and with the asked distributions."""

from __future__ import annotations

from collections import Counter
from random import Random
from statistics import mean, median, pstdev
from typing import Any

import pytest

from bench_client.errors import BenchUsageError
from bench_client.load.key_choice import KeyGroup
from bench_client.load.sizes import SizeDistribution
from bench_client.load.trace import Trace
from bench_client.load.workload import Workload, draw_zipf, synthetic_workload, traced_workload


def make(**changes: Any) -> Workload:
    settings: dict[str, Any] = {
        "qps": 1000.0,
        "duration_s": 20.0,
        "arrivals": "poisson",
        "input_size": SizeDistribution.parse("uniform:10:30"),
        "output_size": SizeDistribution.parse("lognormal:128:0.7"),
        "targets": 3,
        "keys": [KeyGroup(1, range(10))],
        "zipf": 1.0,
        "seed": 7,
    }
    return synthetic_workload(**{**settings, **changes})


def test_the_same_seed_makes_the_same_workload_and_another_makes_another() -> None:
    assert make() == make()
    assert make().due_ns != make(seed=8).due_ns


def test_a_changed_setting_leaves_the_other_draws_alone() -> None:
    one, other = make(), make(zipf=0.0, output_size=SizeDistribution.parse("fixed:5"))
    assert (one.due_ns, one.target, one.input_tokens) == (other.due_ns, other.target, other.input_tokens)
    assert one.key != other.key


def test_poisson_arrivals_have_the_rate_and_the_spread_of_a_poisson_process() -> None:
    workload = make()
    assert list(workload.due_ns) == sorted(workload.due_ns)
    assert workload.due_ns[-1] < 20e9
    assert len(workload) == pytest.approx(20_000, rel=0.03)
    gaps = [b - a for a, b in zip(workload.due_ns, workload.due_ns[1:], strict=False)]
    assert pstdev(gaps) == pytest.approx(mean(gaps), rel=0.05)


def test_constant_arrivals_are_evenly_spaced_and_exact_in_number() -> None:
    workload = make(arrivals="constant", qps=3.0, duration_s=2.0)
    assert list(workload.due_ns) == [int(i * 1e9 / 3) for i in range(6)]
    assert workload.offered_qps == 3.0


def test_targets_are_uniform_and_keys_follow_zipf() -> None:
    workload = make(duration_s=60.0)
    targets, keys = Counter(workload.target), Counter(workload.key)
    assert all(count == pytest.approx(len(workload) / 3, rel=0.03) for count in targets.values())
    assert set(targets) == {0, 1, 2}
    assert keys[0] / keys[1] == pytest.approx(2, rel=0.1)
    assert keys[0] / keys[9] == pytest.approx(10, rel=0.1)


def test_a_skew_of_two_is_steeper() -> None:
    keys = Counter(draw_zipf(50_000, 5, 2, Random(1)))
    assert keys[0] / keys[1] == pytest.approx(4, rel=0.1)


def test_a_zipf_skew_of_zero_is_uniform() -> None:
    keys = Counter(draw_zipf(50_000, 5, 0, Random(1)))
    assert all(count == pytest.approx(10_000, rel=0.05) for count in keys.values())


@pytest.mark.parametrize(
    ("text", "low", "high", "middle"),
    [
        ("fixed:25", 25, 25, 25),
        ("uniform:10:30", 10, 30, 20),
        ("lognormal:128:0.7", 1, 5000, 128),
        ("Fixed:1", 1, 1, 1),
    ],
)
def test_sizes_follow_their_distribution(text: str, low: int, high: int, middle: int) -> None:
    sizes = SizeDistribution.parse(text).draw(20_000, Random(1))
    assert min(sizes) >= low
    assert max(sizes) <= high
    assert median(sizes) == pytest.approx(middle, rel=0.03)


@pytest.mark.parametrize(
    "text",
    [
        *("", "fixed", "fixed:0", "fixed:1.5", "fixed:x", "fixed:1:2", "uniform:3:2", "uniform:1", "lognormal:0:1"),
        *("lognormal:5:-1", "normal:1:2", "fixed:nan", "fixed:inf", "fixed:1e9"),
    ],
)
def test_wrong_sizes_are_refused_with_the_forms_there_are(text: str) -> None:
    with pytest.raises(BenchUsageError, match="fixed:N, uniform:A:B or lognormal:MEDIAN:SIGMA"):
        SizeDistribution.parse(text)


def trace_of(*arrivals_s: float) -> Trace:
    from array import array

    count = len(arrivals_s)
    return Trace(
        array("q", [int(at * 1e9) for at in arrivals_s]), array("I", range(1, count + 1)), array("I", [9] * count)
    )


def test_a_trace_keeps_its_own_arrivals_and_sizes() -> None:
    workload = traced_workload(
        trace_of(0, 1.5, 4), speed=1.0, duration_s=None, targets=2, keys=[KeyGroup(1, range(2))], zipf=0, seed=1
    )
    assert list(workload.due_ns) == [0, 1_500_000_000, 4_000_000_000]
    assert list(workload.input_tokens) == [1, 2, 3]
    assert list(workload.output_tokens) == [9, 9, 9]
    assert workload.duration_s == 4.0


def test_speed_compresses_a_trace_before_the_duration_cuts_it() -> None:
    workload = traced_workload(
        trace_of(0, 1, 2, 3, 4), speed=2.0, duration_s=1.0, targets=1, keys=[KeyGroup(1, range(1))], zipf=0, seed=1
    )
    assert list(workload.due_ns) == [0, 500_000_000]
    assert workload.duration_s == 1.0


@pytest.mark.parametrize("processes", [1, 3, 16])
def test_the_shares_of_processes_are_together_the_schedule(processes: int) -> None:
    whole = make(duration_s=1.0).warmed_up(0.25)
    shares = [whole.share(process, processes) for process in range(processes)]
    assert sum(share.warmup for share in shares) == whole.warmup
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
    for field in ("due_ns", "target", "key", "input_tokens", "output_tokens"):
        dealt = [getattr(shares[i % processes], field)[i // processes] for i in range(len(whole))]
        assert dealt == list(getattr(whole, field)), field
    for share in shares:
        assert (share.duration_s, share.warmup_s) == (whole.duration_s, whole.warmup_s)
        assert all(due_ns < 0.25e9 for due_ns in share.due_ns[: share.warmup])
        assert all(due_ns >= 0.25e9 for due_ns in share.due_ns[share.warmup :])


def test_a_warm_up_is_the_beginning_and_leaves_what_is_measured_as_it_was() -> None:
    measured = make(duration_s=2.0)
    warmed = measured.warmed_up(0.5)
    count = warmed.warmup
    assert count == sum(due_ns < 0.5e9 for due_ns in measured.due_ns)
    assert warmed.due_ns[:count] == measured.due_ns[:count]
    assert [due_ns - 500_000_000 for due_ns in warmed.due_ns[count:]] == list(measured.due_ns)
    assert (warmed.key[:count], warmed.key[count:]) == (measured.key[:count], measured.key)
    assert (warmed.duration_s, warmed.warmup_s, len(warmed)) == (2.5, 0.5, len(measured) + count)
    with pytest.raises(BenchUsageError, match="lower it"):
        measured.warmed_up(2.1)
