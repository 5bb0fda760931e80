"""Check 4: each decided response is consistent in itself, regardless of other responses."""

from __future__ import annotations

from collections.abc import Iterator

from bench_client.audit.decisions import requested_of
from bench_client.audit.report import Findings
from bench_client.audit.timeline import DIMENSIONS, OUTPUT, REQUESTS, KeyTimeline, is_decided, limits_of, remaining_of
from bench_client.records.record import Record, failed_upstream


def check_responses(timeline: KeyTimeline, findings: Findings) -> None:
    for admission in timeline.admitted:
        for problem in _of_admission(admission.record):
            findings.add("inconsistent response", timeline.key, admission.record, problem)
    for record in timeline.rejected:
        for problem in _of_rejection(record):
            findings.add("inconsistent response", timeline.key, record, problem)


def _of_any(record: Record) -> Iterator[str]:
    if is_decided(record):
        for name, limit, remaining in zip(DIMENSIONS, limits_of(record), remaining_of(record), strict=True):
            if not 0 <= remaining <= limit:
                yield f"{remaining} {name} remaining of a limit of {limit}"
    elif record.status != 429:  # a 429 of the upstream may replace the limiter's
        yield "a decision without all limits and counters"
    if record.reserved_output is None:
        yield "no x-limiter-reserved-output"
    elif record.max_tokens is not None and record.reserved_output != record.max_tokens:
        yield f"{record.reserved_output} output tokens reserved for a cap of {record.max_tokens}"


def _of_admission(record: Record) -> Iterator[str]:
    yield from _of_any(record)
    if record.error is not None or failed_upstream(record):
        return
    if record.prompt_tokens is None or record.completion_tokens is None:
        yield "a success without usage"


def _of_rejection(record: Record) -> Iterator[str]:
    yield from _of_any(record)
    if record.upstream_status is not None:
        yield f"a rejection by the limiter that also claims to be the upstream's {record.upstream_status}"
    if record.error is not None:
        return  # the body with the requested amount may be missing
    dimension = DIMENSIONS.index(record.exceeded or "")
    limit, remaining, requested = limits_of(record)[dimension], remaining_of(record)[dimension], requested_of(record)
    if requested is None:
        yield "a rejection without the requested amount"
        return
    if dimension in (REQUESTS, OUTPUT) and record.requested is not None and record.requested != requested:
        yield f"the message says {record.requested} {DIMENSIONS[dimension]} requested, the request needed {requested}"
    if record.never_fits:
        if record.retry_after_ms is not None:
            yield "a rejection that never fits, yet with a time to retry"
        return
    if requested > limit:
        yield f"{requested} {DIMENSIONS[dimension]} can never fit in {limit}, but the response does not say so"
    if requested <= remaining:
        yield f"rejected for {requested} {DIMENSIONS[dimension]} while {remaining} remained"
    if record.retry_after_ms is None:
        yield "a rejection without retry-after-ms"
