"""The body of ``GET /v1/rate_limits``: a key's limits per minute, and every limit on its path.

For a key of an account, the numbers at the top are of the tightest enforcing limit of exactly one minute per unit, as
in `x-ratelimit-*`, and null for a unit that has none.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

import orjson

from limiter_node.decisions import PathUsage, Usage
from limiter_node.http.responses.caller_view import reset_ms_of, sees, shown_subject
from limiter_node.limits import DIMENSIONS, WINDOW_MS
from limiter_node.plans import PlannedWindow, key_name, per_text
from limiter_node.policy import ENFORCE, UNITS, Limit

_State = tuple[int, int, int, int]
"""Remainder, limit, time until nothing is used in ms, and usage; the smallest tuple is the tightest limit."""


def rate_limits(usage: Usage, window_ms: int, kid: str, *, is_of_model: bool = False) -> bytes:
    """Return the body. `window_ms`: a plain key's window; such a key without a name is called by its digest `kid`.

    `is_of_model`: whether `usage` is of the windows of one model; else limits for some models aren't considered for the
    numbers at the top.
    """
    states: Sequence[_State | None]
    if usage.path is None:
        plain = [_state(*each) for each in zip(usage.limits, usage.used, usage.reset_ms, strict=True)]
        who, window = key_name(usage.name, kid), per_text(window_ms)
        on_path = [_to_json(Limit(unit, state[1]), who, window, (), state, 0) for unit, state in enumerate(plain)]
        states = plain
    else:
        states, window_ms = _tightest(usage.path, is_of_model), WINDOW_MS
        on_path = [
            _to_json(limit, subject, window.per, window.models, state, window.since_ms)
            for subject, window, limit, state in _limits(usage.path)
        ]
    fields = zip(*[(None,) * 4 if each is None else each for each in states], strict=True)
    remaining, limits, reset_ms, used = (dict(zip(DIMENSIONS, each, strict=True)) for each in fields)
    return orjson.dumps(
        {
            "object": "rate_limits",
            "window_ms": window_ms,
            "limits": limits,
            "used": used,
            "remaining": remaining,
            "reset_ms": reset_ms,
            "limits_on_path": on_path,
        }
    )


def _tightest(path: PathUsage, is_of_model: bool) -> list[_State | None]:
    tightest: list[_State | None] = [None] * len(DIMENSIONS)
    for _, window, limit, state in _limits(path):
        if limit.mode == ENFORCE and limit.unit < len(DIMENSIONS) and window.per_ms == WINDOW_MS:
            known = tightest[limit.unit]
            if (is_of_model or not window.models) and (known is None or state < known):
                tightest[limit.unit] = state
    return tightest


def _limits(path: PathUsage) -> Iterator[tuple[str, PlannedWindow, Limit, _State]]:
    """Yield the limits that the caller may see, with their subjects' names, windows and states."""
    plan = path.plan
    for at, (window, reset_ms) in enumerate(zip(plan.windows, path.reset_ms, strict=True)):
        if sees(plan, window):
            subject = shown_subject(plan, window)
            for limit in window.limits:
                yield (
                    subject,
                    window,
                    limit,
                    _state(limit.amount, path.used_of(at, limit.unit), reset_ms_of(reset_ms, limit.unit)),
                )


def _state(limit: int, used: int, reset_ms: int) -> _State:
    return max(0, limit - used), limit, reset_ms, used


def _to_json(
    limit: Limit, subject: str, window: str, models: tuple[str, ...], state: _State, since_ms: int
) -> dict[str, Any]:
    """Return one element of ``limits_on_path``.

    ``reserved`` is null: the usage includes what requests under way have reserved, and nobody counts that apart.
    """
    remaining, amount, reset_ms, used = state
    return {
        "name": limit.name or None,
        "subject": subject,
        "unit": UNITS[limit.unit],
        "window": window,
        **({"models": models} if models else {}),
        "limit": amount,
        "used": used,
        "reserved": None,
        "remaining": remaining,
        "reset_ms": reset_ms,
        "mode": limit.mode,
        "counting_since": _utc(since_ms) if since_ms else None,
    }


def _utc(ms: int) -> str:
    """Return a time in ms since the epoch in the form of RFC 3339: ``2026-09-21T14:13:20.123Z``."""
    seconds, rest_ms = divmod(ms, 1_000)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{rest_ms:03d}Z"
