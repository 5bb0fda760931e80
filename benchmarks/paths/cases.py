"""The measured calls by name, run in turn, and the server's CPU per decision in each round."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from benchmarks.lib.measuring import interleaved
from benchmarks.lib.shard import Shard


class Case(NamedTuple):
    """Calls of one kind, which decide so many requests each on average.

    `commands` makes the given number of calls. Before that it may run others, which don't count.
    """

    calls: int
    commands: Callable[[int], list[bytes]]
    decisions: float = 1


Micros = Mapping[str, list[float]]
"""The server's CPU per decision in µs, by case and round."""


def measure(shard: Shard, cases: Mapping[str, Case], rounds: int, share: float) -> Micros:
    """Run that share of the calls of all cases in turn; a first round, which warms up, doesn't count."""

    def run(case: Case) -> float:
        commands = case.commands(max(int(case.calls * share), 20))
        return shard.run(commands) / len(commands) / case.decisions * 1e6

    found = interleaved(rounds + 1, [lambda case=case: run(case) for case in cases.values()])  # type: ignore[misc]
    return {name: us[1:] for name, us in zip(cases, found, strict=True)}


def per_second(us: Sequence[float]) -> list[float]:
    """Return the decisions per second of a core that takes so many µs for each."""
    return [1e6 / each for each in us]
