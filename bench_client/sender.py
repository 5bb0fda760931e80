"""Sends a workload open-loop: each request when it is due, whatever became of those before it.

The loop is woken by an alarm for the next due request and, free of charge, by every response; each time it sends all
that is due. Nothing else happens in it: responses go raw to the spool and are parsed after the run.
"""

from __future__ import annotations

import asyncio
import time
from array import array
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence

from .alarm import NS_PER_S, clock_ns, make_alarm
from .errors import BenchError
from .health import ProcessReport, lateness_percentiles_ms
from .outcome import SendOutcome, Snapshot
from .pool import Pool
from .prompts import RequestRenderer
from .spool import ABORTED, ERRORS, Result, SpoolWriter
from .targets import Target
from .workload import Workload

LEAD_NS = 20_000_000
"""From now to the start of the schedule, where one process sends it."""
MIN_SPACING_NS = 200_000
"""Least time between two alarms: bounds the cost of waking at high rates, and is the lateness this adds at most."""
BURST = 128
"""Most requests sent before responses are looked at again: a late client must not stop reading as well."""
HOUSEKEEPING_S = 0.05
SPOOL_BATCH = 64
"""Most results handed to the spool at once: packing holds the interpreter's lock, a microsecond per result, and with
thousands of them what is due meanwhile would leave milliseconds late."""
SAMPLE_EVERY = 16
"""Of full batches, each so-manieth latency goes to the live view; of smaller ones (at low rates) all do."""


async def soon() -> int:
    """The start of a schedule that one process sends alone."""
    return clock_ns() + LEAD_NS


