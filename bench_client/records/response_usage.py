"""The ``usage`` in an answer's body: what a service told of its cost, as far as an audit has to know it.

A limiter charges input that is told beyond what it had admitted, and services tell input in several ways: what they
read from a cache or fetched themselves may be in the prompt's tokens or stand beside them. Which it is can't be known
from one answer, so two numbers are read: what is told for certain, and the most that can be meant.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

MOST_TOKENS = 1 << 31
"""A service that tells more makes a mistake."""
_INPUT_BESIDE = ("cache", "citation", "tool_use")
"""Parts of the names under which services tell input that isn't in the prompt's tokens, or that is."""
_DETAILS = ("prompt_tokens_details", "input_tokens_details", "input_token_details")


class Usage(NamedTuple):
    """Hold numbers of tokens; None where they weren't told."""

    input_tokens: int | None = None
    input_at_most: int | None = None
    output_tokens: int | None = None
    """Includes the part of the total beyond input and output, which only reasoning explains."""


def read_usage(usage: dict[str, object]) -> Usage:
    """Return the usage in a response's JSON, which may be any object."""
    names = ("prompt_tokens", "completion_tokens")
    if _count(usage.get(names[1])) is None and _count(usage.get("output_tokens")) is not None:
        names = ("input_tokens", "output_tokens")
    told, output, total = (_count(usage.get(name)) for name in (*names, "total_tokens"))
    if told is None:
        return Usage(output_tokens=output)
    beside = sum(_beside(usage))
    excess = max((total or 0) - told - (output or 0), 0)
    if output is not None and not beside:
        output += excess
    return Usage(told, min(told + max(beside, excess), MOST_TOKENS), output)


def _beside(usage: dict[str, object]) -> Iterator[int]:
    for holder in (usage, *(usage.get(name) for name in _DETAILS)):
        if not isinstance(holder, dict):
            continue
        for name, value in holder.items():
            if any(part in name for part in _INPUT_BESIDE):
                yield from (_count(each) or 0 for each in (value.values() if isinstance(value, dict) else (value,)))


def _count(value: Any) -> int | None:
    return min(value, MOST_TOKENS) if type(value) is int and value >= 0 else None
