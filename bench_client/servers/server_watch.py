"""Watches the servers while load is offered: samples of each target's ``/metrics``, and the CPU of known processes.

The sending must not notice. Each target has a thread that does nothing but blocking I/O, once a second or less, and
keeps what comes; targets take turns within the second; pages are read when the sending has ended. A target whose first
answer isn't a node's is not asked again, and nobody waits for one that doesn't answer.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from threading import Event, Thread
from time import monotonic
from types import TracebackType
from typing import Self

from bench_client.clock import NS_PER_S, clock_ns
from bench_client.records.process_report import ProcessReport
from bench_client.servers.metrics_page import Page, Scraper, read_pages
from bench_client.servers.procfs import LocalProcess
from bench_client.servers.servers_file import CLIENT, ProcessUse, Servers
from bench_client.servers.targets import LoadTarget

MIN_PERIOD_S = 1.0
MAX_SAMPLES = 240
"""Most samples of a target, about: a long run is sampled less often."""
MAX_TARGET_BYTES = 16 << 20
"""A target whose pages add up to more than that is not asked again."""
STOP_TIMEOUT_S = 1.0
"""Time for the last samples of targets that have answered before."""


class ServerWatch:
    """Watch the servers during one run's sending; a context manager. Call ``on_start`` when the schedule starts."""

    def __init__(
        self, targets: Sequence[LoadTarget], duration_s: float, processes: Sequence[LocalProcess] = ()
    ) -> None:
        """``duration_s`` is the schedule's; ``processes`` are those whose CPU is read."""
        self._period_s = max(MIN_PERIOD_S, duration_s / MAX_SAMPLES)
        self._sample_times = _SampleTimes(duration_s)
        self._targets = [
            _TargetWatch(target, self._sample_times, self._period_s, self._period_s * turn / len(targets))
            for turn, target in enumerate(targets)
        ]
        self._processes = _ProcessWatch(processes, self._sample_times, duration_s)

    def __enter__(self) -> Self:
        for target in self._targets:
            target.start()
        self._processes.start()
        return self

    def on_start(self, start_ns: int) -> None:
        """Note that the schedule starts at ``start_ns``, in ``clock_ns``: now is just before."""
        self._sample_times.begin(start_ns)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Take the last samples, unless they have been taken, and end the threads."""
        self._sample_times.end()
        deadline = monotonic() + STOP_TIMEOUT_S
        self._processes.join(STOP_TIMEOUT_S)
        for target in self._targets:
            if kind is None and target.pages:
                target.join(max(deadline - monotonic(), 0))
            target.scraper.abort()

    def servers(self, client: Sequence[ProcessReport], sending_s: float) -> Servers:
        """Return what was seen, and the client's processes. Call it after the sending: it parses the pages."""
        start_ns = self._sample_times.start_ns
        targets = tuple(read_pages(each.url, tuple(each.pages), start_ns) for each in self._targets)
        processes = self._processes.used(sending_s) or [used for each in targets if (used := each.cpu())]
        cores = sum(report.cpu for report in client)
        return Servers(self._period_s, targets, (*processes, ProcessUse(CLIENT, CLIENT, cores * sending_s, cores)))


class _SampleTimes:
    """Tell threads when samples are due."""

    def __init__(self, duration_s: float) -> None:
        self.start_ns = 0
        """0 until the schedule has a start."""
        self._duration_s = duration_s
        self._begun, self._ended = Event(), Event()

    def begin(self, start_ns: int) -> None:
        self.start_ns = start_ns
        self._begun.set()

    def end(self) -> None:
        self._ended.set()
        self._begun.set()

    def each(self, period_s: float, ahead_s: float = 0.0) -> Iterator[None]:
        """One just before the schedule's start, one each period (``ahead_s`` earlier), one when no load is offered any
        more; none if the schedule never starts."""
        self._begun.wait()
        if not self.start_ns:
            return
        yield
        due_s, is_last = period_s - ahead_s, False
        while not is_last:
            is_last = self._wait_until(min(due_s, self._duration_s)) or due_s >= self._duration_s
            yield
            due_s += period_s

    def _wait_until(self, at_s: float) -> bool:
        """Wait until then; return True if the end came first."""
        return self._ended.wait(max(self.start_ns / NS_PER_S + at_s - clock_ns() / NS_PER_S, 0))


class _TargetWatch(Thread):
    """Keep the pages of one target."""

    def __init__(self, target: LoadTarget, sample_times: _SampleTimes, period_s: float, ahead_s: float) -> None:
        super().__init__(name=f"metrics of {target.url}", daemon=True)
        self.url = target.url
        self.scraper = Scraper(target)
        self.pages: list[Page] = []
        self._sample_times, self._period_s, self._ahead_s = sample_times, period_s, ahead_s

    def run(self) -> None:
        try:
            first = self.scraper.fetch()  # opens the connection, too
            if first is None or not first.is_a_nodes:
                return
            kept_bytes = 0
            for _ in self._sample_times.each(self._period_s, self._ahead_s):
                if page := self.scraper.fetch():
                    kept_bytes += len(page.body)
                    if kept_bytes > MAX_TARGET_BYTES:
                        return
                    self.pages.append(page)
        finally:
            self.scraper.close()


class _ProcessWatch(Thread):
    """Read the CPU of processes before and after."""

    def __init__(self, processes: Sequence[LocalProcess], sample_times: _SampleTimes, duration_s: float) -> None:
        super().__init__(name="CPU of the servers", daemon=True)
        self._watched, self._sample_times, self._duration_s = processes, sample_times, duration_s
        self._readings: list[list[float | None]] = []

    def run(self) -> None:
        for _ in self._sample_times.each(self._duration_s):
            self._readings.append([process.cpu_seconds() for process in self._watched])

    def used(self, sending_s: float) -> list[ProcessUse]:
        """Return the use of the processes that lived from the start to the end."""
        if len(self._readings) < 2 or sending_s <= 0:
            return []
        return [
            ProcessUse(process.name, process.kind, after - before, (after - before) / sending_s)
            for process, before, after in zip(self._watched, self._readings[0], self._readings[-1], strict=True)
            if before is not None and after is not None
        ]
