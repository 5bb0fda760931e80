"""Times as OpenAI writes them in messages and in ``x-ratelimit-reset-*``: Go's `time.Duration`."""

from __future__ import annotations


def duration_text(ms: int) -> str:
    """Return `ms` as ``0s``, ``12ms``, ``3.89s``, ``1m0.05s`` or ``2h0m0s``.

    Exact to the millisecond, so that waiting that long suffices.
    """
    # `g` keeps six digits, which all milliseconds of a minute fit, and drops trailing zeros.
    if ms < 1_000:
        return f"{ms}ms" if ms > 0 else "0s"
    if ms < 60_000:
        return f"{ms / 1_000:g}s"
    minutes, rest_ms = divmod(ms, 60_000)
    if minutes < 60:
        return f"{minutes}m{rest_ms / 1_000:g}s"
    return f"{minutes // 60}h{minutes % 60}m{rest_ms / 1_000:g}s"
