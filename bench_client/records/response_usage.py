"""The ``usage`` in an answer's body: the cost that a service reports, as far as an audit needs it.

A limiter charges reported input beyond the admission, and services report input in several ways: tokens from a cache or
fetched by the service itself may be part of the prompt's tokens or stand beside them. One answer doesn't show which, so
two numbers are read: the certain input, and the most that it can mean.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

MOST_TOKENS = 1 << 31
"""A service that reports more makes a mistake."""
_INPUT_BESIDE = ("cache", "citation", "tool_use")
"""Parts of the names of input that may or may not be included in the prompt's tokens."""
_DETAILS = ("prompt_tokens_details", "input_tokens_details", "input_token_details")


class Usage(NamedTuple):
    """Hold numbers of tokens; None for those that the service didn't report."""

    input_tokens: int | None = None
    input_at_most: int | None = None
    output_tokens: int | None = None
    """Includes the part of the total beyond input and output, which only reasoning explains."""


def read_usage(usage: dict[str, object]) -> Usage:
    """Return the usage in a response's JSON, which may be any object."""
    names = ("prompt_tokens", "completion_tokens")
    if _count(usage.get(names[1])) is None and _count(usage.get("output_tokens")) is not None:
        names = ("input_tokens", "output_tokens")
    prompt, output, total = (_count(usage.get(name)) for name in (*names, "total_tokens"))
    if prompt is None:
        return Usage(output_tokens=output)
    beside = sum(_beside(usage))
    excess = max((total or 0) - prompt - (output or 0), 0)
    if output is not None and not beside:
        output += excess
    return Usage(prompt, min(prompt + max(beside, excess), MOST_TOKENS), output)


def _beside(usage: dict[str, object]) -> Iterator[int]:
    for holder in (usage, *(usage.get(name) for name in _DETAILS)):
        if not isinstance(holder, dict):
            continue
        for name, value in holder.items():
            if any(part in name for part in _INPUT_BESIDE):
                yield from (_count(each) or 0 for each in (value.values() if isinstance(value, dict) else (value,)))


def _count(value: Any) -> int | None:
    return min(value, MOST_TOKENS) if type(value) is int and value >= 0 else None
