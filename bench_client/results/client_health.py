"""Judges whether the client itself was the bottleneck of a run, from each sending process's CPU and lateness.

Lateness is the time from a request's due time until its process takes it up: only the client, or a machine too busy to
let it run, can cause it. Waiting for a free connection is counted apart, because the server keeps connections busy.

Latencies count from the due time, so they include lateness. To see whether lateness changes a figure, the same
percentile is taken from the times of sending: it is lower by lateness and by waiting for connections. At most the
lateness at that percentile is the client's part of the difference. A few late requests that are not the slow ones
change no figure, however late they were. Weakness: a client that shares its cores with the server is late because of
the server; the two causes can't be distinguished from here, so the advice names both ways out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from bench_client.records.process_report import ProcessReport

BUSY_CPU = 0.95
"""A process that used this share of a core had no time left, so its answers also waited to be read."""
LATE_MS = {"p50": 1.0, "p99": 2.0}
"""The latency figures that lateness may change, and the lateness (ms) up to which there is never a warning."""
LATE_SHARE = 0.1
"""Up to this share of a figure, lateness doesn't matter: other causes made the answers late."""
HINDERED_CPU = 0.5
"""A late process that used less than this share of a core was held up by other work: more processes wouldn't help."""
ALL_BUSY_SHARE = 0.02
"""Above this share of requests that waited for a connection, latencies are shaped by the number of connections."""


@dataclass(frozen=True, slots=True)
class ClientHealth:
    """Judge all sending processes of a run by their reports and the measured latencies."""

    processes: list[ProcessReport]
    latency_ms: Mapping[str, float]
    """Latencies of answers from the due time, by the names in ``LATE_MS``; empty if there were none."""
    from_sending_ms: Mapping[str, float]
    """The same from the time of sending."""

    @property
    def lateness_p50_ms(self) -> float:
        """Return the median lateness of the worst process."""
        return max((process.lateness_p50_ms for process in self.processes), default=0.0)

    @property
    def lateness_p99_ms(self) -> float:
        """Return the p99 of the lateness of the worst process."""
        return max((process.lateness_p99_ms for process in self.processes), default=0.0)

    @property
    def late_ms(self) -> dict[str, float]:
        """Return the client's lateness in each latency figure."""
        late_ms = {"p50": self.lateness_p50_ms, "p99": self.lateness_p99_ms}
        return {
            name: max(min(late_ms[name], self.latency_ms.get(name, 0.0) - self.from_sending_ms.get(name, 0.0)), 0.0)
            for name in LATE_MS
        }

    @property
    def bottleneck(self) -> str | None:
        """Return why the client was the bottleneck; None if it wasn't."""
        return self._verdict[0]

    @property
    def remark(self) -> str | None:
        """Return one line about the client for the user; None if there is nothing to say."""
        bottleneck, advice = self._verdict
        if bottleneck is not None:
            return f"the client was the bottleneck: {bottleneck}; {advice}"
        requests = sum(process.requests for process in self.processes)
        waited = sum(process.all_busy for process in self.processes)
        if waited > ALL_BUSY_SHARE * requests:
            return (
                f"{waited:,} requests found all connections busy and waited, which their latencies include: the "
                "server was slow, or raise --connections"
            )
        return None

    @property
    def _verdict(self) -> tuple[str | None, str]:
        """Return the reason, or None, and what to do about it."""
        if not self.processes:
            return None, ""
        busiest = max(self.processes, key=lambda process: process.cpu)
        latest = max(self.processes, key=lambda process: process.lateness_p99_ms)
        late_ms = self.late_ms
        changed = [
            name
            for name, floor_ms in LATE_MS.items()
            if late_ms[name] > max(floor_ms, LATE_SHARE * self.latency_ms.get(name, 0.0))
        ]
        reasons, advice = [], "raise --processes"
        if busiest.cpu >= BUSY_CPU:
            reasons.append(f"a sending process used {busiest.cpu:.0%} of a core")
        if changed:
            parts = [f"{late_ms[name]:.1f} of the {self.latency_ms[name]:.1f} ms of {name}" for name in changed]
            reasons.append(f"requests left late, which makes up {' and '.join(parts)}")
            if latest.cpu < HINDERED_CPU:
                reasons.append(f"with {latest.cpu:.0%} of a core used (other work on this machine holds it up)")
                advice = "free a core for it"
        return ", ".join(reasons) or None, advice

    def as_dict(self) -> dict[str, object]:
        """Return the part of ``summary.json`` about the client."""
        return {
            "bottleneck": self.bottleneck is not None,
            "reason": self.bottleneck,
            "lateness_ms": {"p50": self.lateness_p50_ms, "p99": self.lateness_p99_ms},
            "late_of_latency_ms": self.late_ms,
            "processes": [
                {
                    "requests": process.requests,
                    "cpu": process.cpu,
                    "lateness_ms": {"p50": process.lateness_p50_ms, "p99": process.lateness_p99_ms},
                    "all_connections_busy": process.all_busy,
                }
                for process in self.processes
            ],
        }
