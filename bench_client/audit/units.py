"""The units of limits, and what a request counts of each."""

from __future__ import annotations

from bench_client.load.declared_limits import UNITS as UNITS

DIMENSIONS = UNITS[:3]
"""The units of a plain key's limits."""
REQUESTS, INPUT, OUTPUT, TOKENS = range(4)

UNBOUNDED = 1 << 60
"""More than any limit: stands for an unknown amount."""
NEVER = 1 << 60
"""Later than any time, in ms and µs."""

Amounts = tuple[int, int, int, int]
"""An amount of each unit; that of ``tokens`` is the sum of input and output."""
Needs = tuple[int | None, int | None, int | None, int | None]
"""The need of a request in each unit; None if nobody said."""
NOTHING: Amounts = (0, 0, 0, 0)


def amounts(requests: int, input_tokens: int, output_tokens: int) -> Amounts:
    """Return the amounts of all units."""
    return requests, input_tokens, output_tokens, input_tokens + output_tokens
