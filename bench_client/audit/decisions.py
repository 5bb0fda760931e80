"""Checks 2 and 3, on every decision of a key: rejections were justified, and the announced counters are possible ones.

A rejection is justified when its binding dimension's upper bound plus its need exceeds the limit, so it is at most
100 ms too late. The counters (limit - remaining) must lie between the bounds: a counter above the upper one holds usage
that is not of this run (rejected requests, lost settles, failed requests' tokens, other clients); a counter below the
lower one has lost usage, which leads to over-admission. No request may be admitted before an earlier overrun has been
paid off: the lower bound plus the request's need must fit in the limit. A need of 0 always fits.
"""

from __future__ import annotations

from bench_client.audit.bounds import UsageBounds
from bench_client.audit.report import Findings
from bench_client.audit.timeline import (
    DIMENSIONS,
    INPUT,
    OUTPUT,
    REQUESTS,
    KeyTimeline,
    is_decided,
    limits_of,
    remaining_of,
)
from bench_client.records.record import Record


def check_decisions(timeline: KeyTimeline, bounds: UsageBounds, findings: Findings, held_until_us: int) -> int:
    """Check all decisions of a key and return how many rejections were held against the bounds.

    Decisions after ``held_until_us`` are not checked: in a run that was cut off, requests that may have been admitted
    before them are missing.
    """
    own_of_admitted = {id(a.record): a.least for a in timeline.admitted}
    decisions = [a.record for a in timeline.admitted if is_decided(a.record)] + timeline.rejected
    decisions.sort(key=_sent)
    held = 0
    for record in decisions:
        own = own_of_admitted.get(id(record))
        if not timeline.degraded:
            _check_not_forgotten(timeline.key, record, bounds, own or (0, 0, 0), findings)
            if own is not None and timeline.overruns:
                _check_paid_off(timeline.key, record, bounds, findings)
        if record.done_us > held_until_us:
            continue
        upper = bounds.upper(record)
        _check_not_invented(timeline.key, record, bounds, upper, findings)
        if own is None:
            held += 1
            _check_justified(timeline.key, record, upper, findings)
    return held


def requested_of(record: Record) -> int | None:
    """Return the need of a rejected request in its binding dimension; None if the response doesn't say."""
    match DIMENSIONS.index(record.exceeded or ""):
        case dimension if dimension == REQUESTS:
            return 1
        case dimension if dimension == INPUT:
            return record.requested
        case _:
            return record.reserved_output if record.reserved_output is not None else record.requested


def _check_justified(key: str, record: Record, upper: tuple[int, int, int], findings: Findings) -> None:
    dimension = DIMENSIONS.index(record.exceeded or "")
    limit, requested = limits_of(record)[dimension], requested_of(record)
    if requested is None:
        return  # ``responses`` reports it
    if record.never_fits:
        if requested <= limit:
            findings.add(
                "unjustified 429",
                key,
                record,
                f"the message says {requested} {DIMENSIONS[dimension]} never fit {limit}",
            )
    elif upper[dimension] + requested <= limit:
        findings.add(
            "unjustified 429",
            key,
            record,
            f"at {record.time_ms} ms at most {upper[dimension]} {DIMENSIONS[dimension]} were in use and {requested} "
            f"requested, limit {limit}",
        )


def _check_not_invented(
    key: str, record: Record, bounds: UsageBounds, upper: tuple[int, int, int], findings: Findings
) -> None:
    limits, remaining = limits_of(record), remaining_of(record)
    if any(limits[dimension] - remaining[dimension] > upper[dimension] for dimension in range(3)):
        # A decision whose reply was lost is repeated later, with the counters of some moment before the response came.
        assert record.sent_us is not None
        upper = bounds.upper(record, -((record.sent_us - record.done_us) // 1_000))
    for dimension in (REQUESTS, INPUT, OUTPUT):
        used = limits[dimension] - remaining[dimension]
        if used > upper[dimension]:
            findings.add(
                "counted too much",
                key,
                record,
                f"at {record.time_ms} ms the response says {used} {DIMENSIONS[dimension]} in use, at most "
                f"{upper[dimension]} can have been",
            )


def _check_not_forgotten(
    key: str, record: Record, bounds: UsageBounds, own: tuple[int, int, int], findings: Findings
) -> None:
    limits, remaining, lower = limits_of(record), remaining_of(record), bounds.lower(record)
    for dimension in (REQUESTS, INPUT, OUTPUT):
        if remaining[dimension] <= 0:
            continue  # any usage beyond the limit is announced as "none left"
        used = limits[dimension] - remaining[dimension]
        if used < lower[dimension] + own[dimension]:
            findings.add(
                "counted too little",
                key,
                record,
                f"at {record.time_ms} ms the response says {used} {DIMENSIONS[dimension]} in use, at least "
                f"{lower[dimension] + own[dimension]} were",
            )


def _check_paid_off(key: str, record: Record, bounds: UsageBounds, findings: Findings) -> None:
    limits, lower, overruns = limits_of(record), bounds.lower(record), bounds.overrun(record)
    needs = (record.prompt_tokens or 0, record.reserved_output or 0)
    for dimension, need, overrun in zip((INPUT, OUTPUT), needs, overruns, strict=True):
        if overrun and need and lower[dimension] + need > limits[dimension]:
            findings.add(
                "admitted before an overrun was paid off",
                key,
                record,
                f"at {record.time_ms} ms at least {lower[dimension]} {DIMENSIONS[dimension]} were in use, {overrun} of "
                f"them reported by the service beyond its admission, and {need} requested, limit {limits[dimension]}",
            )


def _sent(record: Record) -> int:
    return record.sent_us or 0
