"""The verdict on a record."""

from __future__ import annotations

from dataclasses import dataclass

from .counted import judge_counted
from .records import Record, Violation
from .told import judge_told
from .told_paths import judge_told_paths
from .windows import Worst, judge_windows


@dataclass(frozen=True)
class Verdict:
    """What was wrong with a run, and its fullest window."""

    violations: list[Violation]
    worst: Worst


def judge(record: Record) -> Verdict:
    """Judge a run by its record alone."""
    violations, worst = judge_windows(record)
    violations += [*judge_told(record), *judge_told_paths(record), *judge_counted(record)]
    violations += [Violation("something was left", "", _last_ms(record), leak) for leak in record.leaks]
    return Verdict(violations, worst)


def _last_ms(record: Record) -> float:
    return record.counts[-1].drained_ms if record.counts else 0.0
