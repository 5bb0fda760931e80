"""Sorts records by key into admissions, rejections and possible usage; knows what a response proves."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from bench_client.records.record import Record, failed_upstream

DIMENSIONS = ("requests", "input_tokens", "output_tokens")
REQUESTS, INPUT, OUTPUT = range(3)

UNBOUNDED = 1 << 60
"""More than any limit: stands for an unknown need."""
NEVER_US = 1 << 60
LINGER_US = 10_000_000
"""Time after the client gave up on a request within which the limiter may still admit it (from a queue)."""
WINDOW_MS = 60_000
TOLERANCE_MS = 100
"""One bucket: usage older than the window may count for this much longer."""

_LIMITS = slice(Record._fields.index("limit_requests"), Record._fields.index("limit_output") + 1)
_REMAINING = slice(Record._fields.index("remaining_requests"), Record._fields.index("remaining_output") + 1)


class Admission(NamedTuple):
    """Describe a request known to be admitted; its count lies between the two bounds."""

    time_ms: int
    done_us: int
    """When its settle was on its way; ``NEVER_US`` if that isn't known."""
    least: tuple[int, int, int]
    """Its least count at any time: 1, the admitted input, the output if reserved; 0 for unknown amounts. A failed
    request counts as a request, and its tokens are given back."""
    most: tuple[int, int, int]
    """Its largest count at any time: 1, the input, the reservation, or more if the service reported more."""
    settled: tuple[int, int, int]
    """Its least count after its settle: more than ``least`` by its overrun."""
    settled_most: tuple[int, int, int]
    """Its largest count after its settle."""
    record: Record
    limits: tuple[int, int, int] | None
    """In force when it was decided. If its response has none, the larger of those announced before and after; None if
    none were announced."""


class Possible(NamedTuple):
    """Describe usage that may have been counted while the client's clock was within the two times."""

    from_us: int
    until_us: int
    most: tuple[int, int, int]


@dataclass(slots=True)
class KeyTimeline:
    """Hold everything recorded of one key, in order of the store's clock."""

    key: str
    admitted: list[Admission] = field(default_factory=list)
    rejected: list[Record] = field(default_factory=list)
    possible: list[Possible] = field(default_factory=list)
    unknown: int = 0
    """Requests with an unknown outcome: timed out, broken off, or answered without a decision."""
    undecided: int = 0
    """Number of those that are successes without the time of their decision."""
    failed: int = 0
    """Admitted requests without an answer from the service behind the limiter."""
    overruns: list[tuple[int, int]] = field(default_factory=list)
    """Input and output that the service reported beyond admission and reservation, per request with an overrun."""
    degraded: Counter[str] = field(default_factory=Counter)
    """Decisions made without the store, as "policy status"."""
    degraded_admitted: list[Admission] = field(default_factory=list)


def limits_of(record: Record) -> tuple[int, int, int]:
    """Return the limits announced with a decision."""
    return record[_LIMITS]  # type: ignore[return-value]


def remaining_of(record: Record) -> tuple[int, int, int]:
    return record[_REMAINING]  # type: ignore[return-value]


def is_decided(record: Record) -> bool:
    """Return whether the response carries a decision that can be audited, with the key's limits and counters.

    If the key has other limits than its own three a minute, those in the response may be of windows that other keys
    share. A 429 of the service behind the limiter carries its own limits and counters, if any, under the same names.
    """
    return (
        record.time_ms is not None
        and not record.has_other_limits
        and None not in (*limits_of(record), *remaining_of(record))
        and not (record.status == 429 and failed_upstream(record))
    )


def build_timelines(records: Iterable[Record], window_ms: int = WINDOW_MS) -> dict[str, KeyTimeline]:
    """Return one timeline per key that was used."""
    timelines: dict[str, KeyTimeline] = {}
    unknown: dict[str, list[Record]] = {}
    default_reserve: dict[str, int] = {}
    for record in records:
        key = record.key
        timeline = timelines.get(key)
        if timeline is None:
            timeline = timelines[key] = KeyTimeline(key)
        if record.max_tokens is None and record.reserved_output is not None:
            default_reserve[key] = max(default_reserve.get(key, 0), record.reserved_output)
        if not _file_record(record, timeline):
            unknown.setdefault(key, []).append(record)
    for key, lost in unknown.items():
        timeline = timelines[key]
        timeline.unknown = len(lost)
        for record in lost:
            timeline.possible.append(_possible(record, default_reserve.get(key, UNBOUNDED), window_ms))
    for timeline in timelines.values():
        _find_overruns(timeline)
        timeline.admitted.sort(key=_admission_time)
        timeline.rejected.sort(key=_record_time)
        if timeline.failed:
            _find_limits(timeline)
    return timelines


