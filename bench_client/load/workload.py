"""The seeded schedule: the due time, target, key, size and model of each request.

The schedule is open-loop: it is fixed before the first request is sent and no response changes it. Each aspect draws
from its own random stream, so that changing one setting leaves the draws of the others unchanged. Weakness: arrivals
are memoryless or evenly spaced; only a trace has more bursts.
"""

from __future__ import annotations

from array import array
from bisect import bisect, bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate
from random import Random

from bench_client.clock import NS_PER_S
from bench_client.errors import BenchUsageError
from bench_client.load.key_choice import KeyGroup
from bench_client.load.sizes import SizeDistribution
from bench_client.load.trace import Trace

ARRIVALS = ("poisson", "constant")


@dataclass(frozen=True, slots=True)
class Workload:
    """Hold one entry per request in each array, in order of ``due_ns`` (from the start of the run)."""

    due_ns: array[int]
    target: array[int]
    key: array[int]
    """Index into the loaded keys."""
    input_tokens: array[int]
    output_tokens: array[int]
    duration_s: float
    """Length of the schedule in seconds, warm-up included."""
    warmup: int = 0
    """Number of requests at the beginning that are the warm-up."""
    warmup_s: float = 0.0
    model: array[int] = field(default_factory=lambda: array("H"))
    """Index into the models; empty if all requests ask for the same one."""

    def __len__(self) -> int:
        return len(self.due_ns)

    @property
    def offered_qps(self) -> float:
        return len(self) / self.duration_s if self.duration_s else 0.0

    def share(self, process: int, processes: int) -> Workload:
        """Return every ``processes``-th request, from number ``process`` on.

        The shares together are this schedule, request for request. Shares of Poisson arrivals are more even than
        Poisson, and no share is ever ahead of another by more than a request.
        """
        part = slice(process, None, processes)
        return Workload(
            self.due_ns[part],
            self.target[part],
            self.key[part],
            self.input_tokens[part],
            self.output_tokens[part],
            self.duration_s,
            len(range(process, self.warmup, processes)),
            self.warmup_s,
            self.model[part],
        )

    def warmed_up(self, warmup_s: float) -> Workload:
        """Return a schedule of the first ``warmup_s`` of this one, and then all of it.

        So the warm-up has the rate, keys and sizes of the schedule, even of a trace, and the measured requests are the
        same with any warm-up. Raises BenchUsageError when the schedule is shorter than the warm-up.
        """
        if warmup_s > self.duration_s:
            raise BenchUsageError(f"--warmup is longer than the schedule of {self.duration_s:g} s; lower it")
        shift_ns = int(warmup_s * NS_PER_S)
        count = bisect_left(self.due_ns, shift_ns)
        return replace(
            self,
            due_ns=self.due_ns[:count] + array("q", [due_ns + shift_ns for due_ns in self.due_ns]),
            target=self.target[:count] + self.target,
            key=self.key[:count] + self.key,
            input_tokens=self.input_tokens[:count] + self.input_tokens,
            output_tokens=self.output_tokens[:count] + self.output_tokens,
            duration_s=self.duration_s + warmup_s,
            model=self.model[:count] + self.model,
            warmup=count,
            warmup_s=warmup_s,
        )


def synthetic_workload(
    *,
    qps: float,
    duration_s: float,
    arrivals: str,
    input_size: SizeDistribution,
    output_size: SizeDistribution,
    targets: int,
    keys: Sequence[KeyGroup],
    models: Sequence[float] = (),
    zipf: float,
    seed: int,
) -> Workload:
    """Return a schedule at a mean rate of ``qps`` for ``duration_s``. ``models``: their weights."""
    if arrivals == "constant":
        due_ns = array("q", [int(i * NS_PER_S / qps) for i in range(int(qps * duration_s + 1e-9))])
    else:
        due_ns = _poisson(qps, duration_s, _stream(seed, "arrivals"))
    count = len(due_ns)
    return Workload(
        due_ns,
        _uniform(count, targets, _stream(seed, "targets")),
        draw_keys(count, keys, zipf, seed),
        input_size.draw(count, _stream(seed, "input")),
        output_size.draw(count, _stream(seed, "output")),
        duration_s,
        model=draw_models(count, models, seed),
    )


