"""The progress of the sending, and its outcome."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from bench_client.records.process_report import ProcessReport


class SendSnapshot(NamedTuple):
    """Say how far one process, or all of them, has come."""

    dispatched: int
    statuses: dict[int, int]
    """Complete responses by status."""
    errors: int
    latency_samples: list[int]
    """Some of the latencies (ns, from the due time) since the snapshot before."""

    @classmethod
    def summed(cls, snapshots: Iterable[SendSnapshot]) -> SendSnapshot:
        dispatched, statuses, errors, samples = 0, Counter[int](), 0, list[int]()
        for snapshot in snapshots:
            dispatched += snapshot.dispatched
            statuses.update(snapshot.statuses)
            errors += snapshot.errors
            samples += snapshot.latency_samples
        return cls(dispatched, dict(statuses), errors, samples)


@dataclass(frozen=True, slots=True)
class SendOutcome:
    """Say what a finished run looked like from the sending side."""

    started_unix_ms: int
    """The wall clock at the start of the schedule."""
    sending_s: float
    """From the start of the schedule to its end, or to the interrupt."""
    dispatched: int
    interrupted: bool
    processes: list[ProcessReport]

    @classmethod
    def merged(cls, outcomes: Sequence[SendOutcome]) -> SendOutcome:
        """Return the outcome of processes that sent one schedule together, from the same instant on."""
        return cls(
            outcomes[0].started_unix_ms,
            max(outcome.sending_s for outcome in outcomes),
            sum(outcome.dispatched for outcome in outcomes),
            any(outcome.interrupted for outcome in outcomes),
            [report for outcome in outcomes for report in outcome.processes],
        )
