"""Rows of medians with spread and target, tables, JSON output, options and CPU time, for all benchmarks."""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")


_VERDICTS = {True: "yes", False: "no", None: ""}


@dataclass(frozen=True, slots=True)
class Row:
    """Hold one measured figure: its median over rounds, the spread, and the target."""

    name: str
    unit: str
    median: float
    low: float
    high: float
    target: str = ""
    rounds: list[float] = field(default_factory=list)
    at_least: float | None = None
    at_most: float | None = None

    @property
    def quartiles(self) -> tuple[float, float]:
        """The first and the third quartile of the rounds: half of them lie between."""
        if len(self.rounds) < 2:
            return self.low, self.high
        first, _, third = statistics.quantiles(self.rounds, n=4, method="inclusive")
        return first, third

    @property
    def met(self) -> bool | None:
        """Return whether the median meets the target; None if the target is not a number."""
        if self.at_least is None and self.at_most is None:
            return None
        return (self.at_least is None or self.median >= self.at_least) and (
            self.at_most is None or self.median <= self.at_most
        )


def row(
    name: str,
    unit: str,
    rounds: Sequence[float],
    target: str = "",
    *,
    at_least: float | None = None,
    at_most: float | None = None,
) -> Row:
    """Summarize the rounds of one figure. `target` is shown in place of the numbers aimed at, if there are any."""
    bounds = [f"{sign} {number(bound)}" for sign, bound in (("≥", at_least), ("≤", at_most)) if bound is not None]
    target = target or ", ".join(bounds)
    return Row(name, unit, statistics.median(rounds), min(rounds), max(rounds), target, list(rounds), at_least, at_most)


def interleaved(rounds: int, variants: Sequence[Callable[[], T]]) -> list[list[T]]:
    """Run the variants in turn, A B C A B C …, so that the machine's drift hits all alike; the results per variant."""
    results: list[list[T]] = [[] for _ in variants]
    for _ in range(rounds):
        for variant, into in zip(variants, results, strict=True):
            into.append(variant())
    return results


def ratios(over: Sequence[float], under: Sequence[float]) -> list[float]:
    """Return, round by round, one variant's figure divided by another's."""
    return [a / b for a, b in zip(over, under, strict=True)]


def machine() -> dict[str, Any]:
    """Return the facts about the measuring machine."""
    model = platform.processor() or platform.machine()
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                model = line.partition(":")[2].strip()
                break
    except OSError:
        pass
    return {
        "cpu": model,
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
    }


def number(value: float) -> str:
    """Return a figure for people: three significant digits below a thousand, whole with separators above."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def show(title: str, rows: Sequence[Row], *, quartiles: bool = False, json_path: str | None = None) -> None:
    """Print the rows as a table (and write them as JSON), with their ranges or, if `quartiles`, the middle halves."""
    facts = machine()
    print(f"\n{title}   [{facts['cpu']}, {facts['cores']} cores, Python {facts['python']}]")
    cells = [("figure", "median", *(("quartile 1", "3") if quartiles else ("min", "max")), "unit", "target", "met")]
    for r in rows:
        low, high = r.quartiles if quartiles else (r.low, r.high)
        cells.append((r.name, number(r.median), number(low), number(high), r.unit, r.target, _VERDICTS[r.met]))
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for line in cells:
        print(
            "  ".join(
                cell.rjust(width) if 1 <= column <= 3 else cell.ljust(width)
                for column, (cell, width) in enumerate(zip(line, widths, strict=True))
            ).rstrip()
        )
    sys.stdout.flush()
    if json_path:
        path = Path(json_path)
        path.parent.mkdir(parents=True, exist_ok=True)
        written = [{**asdict(r), "met": r.met} for r in rows]
        path.write_text(json.dumps({"title": title, "machine": facts, "rows": written}, indent=1))


def parser(documentation: str, *, rounds: int, seconds: float) -> argparse.ArgumentParser:
    """Return a parser of the options of every benchmark, with its defaults."""
    made = argparse.ArgumentParser(description=documentation.splitlines()[0])
    made.add_argument("--rounds", type=int, default=rounds, help="rounds of each variant, in turn (%(default)s)")
    made.add_argument("--seconds", type=float, default=seconds, help="duration of each load (%(default)s)")
    made.add_argument("--json", help="file to write the rows to as well")
    return made