def traced_workload(
    trace: Trace,
    *,
    speed: float,
    duration_s: float | None,
    targets: int,
    keys: Sequence[KeyGroup],
    models: Sequence[float] = (),
    zipf: float,
    seed: int,
) -> Workload:
    """Return the trace's arrivals and sizes, ``speed`` times as fast, cut after ``duration_s`` of the run if given."""
    due_ns = array("q", [int(at / speed) for at in trace.arrival_ns])
    count = len(due_ns) if duration_s is None else bisect_left(due_ns, int(duration_s * NS_PER_S))
    due_ns = due_ns[:count]
    return Workload(
        due_ns,
        _uniform(count, targets, _stream(seed, "targets")),
        draw_keys(count, keys, zipf, seed),
        trace.input_tokens[:count],
        trace.output_tokens[:count],
        duration_s if duration_s is not None and count < len(trace.arrival_ns) else due_ns[-1] / NS_PER_S or 1.0,
        model=draw_models(count, models, seed),
    )


def draw_keys(count: int, groups: Sequence[KeyGroup], skew: float, seed: int) -> array[int]:
    """Draw ``count`` keys: each time a group by its weight, and one of its keys as ``draw_zipf`` does."""
    if len(groups) == 1:  # all keys, in their order
        return draw_zipf(count, len(groups[0].places), skew, _stream(seed, "keys"))
    picks = [_picker(group.places, skew) for group in groups]
    drawn = _weighted(count, [group.weight for group in groups], _stream(seed, "accounts"))
    draw = _stream(seed, "keys").random
    return array("I", [picks[group](draw()) for group in drawn])


def draw_models(count: int, weights: Sequence[float], seed: int) -> array[int]:
    """Draw ``count`` models by their weights; an empty array if there is only one."""
    if len(weights) < 2:
        return array("H")
    return array("H", _weighted(count, weights, _stream(seed, "models")))


def draw_zipf(count: int, population: int, skew: float, rng: Random) -> array[int]:
    """Draw ``count`` times from ``0 .. population-1`` with weights ``1 / rank ** skew``; a skew of 0 is uniform."""
    if skew == 0:
        return _uniform(count, population, rng)
    cumulative = list(accumulate(rank**-skew for rank in range(1, population + 1)))
    return array("I", rng.choices(range(population), cum_weights=cumulative, k=count))


def _picker(places: Sequence[int], skew: float) -> Callable[[float], int]:
    """Return the key for a number from 0 to 1, so that random numbers draw as ``draw_zipf`` does."""
    count = len(places)
    if skew == 0:
        return lambda part: places[int(part * count)]
    cumulative = list(accumulate(rank**-skew for rank in range(1, count + 1)))
    total = cumulative[-1]
    return lambda part: places[bisect(cumulative, part * total, 0, count - 1)]


def _weighted(count: int, weights: Sequence[float], rng: Random) -> list[int]:
    return rng.choices(range(len(weights)), weights, k=count)


def _stream(seed: int, aspect: str) -> Random:
    return Random(f"{seed}/{aspect}")


def _uniform(count: int, population: int, rng: Random) -> array[int]:
    if population == 1:
        return array("I", bytes(4)) * count
    draw = rng.random
    return array("I", [int(draw() * population) for _ in range(count)])


def _poisson(qps: float, duration_s: float, rng: Random) -> array[int]:
    end_ns, per_ns, draw = int(duration_s * NS_PER_S), qps / NS_PER_S, rng.expovariate
    due_ns = array("q")
    at = draw(per_ns)
    while at < end_ns:
        due_ns.append(int(at))
        at += draw(per_ns)
    return due_ns