class Sender:
    """Runs one workload once."""

    def __init__(
        self,
        workload: Workload,
        renderer: RequestRenderer,
        targets: Sequence[Target],
        spool: SpoolWriter,
        *,
        max_connections: int,
        first_connections: int,
        timeout_s: float,
    ) -> None:
        """``max_connections`` and ``first_connections`` are per target."""
        self.renderer = renderer
        self.timeout_s = timeout_s
        self.statuses: Counter[int] = Counter()
        """Complete responses by status so far."""
        self.errors: Counter[str] = Counter()
        self.dispatched = 0
        self.completed = 0
        self.all_busy = 0
        """Requests that found all connections there may be in use."""
        self.start_ns = 0
        self._workload = workload
        self._targets = targets
        self._spool = spool
        self._first_connections = first_connections
        self._max_connections = max_connections
        self._timeout_ns = int(timeout_s * NS_PER_S)
        self._end = len(workload)
        self._next_due_ns = 1 << 62
        self._results: list[Result] = []
        self._latency_samples: list[int] = []
        self._lateness_ns = array("q")
        self._cpu_from: tuple[int, int] | None = None
        self._cpu_until: tuple[int, int] | None = None
        self._interrupts = 0
        self._resend_pending = False
        self._pools: list[Pool] = []

    async def run(self, start: Callable[[], Awaitable[int]] = soon) -> SendOutcome:
        """Sends everything and returns when the last answer is in, or timed out.

        ``start`` is awaited when the first connections are open; it gives the instant, in ``clock_ns``, at which the
        schedule starts. Raises BenchError when a target can't be connected to before that.
        """
        loop = asyncio.get_running_loop()
        self._loop = loop
        self._pools = [Pool(self, target, self._max_connections) for target in self._targets]
        alarm = self._alarm = make_alarm(loop, self._wake)
        try:
            await self._open_pools()
            self.start_ns = await start()
            started_unix_ns = time.time_ns() + self.start_ns - clock_ns()
            self._schedule()
            alarm.set(self._next_due_ns)
            while self.dispatched < self._end or self.completed < self.dispatched:
                await asyncio.sleep(HOUSEKEEPING_S)
                self._housekeep()
            report = self._report()
            planned_s = self._workload.duration_s
            elapsed_s = (self._interrupted_ns - self.start_ns) / NS_PER_S if self._interrupts else planned_s
        finally:
            alarm.close()
            for pool in self._pools:
                pool.close(ABORTED)
            self._flush()
        return SendOutcome(
            started_unix_ns // 1_000_000,
            min(max(elapsed_s, 0.0), planned_s),
            self.dispatched,
            self._interrupts > 0,
            [report],
        )

    def interrupt(self) -> None:
        """The first time: no further requests, those under way are waited for. The second time: cut them off."""
        self._interrupts += 1
        if self._interrupts == 1:
            self._interrupted_ns = clock_ns()
            self._end = self.dispatched
            self._next_due_ns = 1 << 62
        else:
            for pool in self._pools:
                pool.close(ABORTED)

    def snapshot(self) -> Snapshot:
        """How far it is; the latency samples are of the time since the last call."""
        samples, self._latency_samples = self._latency_samples, []
        return Snapshot(self.dispatched, dict(self.statuses), self.errors.total(), samples)

    def deadline_ns(self, index: int) -> int:
        return self.start_ns + self._workload.due_ns[index] + self._timeout_ns

    def finish(self, index: int, sent_ns: int, done_ns: int, error: int, raw: bytes, status: int) -> None:
        """A request has come to its end; every dispatched one does so exactly once."""
        self.completed += 1
        if error:
            self.errors[ERRORS[error]] += 1
        else:
            self.statuses[status] += 1
        self._results.append((index, sent_ns, done_ns, error, raw))
        if len(self._results) >= SPOOL_BATCH:
            self._flush()

    def pump(self, now_ns: int) -> None:
        """Called on every response: what has become due meanwhile leaves without waiting for the alarm."""
        if self._next_due_ns <= now_ns and not self._resend_pending:
            self._send_due(now_ns)

    def _wake(self) -> None:
        self._resend_pending = False
        now_ns = clock_ns()
        self._send_due(now_ns)
        if self._next_due_ns <= now_ns:  # a burst was cut short
            self._resend_pending = True
            self._loop.call_soon(self._wake)
        else:
            self._alarm.set(max(self._next_due_ns, now_ns + MIN_SPACING_NS))

    def _send_due(self, now_ns: int) -> None:
        due_ns, target, pools, late = self._workload.due_ns, self._workload.target, self._pools, self._lateness_ns
        index, start_ns = self.dispatched, self.start_ns
        last = min(index + BURST, self._end)
        while index < last and (late_ns := now_ns - start_ns - due_ns[index]) >= 0:
            self.dispatched = index + 1  # first: what fails at once is counted as completed
            late.append(late_ns)
            pools[target[index]].dispatch(index, now_ns)
            index += 1
            now_ns = clock_ns()
        self._schedule()

    def _schedule(self) -> None:
        index = self.dispatched
        self._next_due_ns = self.start_ns + self._workload.due_ns[index] if index < self._end else 1 << 62

    def _housekeep(self) -> None:
        now_ns = clock_ns()
        for pool in self._pools:
            pool.sweep(now_ns)
        self._flush()
        if self._cpu_from is None:
            if now_ns >= self.start_ns + self._workload.warmup_s * NS_PER_S:
                self._cpu_from = (now_ns, time.process_time_ns())
        elif self._cpu_until is None and self.dispatched == self._end:
            self._cpu_until = (now_ns, time.process_time_ns())

    def _report(self) -> ProcessReport:
        """The CPU is counted from the end of the warm-up until the last request was sent, within some 50 ms."""
        from_ns, cpu_from_ns = self._cpu_from or (0, 0)
        until_ns, cpu_until_ns = self._cpu_until or (from_ns, cpu_from_ns)
        p50_ms, p99_ms = lateness_percentiles_ms(self._lateness_ns[self._workload.warmup :])
        return ProcessReport(
            requests=self.dispatched,
            cpu=(cpu_until_ns - cpu_from_ns) / (until_ns - from_ns) if until_ns > from_ns else 0.0,
            lateness_p50_ms=p50_ms,
            lateness_p99_ms=p99_ms,
            all_busy=self.all_busy,
        )

    def _flush(self) -> None:
        results = self._results
        if results:
            self._results = []
            due_ns, start_ns = self._workload.due_ns, self.start_ns
            step = SAMPLE_EVERY if len(results) >= SPOOL_BATCH else 1
            self._latency_samples += [done - start_ns - due_ns[index] for index, _, done, _, _ in results[::step]]
            self._spool.put(start_ns, results)

    async def _open_pools(self) -> None:
        for pool, target in zip(self._pools, self._targets, strict=True):
            try:
                await pool.open(self._first_connections)
            except OSError as error:
                reason = str(error.strerror or error or "no answer in time").lower()
                raise BenchError(
                    f"cannot open {self._first_connections} connections to {target.url} ({reason}); "
                    "start it, or lower --connections"
                ) from None
