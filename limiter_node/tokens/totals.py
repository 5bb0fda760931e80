"""How parsers count: each says what its input's tokens are a sum of, and may be told to leave the counting to others.

A `Total` makes the sum from a counter of texts. Whoever wants to count a large request elsewhere parses it with a
`Count` that keeps the total and answers 0, and replaces the request's `input_tokens` when it has the sum.
"""

from __future__ import annotations

from collections.abc import Callable

from limiter_node.tokens.counting import TokenCounter, count, once_each

Total = Callable[[TokenCounter], int]
Count = Callable[[str, Total], int]
"""The tokens that a total comes to for a model."""


def count_now(model: str, total: Total) -> int:
    """Count at once, in place."""
    return total(once_each(lambda text: count(text, model)))
