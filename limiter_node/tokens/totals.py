"""Sums of tokens as functions, which parsers return so that a request can be counted later or elsewhere.

A `Total` adds up the sum with a counter of texts. To count a large request elsewhere, parse it with a `Count` that
keeps the total and returns 0, and replace the request's `input_tokens` once the sum is known.
"""

from __future__ import annotations

from collections.abc import Callable

from limiter_node.tokens.vocabulary import TokenCounter, count, once_each

Total = Callable[[TokenCounter], int]
"""Adds up the tokens of one request with a counter of texts."""
Count = Callable[[str, Total], int]
"""Returns the tokens of a total for a model."""


def count_now(model: str, total: Total) -> int:
    """Return the tokens of `total`, counted at once."""
    return total(once_each(lambda text: count(text, model)))
