"""Deadlines and results of a share's requests while they are sent, on their way to the spool.

The sender, its pools and their connections all write here, so none of them has to know the others.
"""

from __future__ import annotations

from collections import Counter

from bench_client.clock import NS_PER_S
from bench_client.load.workload import Workload
from bench_client.records.spool import ERRORS, Result, SpoolWriter

SPOOL_BATCH = 64
"""Most results handed to the spool at once: packing holds the interpreter's lock, a microsecond per result, and with
thousands of them the requests that become due meanwhile would leave milliseconds late."""
SAMPLE_EVERY = 16
"""From full batches the live view gets every 16th latency; from smaller ones (at low rates) it gets all."""


class RequestLog:
    """Hold the results of one workload's requests. An ``index`` is a request's place in the workload."""

    def __init__(self, workload: Workload, spool: SpoolWriter, timeout_s: float) -> None:
        self.timeout_s = timeout_s
        self.start_ns = 0
        """The start of the schedule, in ``clock_ns``; 0 until it is known."""
        self.statuses: Counter[int] = Counter()
        """Complete responses by status so far."""
        self.errors: Counter[str] = Counter()
        self.completed = 0
        self._due_ns = workload.due_ns
        self._spool = spool
        self._timeout_ns = int(timeout_s * NS_PER_S)
        self._results: list[Result] = []
        self._latency_samples: list[int] = []

    def deadline_ns(self, index: int) -> int:
        """Return when the request times out, in ``clock_ns``."""
        return self.start_ns + self._due_ns[index] + self._timeout_ns

    def finish(self, index: int, sent_ns: int, done_ns: int, error: int, raw: bytes, status: int) -> None:
        """Note the end of a request. Every dispatched request ends exactly once."""
        self.completed += 1
        if error:
            self.errors[ERRORS[error]] += 1
        else:
            self.statuses[status] += 1
        self._results.append((index, sent_ns, done_ns, error, raw))
        if len(self._results) >= SPOOL_BATCH:
            self.flush()

    def flush(self) -> None:
        """Hand the results to the spool."""
        results = self._results
        if results:
            self._results = []
            due_ns, start_ns = self._due_ns, self.start_ns
            step = SAMPLE_EVERY if len(results) >= SPOOL_BATCH else 1
            self._latency_samples += [done - start_ns - due_ns[index] for index, _, done, _, _ in results[::step]]
            self._spool.put(start_ns, results)

    def take_latency_samples(self) -> list[int]:
        """Return some of the latencies since the last call, in ns from the due time."""
        samples, self._latency_samples = self._latency_samples, []
        return samples
