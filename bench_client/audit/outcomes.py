"""The proof that one record is: of an admission, of a rejection, or of usage that may have been counted."""

from __future__ import annotations

from typing import NamedTuple

from bench_client.audit.announced import Told, limits_of, remaining_of
from bench_client.audit.paths import RequestPath
from bench_client.audit.units import INPUT, NEVER, OUTPUT, REQUESTS, UNBOUNDED, UNITS, Amounts, Needs, amounts
from bench_client.records.record import Record, failed_upstream

LINGER_US = 10_000_000
"""Time after the client gave up on a request within which the limiter may still admit it (from a queue)."""


class Admission(NamedTuple):
    """Describe a request known to be admitted; its count lies between the two bounds."""

    time_ms: int
    done_us: int
    """When its settle was on its way; ``NEVER`` if that isn't known."""
    least: Amounts
    """Its least count at any time: 1, the admitted input, the output if reserved; 0 for unknown amounts. A failed
    request counts as a request, and its tokens are given back."""
    most: Amounts
    """Its largest count at any time: 1, the input, the reservation, or more if the service reported more."""
    settled: Amounts
    """Its least count after its settle: more than ``least`` by its overrun."""
    settled_most: Amounts
    """Its largest count after its settle."""
    record: Record
    path: RequestPath
    told: Told | None
    """The limits that its response announces, and what is left of them; None if it announces nothing."""


class Rejection(NamedTuple):
    """Describe a request that the limiter rejected."""

    time_ms: int
    record: Record
    path: RequestPath
    told: Told | None
    named: tuple[int, ...]
    """Ordinal on the path of the limit that rejected, or of all those that the response may mean."""
    needs: Needs
    """The need of the unit that rejected is that of the message, or the reservation."""

    @property
    def unit(self) -> int:
        """Return the unit that rejected."""
        return UNITS.index(self.record.exceeded or "")


class Possible(NamedTuple):
    """Describe usage that may have been counted while the client's clock was within the two times."""

    from_us: int
    until_us: int
    most: Amounts
    is_counted: bool = True
    """Whether it may then count for as long as a window keeps it; else it was given back by then."""


def is_decided(record: Record) -> bool:
    """Return whether the response carries a decision about a plain key, with its limits and counters.

    If the key has other limits than its own three a minute, those in the response may be of windows that other keys
    share. A 429 of the service behind the limiter carries its own limits and counters, if any, under the same names.
    """
    return (
        record.time_ms is not None
        and not record.has_other_limits
        and None not in (*limits_of(record), *remaining_of(record))
        and not (record.status == 429 and failed_upstream(record))
    )


def admission(record: Record, path: RequestPath, told: Told | None) -> Admission:
    """Return what an admitted request counts."""
    prompt, completion = record.prompt_tokens, record.completion_tokens
    is_known = record.error is None and prompt is not None and completion is not None
    reserved, admitted, produced = _reserved(record), prompt or 0, completion or 0
    input_most = max(most_input(record) if prompt is None else prompt, record.told_input_at_most or 0)
    output, output_most, told_input = min(produced, reserved), max(produced, reserved), record.told_input or 0
    least = (1, admitted, output, admitted + output)
    settled = admitted if admitted > told_input else told_input
    has_overrun = settled > admitted or produced > output
    return Admission(
        record.time_ms or 0,
        record.done_us if is_known else NEVER,
        least,
        (1, input_most, output_most, input_most + output_most),
        (1, settled, produced, settled + produced) if has_overrun else least,  # shared: there are millions of them
        (1, input_most, produced, input_most + produced),
        record,
        path,
        told,
    )


def failed_admission(record: Record, path: RequestPath, told: Told | None) -> Admission:
    """Return what an admitted request counts that the service behind the limiter failed."""
    return Admission(
        record.time_ms or 0,
        record.done_us if record.error is None else NEVER,
        amounts(1, 0, 0),
        amounts(1, most_input(record), _reserved(record)),
        amounts(1, 0, 0),
        amounts(1, 0, 0),
        record,
        path,
        told,
    )


def rejection(record: Record, path: RequestPath, told: Told | None, named: tuple[int, ...]) -> Rejection:
    """Return a rejection by one of the limits ``named``."""
    output = record.reserved_output if record.reserved_output is not None else record.max_tokens
    needs: list[int | None] = [1, None, output, None]
    unit = UNITS.index(record.exceeded or "")
    if unit not in (REQUESTS, OUTPUT) or (unit == OUTPUT and record.reserved_output is None):
        needs[unit] = record.requested
    if needs[INPUT] is not None and output is not None:
        needs[UNITS.index("tokens")] = needs[INPUT] + output  # type: ignore[operator]
    elif unit == UNITS.index("tokens") and record.requested is not None and output is not None:
        needs[INPUT] = record.requested - output
    return Rejection(record.time_ms or 0, record, path, told, named, tuple(needs))  # type: ignore[arg-type]


def possible_rejection(record: Record) -> Possible:
    """Return what a request rejected without the store may have counted there before, until it was given back."""
    reserved = UNBOUNDED if record.reserved_output is None else record.reserved_output
    most = amounts(1, most_input(record), reserved)
    return Possible(record.sent_us or 0, record.done_us + LINGER_US, most, is_counted=False)


def possible_admission(record: Record, default_reserve: int) -> Possible:
    """Return what a request may have counted whose outcome is unknown.

    ``default_reserve``: the reservation of a request without a cap.
    """
    assert record.sent_us is not None
    output = record.reserved_output
    if output is None:
        output = record.max_tokens if record.max_tokens is not None else default_reserve
    return Possible(record.sent_us, record.done_us + LINGER_US, amounts(1, most_input(record), output))


def is_refused(record: Record) -> bool:
    """Return whether the request was surely not admitted: a 4xx without a decision."""
    status = record.status
    return (
        status is not None
        and 400 <= status < 500
        and record.time_ms is None
        and status != 429
        and not failed_upstream(record)
    )


def most_input(record: Record) -> int:
    """Return a generous bound on the prompt's tokens: the plan is close to the server's count, not equal to it."""
    return 2 * record.input_tokens + 100


def _reserved(record: Record) -> int:
    if record.reserved_output is not None:
        return record.reserved_output
    return record.max_tokens if record.max_tokens is not None else UNBOUNDED
