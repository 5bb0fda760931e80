"""Collects the series of the figures in one pass over a run's records: rates and latencies over time, use per key.

Memory is O(bins + keys), for any number of records. The same pass makes the run's summary, by the same code as
``summary.json``, so that page and terminal agree.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from bench_client.audit.announced import limits_of
from bench_client.audit.outcomes import is_decided
from bench_client.errors import BenchError
from bench_client.records.record import Record, failed_upstream
from bench_client.records.record_file import RecordReader
from bench_client.records.run_directory import open_records
from bench_client.report.sources import Source
from bench_client.results.counts import ALL_REASONS, rejection_reason
from bench_client.results.histograms import MAX_TRACKABLE_US, latency_histogram
from bench_client.results.summary import Summary, summarize

SHORT_S = 10.0
"""Runs shorter than that get bins of ``SHORT_WIDTH_S``."""
SHORT_WIDTH_S = 0.2
WIDTHS_S = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 1800, 3600)
MAX_BINS = 240
MAX_LATE_BINS = 60
"""Answers that come later than this many bins after the last due time are counted in the last bin."""
_NUMBERS = tuple(
    place
    for place, name in enumerate(Record._fields)
    if name.endswith(("_us", "_ms", "_tokens")) or name.startswith(("limit_", "remaining_")) or name == "request"
)
_NEEDED = (Record._fields.index("request"), Record._fields.index("due_us"), Record._fields.index("done_us"))
_MOST = 1 << 53
"""No number in a record is larger; a file that says so is damaged."""


@dataclass(frozen=True, slots=True)
class Timeline:
    """Hold counts per bin, without the warm-up: requests by their due time, their outcomes by the time of these.

    Times are in seconds from the end of the warm-up.
    """

    edges_s: list[float]
    """One more than bins. While load was offered bins are equal, but for the last: it takes the remainder, too."""
    offered: list[int]
    admitted: list[int]
    rejected: dict[str, list[int]]
    """By reason, only those there were."""
    other: list[int]
    """Whole responses of any other status."""
    errors: list[int]
    p50_ms: list[float | None]
    """Latency of the complete responses to the requests that were due in the bin; None where there are none."""
    p99_ms: list[float | None]

    def rates(self, counts: list[int]) -> list[float]:
        """Return the rates per second."""
        edges = self.edges_s
        return [count / (edges[i + 1] - edges[i]) for i, count in enumerate(counts)]


@dataclass(slots=True)
class KeyUse:
    """Hold the use of one key, warm-up included."""

    requests: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    used: list[int] = field(default_factory=lambda: [0, 0, 0])
    """Admitted amounts, by dimension."""
    limits: tuple[int, int, int] = (0, 0, 0)
    """As last announced."""


@dataclass(frozen=True, slots=True)
class Collected:
    """Hold all that one pass over a run's records gives."""

    summary: Summary
    timeline: Timeline
    keys: dict[str, KeyUse]
    admitted_us: Any
    """Latency histograms, as those of the summary."""
    rejected_us: Any
    clock_ms: int | None
    """The store's clock at the end of the warm-up, by the quickest decision; None where there was no decision."""
    complete: bool
    """False where records of requests that were sent are missing."""


def collect(source: Source) -> Collected:
    """Collect a run's figures. Raises BenchError if the records can't be read, or there was not a single response."""
    reader = open_records(source.directory, source.info)
    watch = _Watch(source)
    try:
        summary = summarize(watch.all_of(reader), source.info)
    except (TypeError, ValueError, AttributeError, OverflowError):
        raise BenchError(f"{reader.path} has a record with a value of the wrong type; make the run again") from None
    if not summary.total.statuses:
        causes = ", ".join(f"{count:,} {kind}" for kind, count in summary.total.errors.most_common())
        raise BenchError(
            f"{source.directory}: no request was answered ({causes or 'none was sent'}): nothing to report"
        )
    return watch.collected(summary, reader)


