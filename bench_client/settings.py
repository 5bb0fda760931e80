"""The settings of a run, checked: what the command line's options become."""

from __future__ import annotations

import resource
from dataclasses import dataclass
from pathlib import Path

from .errors import BenchUsageError
from .sizes import SizeDistribution

MIN_CONNECTIONS, MAX_CONNECTIONS = 64, 4096
FIRST_CONNECTIONS = 16
SPARE_FILES = 64
MAX_REQUESTS = 50_000_000
"""A schedule takes about 24 bytes per request; beyond this something else is wrong with the settings."""


@dataclass(frozen=True, slots=True)
class WorkloadSettings:
    """What is sent: the schedule's shape. The same settings and seed make the same workload."""

    qps: float | None
    """Needed unless there is a trace."""
    duration_s: float | None
    """None: as long as the trace."""
    seed: int
    arrivals: str
    zipf: float
    input_tokens: SizeDistribution
    output_tokens: SizeDistribution
    trace: Path | None
    speed: float
    cap_output: bool

    def __post_init__(self) -> None:
        """Raises BenchUsageError when the settings contradict one another."""
        if self.trace is None and self.qps is None:
            raise BenchUsageError("--qps is missing; pass a rate, or a --trace with its own arrivals")
        if self.trace is not None and self.qps is not None:
            raise BenchUsageError("--qps and --trace exclude each other; use --speed to compress a trace")
        if self.qps is not None and self.duration_s is not None and self.qps * self.duration_s > MAX_REQUESTS:
            raise BenchUsageError(f"--qps times --duration is more than {MAX_REQUESTS:,} requests; lower one of them")


@dataclass(frozen=True, slots=True)
class RunSettings:
    """One run: what is sent, whereto, and how."""

    workload: WorkloadSettings
    targets: tuple[str, ...]
    keys: Path
    out: Path
    connections: int | None
    """Most per target; None: by the rate."""
    timeout_s: float
    model: str | None
    """None: the first that the target serves."""

    def as_dict(self) -> dict[str, object]:
        """For ``run.json``."""
        workload = self.workload
        return {
            "qps": workload.qps,
            "duration_s": workload.duration_s,
            "seed": workload.seed,
            "arrivals": workload.arrivals,
            "zipf": workload.zipf,
            "input_tokens": str(workload.input_tokens),
            "output_tokens": str(workload.output_tokens),
            "trace": str(workload.trace) if workload.trace else None,
            "speed": workload.speed,
            "cap_output": workload.cap_output,
            "keys": str(self.keys),
            "connections": self.connections,
            "timeout_s": self.timeout_s,
            "model": self.model,
        }


def connections_per_target(wanted: int | None, qps: float, targets: int) -> int:
    """As wanted, or enough for each request to take a second; raises the limit of open files as far as allowed.

    Raises BenchUsageError when what is wanted is more than this process may open.
    """
    per_target = wanted or min(max(int(qps / targets), MIN_CONNECTIONS), MAX_CONNECTIONS)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = per_target * targets + SPARE_FILES
    if hard != resource.RLIM_INFINITY and needed > hard:
        if wanted:
            raise BenchUsageError(f"--connections {wanted} needs {needed} open files, {hard} are allowed; lower it")
        per_target, needed = max((hard - SPARE_FILES) // targets, 1), hard
    if soft != resource.RLIM_INFINITY and soft < needed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
    return per_target
