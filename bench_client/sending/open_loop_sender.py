"""Sends a workload open-loop: each request leaves when it is due, regardless of the requests before it.

The loop is woken by an alarm for the next due request and, free of charge, by every response; each time it sends all
that is due. Nothing else happens in it: responses go raw to the spool
(``request_log``) and are parsed after the run.
"""

from __future__ import annotations

import asyncio
import time
from array import array
from collections.abc import Awaitable, Callable, Sequence

from bench_client.clock import NS_PER_S, clock_ns
from bench_client.errors import BenchError
from bench_client.load.prompts import RequestRenderer
from bench_client.load.workload import Workload
from bench_client.records.process_report import ProcessReport, lateness_percentiles_ms
from bench_client.records.spool import ABORTED, SpoolWriter
from bench_client.sending.alarm import make_alarm
from bench_client.sending.outcome import SendOutcome, SendSnapshot
from bench_client.sending.request_log import RequestLog
from bench_client.sending.target_pool import TargetPool
from bench_client.servers.targets import LoadTarget

LEAD_NS = 20_000_000
"""Time from now to the start of the schedule, if one process sends it."""
MIN_SPACING_NS = 200_000
"""Least time between two alarms: bounds the cost of waking at high rates, and is the lateness this adds at most."""
BURST = 128
"""Most requests sent before responses are looked at again: a late client must not stop reading as well."""
HOUSEKEEPING_S = 0.05


async def start_soon() -> int:
    """Return when the schedule starts that one process sends alone, in ``clock_ns``."""
    return clock_ns() + LEAD_NS


class OpenLoopSender:
    """Send one workload open-loop; `run` may be called once."""

    def __init__(
        self,
        workload: Workload,
        renderer: RequestRenderer,
        targets: Sequence[LoadTarget],
        spool: SpoolWriter,
        *,
        max_connections: int,
        first_connections: int,
        timeout_s: float,
    ) -> None:
        """``max_connections`` and ``first_connections`` are per target."""
        self.requests = RequestLog(workload, spool, timeout_s)
        """Results of the requests so far."""
        self.dispatched = 0
        self._workload = workload
        self._renderer = renderer
        self._targets = targets
        self._first_connections = first_connections
        self._max_connections = max_connections
        self._end = len(workload)
        self._next_due_ns = 1 << 62
        self._lateness_ns = array("q")
        self._cpu_from: tuple[int, int] | None = None
        self._cpu_until: tuple[int, int] | None = None
        self._interrupts = 0
        self._is_wake_pending = False
        self._pools: list[TargetPool] = []

    async def run(self, start: Callable[[], Awaitable[int]] = start_soon) -> SendOutcome:
        """Send everything and return when the last answer is in, or timed out.

        ``start`` is awaited when the first connections are open; it gives the instant, in ``clock_ns``, at which the
        schedule starts. Raises BenchError when a target can't be connected to before that.
        """
        loop = asyncio.get_running_loop()
        self._loop = loop
        requests = self.requests
        self._pools = [
            TargetPool(
                target,
                requests,
                self._renderer,
                max_connections=self._max_connections,
                on_response=self._on_response,
            )
            for target in self._targets
        ]
        alarm = self._alarm = make_alarm(loop, self._wake)
        try:
            await self._open_pools()
            start_ns = requests.start_ns = await start()
            started_unix_ns = time.time_ns() + start_ns - clock_ns()
            self._schedule()
            alarm.set(self._next_due_ns)
            while self.dispatched < self._end or requests.completed < self.dispatched:
                await asyncio.sleep(HOUSEKEEPING_S)
                self._housekeep()
            report = self._report()
            planned_s = self._workload.duration_s
            elapsed_s = (self._interrupted_ns - start_ns) / NS_PER_S if self._interrupts else planned_s
        finally:
            alarm.close()
            for pool in self._pools:
                pool.close(ABORTED)
            requests.flush()
        return SendOutcome(
            started_unix_ns // 1_000_000,
            min(max(elapsed_s, 0.0), planned_s),
            self.dispatched,
            self._interrupts > 0,
            [report],
        )

    def interrupt(self) -> None:
        """Send no further requests, and wait for those under way; when called again, cut them off."""
        self._interrupts += 1
        if self._interrupts == 1:
            self._interrupted_ns = clock_ns()
            self._end = self.dispatched
            self._next_due_ns = 1 << 62
        else:
            for pool in self._pools:
                pool.close(ABORTED)

    def snapshot(self) -> SendSnapshot:
        """Return how far it is; the latency samples are of the time since the last call."""
        requests = self.requests
        samples = requests.take_latency_samples()
        return SendSnapshot(self.dispatched, dict(requests.statuses), requests.errors.total(), samples)

    def _on_response(self, now_ns: int) -> None:
        """Send the requests that have become due meanwhile, without waiting for the alarm."""
        if self._next_due_ns <= now_ns and not self._is_wake_pending:
            self._send_due(now_ns)

    def _wake(self) -> None:
        self._is_wake_pending = False
        now_ns = clock_ns()
        self._send_due(now_ns)
        if self._next_due_ns <= now_ns:  # a burst was cut short
            self._is_wake_pending = True
            self._loop.call_soon(self._wake)
        else:
            self._alarm.set(max(self._next_due_ns, now_ns + MIN_SPACING_NS))

    def _send_due(self, now_ns: int) -> None:
        due_ns, target, pools, late = self._workload.due_ns, self._workload.target, self._pools, self._lateness_ns
        index, start_ns = self.dispatched, self.requests.start_ns
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
        self._next_due_ns = self.requests.start_ns + self._workload.due_ns[index] if index < self._end else 1 << 62

    def _housekeep(self) -> None:
        now_ns = clock_ns()
        for pool in self._pools:
            pool.sweep(now_ns)
        self.requests.flush()
        if self._cpu_from is None:
            if now_ns >= self.requests.start_ns + self._workload.warmup_s * NS_PER_S:
                self._cpu_from = (now_ns, time.process_time_ns())
        elif self._cpu_until is None and self.dispatched == self._end:
            self._cpu_until = (now_ns, time.process_time_ns())

    def _report(self) -> ProcessReport:
        """Return how this process fared.

        The CPU is counted from the end of the warm-up until the last request was sent, within some 50 ms.
        """
        from_ns, cpu_from_ns = self._cpu_from or (0, 0)
        until_ns, cpu_until_ns = self._cpu_until or (from_ns, cpu_from_ns)
        p50_ms, p99_ms = lateness_percentiles_ms(self._lateness_ns[self._workload.warmup :])
        return ProcessReport(
            requests=self.dispatched,
            cpu=(cpu_until_ns - cpu_from_ns) / (until_ns - from_ns) if until_ns > from_ns else 0.0,
            lateness_p50_ms=p50_ms,
            lateness_p99_ms=p99_ms,
            all_busy=sum(pool.all_busy for pool in self._pools),
        )

    async def _open_pools(self) -> None:
        for pool, target in zip(self._pools, self._targets, strict=True):
            try:
                await pool.open(self._first_connections)
            except OSError as error:
                reason = str(error.strerror or error or "no answer in time").lower()
                raise BenchError(
                    f"cannot open {self._first_connections} connections to {target.url} ({reason}); "
                    "start the server, or lower --connections"
                ) from None