class _Watch:
    """Look at the records on their way to the summary."""

    def __init__(self, source: Source) -> None:
        info = source.info
        self._info = info
        self._from_us = int(info.warmup_s * 1e6)
        self._seconds = max((info.sending_s or info.planned_s) - info.warmup_s, 0.001)
        width = self._width = _width_s(self._seconds)
        self._bins = max(round(self._seconds / width), 1)
        size = self._bins + MAX_LATE_BINS
        self._offered, self._admitted, self._other, self._errors = ([0] * size for _ in range(4))
        self._rejected = {reason: [0] * size for reason in ALL_REASONS}
        self._latency_us: dict[int, Any] = {}
        self._keys: dict[str, KeyUse] = {}
        self._admitted_us, self._rejected_us = (latency_histogram() for _ in range(2))
        self._clock_us: int | None = None
        self._seen = 0

    def all_of(self, records: Iterable[Record]) -> Iterator[Record]:
        for record in records:
            self._seen += 1
            _check(record)
            self._count_key(record)
            if record.request >= self._info.warmup:
                self._count(record)
            yield record

    def collected(self, summary: Summary, reader: RecordReader) -> Collected:
        info = self._info
        return Collected(
            summary,
            self._timeline(),
            self._keys,
            self._admitted_us,
            self._rejected_us,
            None if self._clock_us is None else self._clock_us // 1_000,
            info.finished and reader.problem is None and self._seen == info.dispatched,
        )

    def _count_key(self, record: Record) -> None:
        use = self._keys.get(record.key)
        if use is None:
            use = self._keys[record.key] = KeyUse()
        use.requests += 1
        failed = failed_upstream(record)
        if failed and record.degraded is None and record.time_ms is not None:
            use.used[0] += 1
        if record.degraded is not None:
            return
        if record.time_ms is not None and record.sent_us is not None:
            clock_us = record.time_ms * 1_000 - record.sent_us + self._from_us
            self._clock_us = clock_us if self._clock_us is None else min(self._clock_us, clock_us)
        if not is_decided(record):
            return
        use.limits = limits_of(record)
        if record.status == 429 and not failed:
            use.rejected[rejection_reason(record)] += 1
        elif record.status == 200:
            for dimension, amount in enumerate((1, record.prompt_tokens or 0, record.completion_tokens or 0)):
                use.used[dimension] += amount

    def _count(self, record: Record) -> None:
        due, done = self._bin(record.due_us), self._bin(record.done_us)
        self._offered[due] += 1
        if record.error is not None or record.status is None:
            self._errors[done] += 1
            return
        latency_us = min(max(record.done_us - record.due_us, 1), MAX_TRACKABLE_US)
        histogram = self._latency_us.get(due)
        if histogram is None:
            histogram = self._latency_us[due] = latency_histogram(digits=2)
        histogram.record_value(latency_us)
        if record.status == 200:
            self._admitted[done] += 1
            self._admitted_us.record_value(latency_us)
        elif record.status == 429 and not failed_upstream(record):
            self._rejected[rejection_reason(record)][done] += 1
            self._rejected_us.record_value(latency_us)
        else:
            self._other[done] += 1

    def _bin(self, at_us: int) -> int:
        at_s = (at_us - self._from_us) / 1e6
        if at_s < self._seconds:
            return min(max(int(at_s / self._width), 0), self._bins - 1)
        return min(self._bins + int((at_s - self._seconds) / self._width), self._bins + MAX_LATE_BINS - 1)

    def _timeline(self) -> Timeline:
        """Return the timeline without the empty bins at its end."""
        series = (self._offered, self._admitted, self._other, self._errors, *self._rejected.values())
        end = max((i + 1 for counts in series for i, count in enumerate(counts) if count), default=1)
        edges = [i * self._width for i in range(self._bins)]
        edges += [self._seconds + i * self._width for i in range(MAX_LATE_BINS + 1)]
        latencies = [self._latency_us.get(i) for i in range(end)]
        return Timeline(
            edges_s=edges[: end + 1],
            offered=self._offered[:end],
            admitted=self._admitted[:end],
            rejected={reason: counts[:end] for reason, counts in self._rejected.items() if any(counts)},
            other=self._other[:end],
            errors=self._errors[:end],
            p50_ms=[_percentile_ms(each, 50.0) for each in latencies],
            p99_ms=[_percentile_ms(each, 99.0) for each in latencies],
        )


def _check(record: Record) -> None:
    """Raise TypeError for values that would only fail later, or be taken for something else."""
    for place in _NUMBERS:
        value = record[place]
        if value is None:
            if place in _NEEDED:
                raise TypeError(place)
        elif type(value) is not int or not -_MOST < value < _MOST:
            raise TypeError(place)
    if type(record.key) is not str or not isinstance(record.node, (str, type(None))):
        raise TypeError(record)


def _width_s(seconds: float) -> float:
    if seconds < SHORT_S:
        return SHORT_WIDTH_S
    return next((width for width in WIDTHS_S if seconds / width <= MAX_BINS), seconds / MAX_BINS)


def _percentile_ms(histogram: Any, percentile: float) -> float | None:
    return None if histogram is None else histogram.get_value_at_percentile(percentile) / 1_000
