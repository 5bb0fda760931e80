"""What the benchmarks share: the machine, medians with spread, tables, JSON output, pinned processes."""

from __future__ import annotations

import json
import os
import platform
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Row:
    """One measured figure: its median over rounds, the spread, and what was aimed at."""

    name: str
    unit: str
    median: float
    low: float
    high: float
    target: str = ""
    rounds: list[float] = field(default_factory=list)


def row(name: str, unit: str, rounds: Sequence[float], target: str = "") -> Row:
    """Summarize the rounds of one figure."""
    return Row(name, unit, statistics.median(rounds), min(rounds), max(rounds), target, list(rounds))


def interleaved(rounds: int, variants: Sequence[Callable[[], float]]) -> list[list[float]]:
    """Run the variants in turn, A B C A B C …, so that the machine's drift hits all alike; the results per variant."""
    results: list[list[float]] = [[] for _ in variants]
    for _ in range(rounds):
        for variant, into in zip(variants, results, strict=True):
            into.append(variant())
    return results


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
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
    """A figure as a person reads it: three significant digits below a thousand, whole with separators above."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def show(title: str, rows: Sequence[Row], *, json_path: str | None = None) -> None:
    """Print the rows as a table (and write them as JSON)."""
    facts = machine()
    print(f"\n{title}   [{facts['cpu']}, {facts['cores']} cores, Python {facts['python']}]")
    cells = [("figure", "median", "min", "max", "unit", "target")]
    cells += [(r.name, number(r.median), number(r.low), number(r.high), r.unit, r.target) for r in rows]
    widths = [max(len(line[i]) for line in cells) for i in range(6)]
    for line in cells:
        left, *figures, unit, target = line
        print(
            "  ".join([left.ljust(widths[0]), *(f.rjust(w) for f, w in zip(figures, widths[1:4], strict=True))]),
            unit.ljust(widths[4]),
            target,
            sep="  ",
        )
    sys.stdout.flush()
    if json_path:
        path = Path(json_path)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"title": title, "machine": facts, "rows": [asdict(r) for r in rows]}, indent=1))


def pin(pid: int, cores: set[int]) -> None:
    """Bind a process and its threads to some cores, where the system lets us."""
    if hasattr(os, "sched_setaffinity"):
        for task in Path(f"/proc/{pid}/task").iterdir():
            os.sched_setaffinity(int(task.name), cores)


def cpu_seconds(pid: int) -> float:
    """User and system time that a process has used so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
