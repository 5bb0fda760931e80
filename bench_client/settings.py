"""The settings of a run, checked: what the command line's options become."""

from __future__ import annotations

import resource
from dataclasses import dataclass
from pathlib import Path

from bench_client.errors import BenchUsageError
from bench_client.load.sizes import SizeDistribution
from bench_client.load.weights import Weights

MIN_CONNECTIONS, MAX_CONNECTIONS = 64, 4096
"""Per target: of all processes together, and of each."""
MAX_CONNECTIONS_TO_TARGET = 16_384
"""Limit over all processes: an address has some 28,000 ports to connect from."""
FIRST_CONNECTIONS = 16
SPARE_FILES = 64
MAX_REQUESTS = 50_000_000
"""A schedule takes about 24 bytes per request, 26 with several models; more requests than this are a mistake in the
settings."""


@dataclass(frozen=True, slots=True)
class WorkloadSettings:
    """Describe what is sent: the schedule's shape. The same settings and seed make the same workload."""

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
    warmup_s: float = 0.0
    """The first ``warmup_s`` of the schedule are sent once before it, and left out of the figures."""
    accounts: Weights = ()
    """Accounts and teams whose keys are loaded; empty: all keys, each account's weight the number of its keys."""

    def __post_init__(self) -> None:
        """Raises BenchUsageError when the settings contradict one another."""
        if self.trace is None and self.qps is None:
            raise BenchUsageError("--qps is missing; pass a rate, or a --trace with its own arrivals")
        if self.trace is not None and self.qps is not None:
            raise BenchUsageError("--qps and --trace exclude each other; use --speed to compress a trace")
        if self.duration_s is not None and self.warmup_s > self.duration_s:
            raise BenchUsageError("--warmup is longer than the schedule; lower it")
        if self.qps is not None and self.duration_s is not None and self.qps * self.duration_s > MAX_REQUESTS:
            raise BenchUsageError(f"--qps times --duration is more than {MAX_REQUESTS:,} requests; lower one of them")


@dataclass(frozen=True, slots=True)
class SendingSettings:
    """Describe how the workload is sent."""

    connections: int | None
    """Most per target, of all processes together; None: by the rate."""
    timeout_s: float
    models: Weights = ()
    """Empty: the first that the target serves."""
    processes: int = 1
    wait_ready_s: float = 0.0
    """How long to wait for the targets to be ready before anything is sent; 0: they are asked once."""
    admin_targets: tuple[str, ...] = ()
    """Where ``/readyz`` and ``/metrics`` are asked, in any number; empty: at the targets."""
    ca_file: Path | None = None
    """Certificates to trust beside the system's, PEM."""

    def __post_init__(self) -> None:
        """Raises BenchUsageError when a process would have no connection."""
        if self.connections is not None and self.connections < self.processes:
            raise BenchUsageError(
                f"--connections {self.connections} is less than one for each of {self.processes} processes; raise it"
            )


@dataclass(frozen=True, slots=True)
class RunSettings:
    """Describe one run: what is sent, how, and where to."""

    workload: WorkloadSettings
    sending: SendingSettings
    targets: tuple[str, ...]
    keys: Path
    out: Path
    force: bool = False
    """Whether results that ``out`` holds already are replaced."""

    def as_dict(self) -> dict[str, object]:
        """Return the settings for ``run.json``."""
        workload, sending = self.workload, self.sending
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
            "warmup_s": workload.warmup_s,
            "keys": str(self.keys),
            "accounts": dict(workload.accounts) or None,
            "connections": sending.connections,
            "timeout_s": sending.timeout_s,
            "model": sending.models[0][0] if len(sending.models) == 1 else None,
            "models": dict(sending.models),
            "processes": sending.processes,
            "admin_targets": list(sending.admin_targets),
            "ca_file": str(sending.ca_file) if sending.ca_file else None,
        }


def connections_per_target(wanted: int | None, qps: float, targets: int, processes: int) -> list[int]:
    """Return each process's most connections to a target; raise the limit of open files as far as allowed and needed.

    As wanted, or enough for each request to take a second, divided over the processes: together they open what one
    would. Raises BenchUsageError when what is wanted is more than a process may open.
    """
    most = min(MAX_CONNECTIONS * processes, MAX_CONNECTIONS_TO_TARGET)
    total = wanted or min(max(int(qps / targets), MIN_CONNECTIONS, processes), most)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = -(-total // processes) * targets + SPARE_FILES
    if hard != resource.RLIM_INFINITY and needed > hard:
        if wanted:
            raise BenchUsageError(
                f"--connections {wanted} needs {needed} open files in a process, {hard} are allowed; lower it"
            )
        total, needed = max((hard - SPARE_FILES) // targets, 1) * processes, hard
    if soft != resource.RLIM_INFINITY and soft < needed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
    return [len(range(process, total, processes)) for process in range(processes)]
