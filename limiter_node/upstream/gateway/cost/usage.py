"""The cost of an answer in tokens, as a service's `usage` reports it.

Output is ``completion_tokens`` (``output_tokens`` of the Responses API). Reasoning is output: services count it there,
and if one leaves it out (its ``total_tokens`` is more than prompt and completion together), the difference is charged,
too. It is not charged if input explains it: some services count tokens that they read from a cache, wrote to it or
fetched by their own tools beside the prompt. Those are input, never output. Output that a service produces and throws
away (rejected predictions, ``best_of``) is charged as reported.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

MOST_TOKENS: Final = 2**31
"""More than any answer has; a service that reports more is mistaken, and must not wrap a counter."""

_MOST_COUNTED_PER_REPORTED = 8
"""Streams are counted piece by piece. Cut at each character, English has about five pieces a token: a usage of
less than an eighth of the count is a mistake (zeros, or the cost of one piece), not another tokenizer."""

_READ, _WRITTEN, _FETCHED = range(3)
_INPUTS: Final = {
    **dict.fromkeys(
        ("cached_tokens", "cache_read_input_tokens", "cache_read_tokens", "prompt_cache_hit_tokens"), _READ
    ),
    **dict.fromkeys(("cached_prompt_tokens", "cache_read"), _READ),
    **dict.fromkeys(("cache_creation_input_tokens", "cache_creation_tokens", "cache_creation"), _WRITTEN),
    **dict.fromkeys(("cache_write_tokens", "cache_write_input_tokens"), _WRITTEN),
    **dict.fromkeys(("tool_use_prompt_tokens", "citation_tokens"), _FETCHED),
}
"""Input that may stand beside the prompt: read from a cache, written to it, or fetched by tools. Names of one kind are
names of the same; of several, the greatest counts."""
_INPUT_DETAILS: Final = ("prompt_tokens_details", "input_tokens_details", "input_token_details")
_OUTPUT_DETAILS: Final = ("completion_tokens_details", "output_tokens_details", "output_token_details")


class Usage(NamedTuple):
    """Hold the content of a service's `usage`."""

    output_tokens: int | None
    """The output; None if the service reported input only, as for embeddings."""
    input_tokens: int
    """The input, with cached input even if the service counts it beside its prompt; 0 if none was reported."""
    reported_reasoning: bool
    """Whether the service reported reasoning, or a total that only reasoning explains."""

    def is_plausible(self, counted: int) -> bool:
        """Whether another tokenizer may have counted `counted` for this output."""
        return self.output_tokens is not None and self.output_tokens * _MOST_COUNTED_PER_REPORTED >= counted


def read_usage(usage: Any) -> Usage | None:
    """Return the content of a `usage` object, None if it has none. Any JSON is accepted."""
    if type(usage) is not dict:
        return None
    output, before = _count(usage.get("completion_tokens")), _count(usage.get("prompt_tokens"))
    if output is None:
        other, other_before = _count(usage.get("output_tokens")), _count(usage.get("input_tokens"))
        if other is not None or before is None:
            output, before = other, other_before
    if output is None and before is None:
        return None
    if not output and not before and not usage.get("total_tokens"):
        return None  # a service that doesn't count reports zeros
    reported_output, beside, reported_reasoning = output, 0, False
    if before is not None:
        beside, unexplained = _beside_the_prompt(usage, before, output)
        if unexplained:  # Gemini leaves the output out if all of it was reasoning
            reported_output, reported_reasoning = (output or 0) + unexplained, True
    return Usage(
        None if reported_output is None else min(reported_output, MOST_TOKENS),
        min((before or 0) + beside, MOST_TOKENS),
        reported_reasoning or _reasoning(usage) > 0,
    )


def _beside_the_prompt(usage: dict[str, Any], before: int, output: int | None) -> tuple[int, int]:
    """Return the input beside the prompt of `before` tokens, and the tokens of the total that it leaves unexplained."""
    total = _count(usage.get("total_tokens"))
    excess = 0 if total is None else max(0, total - before - (output or 0))
    inputs = [0, 0, 0]
    _note_inputs(usage, inputs)
    for name in _INPUT_DETAILS:
        if type(details := usage.get(name)) is dict:
            _note_inputs(details, inputs)
    read, written, fetched = inputs
    if not (read or written or fetched):
        return 0, excess
    cached = read + written
    if excess:
        reasoning = _reasoning(usage)
        for beside in (cached + fetched, cached, read + fetched, written + fetched, read, written, fetched):
            if beside and excess in (beside, beside + reasoning):
                return beside, excess - beside
    # More than the whole prompt cannot be in it; nor is it where Anthropic's names are used, which have no total.
    if cached > before or (total is None and "input_tokens" in usage and "prompt_tokens" not in usage):
        return cached, max(0, excess - cached)
    return 0, excess


def _note_inputs(holder: dict[str, Any], inputs: list[int]) -> None:
    for name, value in holder.items():
        kind = _INPUTS.get(name)
        if kind is None or not value:
            continue
        if type(value) is dict:  # by the time that it is kept
            value = sum(_count(each) or 0 for each in value.values())
        inputs[kind] = max(inputs[kind], _count(value) or 0)


def _reasoning(usage: dict[str, Any]) -> int:
    for name in _OUTPUT_DETAILS:
        details = usage.get(name)
        if type(details) is dict and (reported := _count(details.get("reasoning_tokens"))):
            return reported
    return _count(usage.get("reasoning_tokens")) or 0


def _count(value: Any) -> int | None:
    return value if type(value) is int and value >= 0 else None
