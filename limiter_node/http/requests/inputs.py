"""Inputs that are texts or tokens, one or many: the `prompt` of text completions, the `input` of embeddings."""

from __future__ import annotations

from typing import Any

from limiter_node.http.requests.fields import (
    InvalidRequest,
    array_too_long,
    empty_array,
    integer_between,
    is_string,
    wrong_type,
)
from limiter_node.tokens.vocabulary import TokenCounter

MAX_INPUTS = 2_048
MAX_TOKEN = 2**31 - 1
"""Larger than any vocabulary. The mock ignores the values of tokens."""

Inputs = list[str] | list[list[int]]

_is_token = integer_between(0, MAX_TOKEN)
_EXPECTED = "one of a string, array of strings, array of integers, or array of integer arrays"


def texts_or_tokens(value: Any, param: str) -> Inputs:
    """Return `value` as a list of texts or of lists of tokens. Raises `InvalidRequest`.

    `value` may be a string, a list of strings, a list of tokens or a list of lists of tokens, with one to `MAX_INPUTS`
    inputs; the first item decides the kind of a list. A list of tokens is not empty; a string may be.
    """
    if type(value) is str:
        return [value]
    if type(value) is not list:
        raise wrong_type(value, param, _EXPECTED)
    if not value:
        raise empty_array(param)
    first = value[0]
    if type(first) is int:
        _check_tokens(value, param)
        return [value]
    if len(value) > MAX_INPUTS:
        raise array_too_long(param, MAX_INPUTS, len(value))
    if type(first) is str:
        for index, each in enumerate(value):
            is_string(each, f"{param}[{index}]")
    elif type(first) is list:
        for index, each in enumerate(value):
            if type(each) is not list:
                raise wrong_type(each, f"{param}[{index}]", "an array of integers")
            if not each:
                raise empty_array(f"{param}[{index}]")
            _check_tokens(each, f"{param}[{index}]")
    else:
        raise wrong_type(first, f"{param}[0]", "one of a string, integer, or array of integers")
    return value


def sum_inputs(inputs: Inputs, counter: TokenCounter) -> int:
    """Return the tokens of all `inputs`. An empty text counts as one, since a model reads at least a start."""
    # `counter` may return 0 for a text that is counted later: see `TokenCounting.count`.
    return sum([1 if not each else counter(each) if type(each) is str else len(each) for each in inputs])


def refuse_empty(inputs: Inputs, param: str) -> None:
    """Raise `InvalidRequest` if a text is empty."""
    if "" in inputs:
        raise InvalidRequest(f"Invalid '{param}': input cannot be an empty string.", param, "empty_string")


def _check_tokens(tokens: list[Any], param: str) -> None:
    # Two passes in C check valid lists; only for an invalid one is the path of the wrong item searched.
    if set(map(type, tokens)) == {int} and min(tokens) >= 0 and max(tokens) <= MAX_TOKEN:
        return
    for index, each in enumerate(tokens):
        _is_token(each, f"{param}[{index}]")
