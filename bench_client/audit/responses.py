"""Check 4: each decided response is consistent in itself, regardless of other responses."""

from __future__ import annotations

from collections.abc import Iterator

from bench_client.audit.announced import Told, limits_of, remaining_of
from bench_client.audit.findings import INCONSISTENT, Findings
from bench_client.audit.outcomes import Rejection
from bench_client.audit.paths import RequestPath
from bench_client.audit.timeline import Timeline
from bench_client.audit.units import DIMENSIONS, OUTPUT, REQUESTS, UNITS
from bench_client.records.record import Record, failed_upstream


def check_responses(timeline: Timeline, findings: Findings) -> None:
    """Check the responses to all decided requests on one path."""
    for each in timeline.admitted:
        for problem in _of_admission(each.record, each.path, each.told):
            findings.add(INCONSISTENT, each.record, problem)
    for rejected in timeline.rejected:
        for problem in _of_rejection(rejected):
            findings.add(INCONSISTENT, rejected.record, problem)
    for record, problem in timeline.wrongly_named:
        findings.add(INCONSISTENT, record, problem)


def _of_any(record: Record, path: RequestPath, told: Told | None) -> Iterator[str]:
    if told is not None:
        names = DIMENSIONS if path.is_plain else told.listed.names
        for name, limit, remaining in zip(names, told.listed.amounts, told.remaining, strict=True):
            if not 0 <= remaining <= limit:
                yield f"{remaining} {name} remaining of a limit of {limit}"
        yield from _of_minutes(record, told)
    elif not path.is_plain and not failed_upstream(record):
        yield "RateLimit doesn't list the limits of RateLimit-Policy"
    elif record.status != 429 and path.is_plain:  # a 429 of the upstream may replace the limiter's
        yield "a decision without all limits and counters"
    if record.reserved_output is None:
        yield "no x-limiter-reserved-output"
    elif record.max_tokens is not None and record.reserved_output != record.max_tokens:
        yield f"{record.reserved_output} output tokens reserved for a cap of {record.max_tokens}"


def _of_minutes(record: Record, told: Told) -> Iterator[str]:
    """Check that `x-ratelimit-*` are of the limit of a minute with the fewest remaining, and of these the smallest."""
    amounts, left = told.listed.amounts, told.remaining
    figures = zip(DIMENSIONS, told.listed.per_minute, limits_of(record), remaining_of(record), strict=False)
    for name, positions, limit, remaining in figures:
        tightest = min(((left[at], amounts[at]) for at in positions), default=(None, None))
        if (remaining, limit) != tightest:
            expected = f"{tightest[0]} of {tightest[1]}"
            yield f"x-ratelimit-* tell {remaining} of {limit} {name}, RateLimit {expected} per minute"


def _of_admission(record: Record, path: RequestPath, told: Told | None) -> Iterator[str]:
    yield from _of_any(record, path, told)
    if record.error is not None or failed_upstream(record):
        return
    if record.prompt_tokens is None or record.completion_tokens is None:
        yield "a success without usage"


def _of_rejection(each: Rejection) -> Iterator[str]:
    record = each.record
    yield from _of_any(record, each.path, each.told)
    if record.upstream_status is not None:
        yield f"a rejection by the limiter that also claims to be the upstream's {record.upstream_status}"
    if record.error is not None:
        return  # the body with the requested amount may be missing
    unit, requested = each.unit, each.needs[each.unit]
    if requested is None:
        yield "a rejection without the requested amount"
        return
    if unit in (REQUESTS, OUTPUT) and record.requested is not None and record.requested != requested:
        yield f"the message says {record.requested} {UNITS[unit]} requested, the request needed {requested}"
    if record.never_fits:
        if record.retry_after_ms is not None:
            yield "a rejection that never fits, yet with a time to retry"
        yield from _too_small(each)
        return
    figures = _of_named(each)
    if figures is not None:
        limit, remaining = figures
        if requested > limit:
            yield f"{requested} {UNITS[unit]} can never fit in {limit}, but the response does not say so"
        if requested <= remaining:
            yield f"rejected for {requested} {UNITS[unit]} while {remaining} remained"
    if record.retry_after_ms is None:
        yield "a rejection without retry-after-ms"


def _of_named(each: Rejection) -> tuple[int, int] | None:
    """Return what is announced of the limit that rejected: amount and remainder; None if that isn't known."""
    if each.told is None or len(each.named) != 1:
        return None
    positions = each.told.listed.positions.get(each.named[0], ())
    if len(positions) != 1:
        return None
    return each.told.listed.amounts[positions[0]], each.told.remaining[positions[0]]


def _too_small(each: Rejection) -> Iterator[str]:
    """Check that a rejection that never fits names the smallest limit on the path that is too small."""
    if each.told is None or len(each.named) != 1:
        return
    named = _amount(each, each.named[0])
    too_small = [
        amount
        for ordinal, on_path in enumerate(each.path.limits)
        if on_path.limit.enforces
        and (amount := _amount(each, ordinal)) is not None
        and (each.needs[on_path.limit.unit] or 0) > amount
    ]
    if named is not None and too_small and min(too_small) < named:
        yield f"never fits in a limit of {named}, though the smaller one of {min(too_small)} is too small as well"


def _amount(each: Rejection, ordinal: int) -> int | None:
    """Return the amount of a limit on the path: as announced, else as declared."""
    assert each.told is not None
    positions = each.told.listed.positions.get(ordinal, ())
    return each.told.listed.amounts[positions[0]] if positions else each.path.limits[ordinal].limit.amount
