"""Check 5: retry-after is honest, where that can be known from outside.

Too short (sound in every dimension): the admissions before the rejection that are still in the window at the promised
time, at their final usage, must leave room for the request.

Too long (sound for requests and input only, because settles give output back at times nobody can see): usage of the
binding dimension falls only as time passes, so no request of the same key with as large a need can be admitted between
the rejection and the promised time. Not applied to keys with unknown outcomes or degraded decisions, to input if
requests failed (they give it back), nor if the limit has changed or records are missing.
"""

from __future__ import annotations

from collections.abc import Iterable

from bench_client.audit.bounds import UsageBounds
from bench_client.audit.decisions import requested_of
from bench_client.audit.report import Findings
from bench_client.audit.timeline import DIMENSIONS, INPUT, REQUESTS, KeyTimeline, is_decided, limits_of
from bench_client.records.record import Record

KIND = "dishonest retry-after"


def check_retries(timeline: KeyTimeline, bounds: UsageBounds, findings: Findings, *, is_complete: bool = True) -> None:
    retriable = [r for r in timeline.rejected if r.retry_after_ms is not None and not r.never_fits]
    if timeline.degraded:
        return
    for record in retriable:
        _check_not_short(timeline.key, record, bounds, findings)
    if timeline.unknown or not is_complete:
        return
    for dimension in (REQUESTS,) if timeline.failed else (REQUESTS, INPUT):
        if len({limits_of(record)[dimension] for record in _decisions(timeline)}) == 1:
            bound_by = [r for r in retriable if r.exceeded == DIMENSIONS[dimension]]
            _check_not_long(timeline, dimension, bound_by, findings)


def _check_not_short(key: str, record: Record, bounds: UsageBounds, findings: Findings) -> None:
    assert record.time_ms is not None
    assert record.retry_after_ms is not None
    promised_ms = record.time_ms + record.retry_after_ms
    dimension, requested = DIMENSIONS.index(record.exceeded or ""), requested_of(record)
    used, limit = (
        bounds.lower_at(promised_ms - bounds.window_ms, record.time_ms)[dimension],
        limits_of(record)[dimension],
    )
    if requested is not None and used + requested > limit:
        findings.add(
            KIND,
            key,
            record,
            f"{record.retry_after_ms} ms are too short: {used} {DIMENSIONS[dimension]} will still be in use and "
            f"{requested} requested, limit {limit}",
        )


def _check_not_long(timeline: KeyTimeline, dimension: int, rejected: list[Record], findings: Findings) -> None:
    """Check from the newest back, with a stack of those admissions that are larger than all between them and now."""
    admitted = timeline.admitted
    index = len(admitted) - 1
    times_ms: list[int] = []
    needs: list[int] = []  # falling from the bottom to the top
    for record in reversed(rejected):
        assert record.time_ms is not None
        assert record.retry_after_ms is not None
        while index >= 0 and admitted[index].time_ms > record.time_ms:
            need = admitted[index].least[dimension]
            while needs and needs[-1] <= need:
                needs.pop()
                times_ms.pop()
            needs.append(need)
            times_ms.append(admitted[index].time_ms)
            index -= 1
        requested = requested_of(record)
        if requested is None:
            continue
        # needs falls towards the top: the topmost with need >= requested is the next such admission in time
        place = _last_at_least(needs, requested)
        if place >= 0 and times_ms[place] < record.time_ms + record.retry_after_ms:
            findings.add(
                KIND,
                timeline.key,
                record,
                f"{record.retry_after_ms} ms are too long: as much was admitted after "
                f"{times_ms[place] - record.time_ms} ms",
            )


def _last_at_least(falling: list[int], bound: int) -> int:
    """Return the index of the last element that is at least ``bound`` in a falling list; -1 if there is none."""
    low, high = 0, len(falling)
    while low < high:
        middle = (low + high) // 2
        if falling[middle] >= bound:
            low = middle + 1
        else:
            high = middle
    return low - 1


def _decisions(timeline: KeyTimeline) -> Iterable[Record]:
    yield from (a.record for a in timeline.admitted if is_decided(a.record))
    yield from timeline.rejected
