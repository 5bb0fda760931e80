"""The record of one request: its plan, its times, and the limiter's response.

Times are microseconds from the start of the schedule; None is "not said" or "never". ``record_file`` keeps records on
disk: columns that were added later come last.
"""

from __future__ import annotations

from typing import NamedTuple


class Record(NamedTuple):
    """Describe one request. Never holds the API key or any text of prompt and answer."""

    request: int
    """Its place in the schedule."""
    due_us: int
    sent_us: int | None
    """None: it was never sent, because no connection was free."""
    done_us: int
    target: int
    """Index into the targets in ``run.json``."""
    key: str
    """The key's id: 12 hex digits; its name is in ``run.json``."""
    input_tokens: int
    """As planned; the limiter's own count is ``prompt_tokens``."""
    max_tokens: int | None
    error: str | None
    """How the request failed (``spool.ERRORS``); None when a whole response came, whatever its status."""
    status: int | None
    """May be given beside an error: the head had come when the connection broke."""
    node: str | None
    time_ms: int | None
    """The store's clock at the decision, ms since the epoch."""
    exceeded: str | None
    retry_after_ms: int | None
    limit_requests: int | None
    limit_input: int | None
    limit_output: int | None
    remaining_requests: int | None
    remaining_input: int | None
    remaining_output: int | None
    reserved_output: int | None
    prompt_tokens: int | None
    completion_tokens: int | None
    requested: int | None
    """The "Requested N" of a rejection's message."""
    never_fits: bool
    degraded: str | None
    upstream_status: int | None
    """The status of the service behind the limiter, on errors that come from it."""
    told_input: int | None
    """The input in the service's usage. ``prompt_tokens`` is the admitted input, if the limiter says it."""
    told_input_at_most: int | None
    """The same, with cached input and every other part of the usage that may be input."""
    has_other_limits: bool | None
    """Whether the response says that the key is subject to other limits than one a minute of its own for requests,
    input tokens and output tokens. Limits and counters of the response may then be of other keys' usage, too."""
    model: str | None
    """The model asked for; None if the run asked for one only."""
    limit: str | None
    """The limit that rejected the request, as the header ``x-limiter-limit`` names it."""
    audited: str | None
    """The audited limits that would have rejected the request, as in the header ``x-limiter-audit``."""
    policies: str | None
    """The header ``RateLimit-Policy``; only where ``has_other_limits``."""
    states: str | None
    """The header ``RateLimit``; only where ``has_other_limits``."""


def failed_upstream(record: Record) -> bool:
    """Return whether a limiter admitted the request but had no answer: it counts as a request without tokens.

    A 429 qualifies only if it says that it is the service's and names no limit of the limiter; if it says neither, its
    origin is unknown.
    """
    if record.status is None or record.status == 200:
        return False
    if record.status == 429:
        return record.upstream_status is not None and record.exceeded is None
    return record.upstream_status is not None or record.time_ms is not None
