"""What an answer costs: the output tokens that the service tells, or else those of what it said.

The rule: output is ``completion_tokens`` (``output_tokens`` of the Responses API). Reasoning is output: services count
it among these, and where one leaves it out (its ``total_tokens`` is more than prompt and completion together), the
difference is charged, too. Cached input is input: it was counted in full when the request was admitted, by our own
tokenizer, and what the service tells of its input changes nothing. Of what a service produces and throws away (rejected
predictions, ``best_of``) what it tells is charged.
"""

from __future__ import annotations

from typing import Any, Final

from limiter_node.tokens import count_anew

MOST_TOKENS: Final = 2**31
"""More than any answer; what a service tells beyond it is its mistake, and must not wrap a counter."""

_TEXTS = ("content", "text", "refusal", "arguments", "input")
_REASONING = ("reasoning_content", "reasoning")
"""Two names for the same, of which some services use both."""
_PARTS = ("message", "choices", "output", "content", "summary", "tool_calls", "function_call", "function", "custom")


def told_tokens(usage: Any) -> int | None:
    """The output that a `usage` object tells, None where it tells none. Any JSON is understood."""
    if type(usage) is not dict:
        return None
    output, before = _count(usage.get("completion_tokens")), _count(usage.get("prompt_tokens"))
    if output is None:
        output, before = _count(usage.get("output_tokens")), _count(usage.get("input_tokens"))
        if output is None:
            return None
    total = _count(usage.get("total_tokens"))
    if total is not None and before is not None and total - before > output:
        output = total - before
    return min(output, MOST_TOKENS)


def _count(value: Any) -> int | None:
    return value if type(value) is int and value >= 0 else None


def text_tokens(answer: Any, encoding: str) -> int:
    """The output in a whole answer, by its texts and calls of tools; any JSON has a count. Linear in its length."""
    tokens = 0
    waiting: list[Any] = [answer]
    while waiting:
        part = waiting.pop()
        if type(part) is list:
            waiting += part
        elif type(part) is dict:
            reasoning = next((part[name] for name in _REASONING if part.get(name)), None)
            for text in (reasoning, *(part.get(name) for name in _TEXTS)):
                if type(text) is str and text:
                    tokens += count_anew(text, encoding)
            waiting += [part[name] for name in _PARTS if type(part.get(name)) in (dict, list)]
            called = part.get("name")
            if type(called) is str and ("arguments" in part or "input" in part):
                tokens += count_anew(called, encoding)
    return tokens