def _find_overruns(timeline: KeyTimeline) -> None:
    """Note overruns. A service that reported more than was admitted may have done so in unseen responses as well."""
    for admission in timeline.admitted:
        inputs, outputs = (admission.settled[d] - admission.least[d] for d in (INPUT, OUTPUT))
        if inputs or outputs:
            timeline.overruns.append((inputs, outputs))
    if not any(a.settled_most[d] > a.least[d] for a in timeline.admitted for d in (INPUT, OUTPUT)):
        return
    for index, admission in enumerate(timeline.admitted):
        if admission.done_us == NEVER_US:
            timeline.admitted[index] = admission._replace(most=(1, UNBOUNDED, UNBOUNDED))
    timeline.possible = [possible._replace(most=(1, UNBOUNDED, UNBOUNDED)) for possible in timeline.possible]


def _find_limits(timeline: KeyTimeline) -> None:
    announced = [(a.time_ms, a.limits) for a in timeline.admitted if a.limits is not None]
    announced += [(r.time_ms or 0, limits_of(r)) for r in timeline.rejected]
    announced.sort()
    if not announced:
        return
    for index, admission in enumerate(timeline.admitted):
        if admission.limits is None:
            place = bisect_left(announced, (admission.time_ms,))
            around = [limits for _, limits in announced[max(place - 1, 0) : place + 1]]
            timeline.admitted[index] = admission._replace(limits=tuple(map(max, *around, around[0])))


def _file_record(record: Record, timeline: KeyTimeline) -> bool:
    """File the record; return False if its outcome is unknown."""
    if record.sent_us is None:
        return True
    status, failed = record.status, failed_upstream(record)
    if record.degraded is not None and (status in (200, 429) or failed):
        timeline.degraded[f"{record.degraded} {'failed' if failed else status}"] += 1
        if status == 200 or failed:
            admission = _failed(record) if failed else _admission(record)
            if is_decided(record) or (failed and record.time_ms is not None):
                timeline.degraded_admitted.append(admission)
            # Charged to the window when the store is back, at a time that no response shows.
            timeline.possible.append(Possible(record.sent_us, NEVER_US, admission.most))
        else:
            # The store may have admitted it before the failure: then it counts until the node gives it back.
            most = (1, _most_input(record), UNBOUNDED if record.reserved_output is None else record.reserved_output)
            timeline.possible.append(Possible(record.sent_us, record.done_us + LINGER_US, most))
        return True
    if status == 200 and is_decided(record):
        timeline.admitted.append(_admission(record))
        return True
    if failed and record.time_ms is not None:
        timeline.admitted.append(_failed(record))
        timeline.failed += 1
        return True
    if status == 429 and is_decided(record) and record.exceeded in DIMENSIONS:
        timeline.rejected.append(record)
        return True
    if status == 200 and record.error is None:
        timeline.undecided += 1
    # A 4xx without a decision never counted; any other request may have been admitted before it failed.
    return status is not None and 400 <= status < 500 and record.time_ms is None and status != 429 and not failed


def _admission(record: Record) -> Admission:
    prompt, completion = record.prompt_tokens, record.completion_tokens
    is_known = record.error is None and prompt is not None and completion is not None
    reserved, admitted, produced = _reserved(record), prompt or 0, completion or 0
    input_most = max(_most_input(record) if prompt is None else prompt, record.told_input_at_most or 0)
    return Admission(
        record.time_ms or 0,
        record.done_us if is_known else NEVER_US,
        (1, admitted, min(produced, reserved)),
        (1, input_most, max(produced, reserved)),
        (1, max(admitted, record.told_input or 0), produced),
        (1, input_most, produced),
        record,
        limits_of(record) if is_decided(record) else None,
    )


def _failed(record: Record) -> Admission:
    return Admission(
        record.time_ms or 0,
        record.done_us if record.error is None else NEVER_US,
        (1, 0, 0),
        (1, _most_input(record), _reserved(record)),
        (1, 0, 0),
        (1, 0, 0),
        record,
        limits_of(record) if is_decided(record) else None,
    )


def _reserved(record: Record) -> int:
    if record.reserved_output is not None:
        return record.reserved_output
    return record.max_tokens if record.max_tokens is not None else UNBOUNDED


def _possible(record: Record, default_reserve: int, window_ms: int) -> Possible:
    assert record.sent_us is not None
    output = record.reserved_output
    if output is None:
        output = record.max_tokens if record.max_tokens is not None else default_reserve
    until_us = record.done_us + LINGER_US + (window_ms + TOLERANCE_MS) * 1_000
    return Possible(record.sent_us, until_us, (1, _most_input(record), output))


def _most_input(record: Record) -> int:
    """Return a generous bound on the prompt's tokens: the plan is close to the server's count, not equal to it."""
    return 2 * record.input_tokens + 100


def _admission_time(admission: Admission) -> int:
    return admission.time_ms


def _record_time(record: Record) -> int:
    return record.time_ms or 0
