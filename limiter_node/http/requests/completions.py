"""Reads ``POST /v1/completions``: from the body to a checked request and its need.

Raises `InvalidRequest` and nothing else. A request without `max_tokens` has no cap here (OpenAI's default for this
route is 16): the key's `output_reserve` is reserved, as for chats.
"""

from __future__ import annotations

from typing import Any

from limiter_node.decisions import Need
from limiter_node.http.requests.fields import (
    MAX_CHOICES,
    MAX_TOKENS,
    SAMPLING_FIELDS,
    Check,
    InvalidRequest,
    check_model,
    check_optional,
    includes_usage,
    integer_between,
    is_boolean,
    is_logit_bias,
    is_object,
    is_string,
)
from limiter_node.http.requests.inputs import Inputs, sum_inputs, texts_or_tokens
from limiter_node.http.requests.json_body import parse_object
from limiter_node.http.requests.known_fields import OF_COMPLETION, SHORT, ExtraFields, add_unknown, no_extra_fields
from limiter_node.http.requests.tools import stop_form
from limiter_node.tokens.totals import Count, count_now
from limiter_node.tokens.vocabulary import TokenCounter
from limiter_node.upstream.requests import CompletionRequest

MAX_TOTAL_CHOICES = 2_048
"""Largest product of prompts and choices."""

_FIELDS: dict[str, Check] = {
    "max_tokens": integer_between(1, MAX_TOKENS),
    "n": integer_between(1, MAX_CHOICES),
    "best_of": integer_between(1, MAX_CHOICES),
    "stream": is_boolean,
    "stream_options": is_object,
    "echo": is_boolean,
    "suffix": is_string,
    "logprobs": integer_between(0, 5),
    **SAMPLING_FIELDS,
    "logit_bias": is_logit_bias,
}
_PLAIN = (OF_COMPLETION | _FIELDS.keys()) - SHORT
"""A request with these fields only has no unknown fields to count."""


def parse_completion(
    body: bytes, count: Count = count_now, extra_fields: ExtraFields = no_extra_fields
) -> CompletionRequest:
    """Return the request that `body` is, checked and counted. Raises `InvalidRequest`. O(length)."""
    fields = parse_object(body)
    model = check_model(fields)
    # As at OpenAI: without a prompt a completion begins a new document.
    prompt = fields.get("prompt")
    prompts = [""] if prompt is None else texts_or_tokens(prompt, "prompt")
    check_optional(fields, _FIELDS)
    n = fields.get("n") or 1
    reserved = _reserved_choices(fields, n, len(prompts))
    stream = fields.get("stream") is True
    include_usage = fields.get("stream_options") is not None and includes_usage(fields["stream_options"], stream)
    echoes = _echoes(prompts) if fields.get("echo") is True else ()
    unknown: list[str] = []
    if not _PLAIN.issuperset(fields):
        add_unknown(fields, OF_COMPLETION | extra_fields(model), "", unknown)

    def total(counter: TokenCounter) -> int:
        known = sum_inputs(prompts, counter) + _sum_suffix(fields.get("suffix"), prompts, counter)
        return known + sum([counter(text) for text in unknown])

    return CompletionRequest(
        model,
        n * len(prompts),
        reserved,
        fields.get("max_tokens"),
        stream,
        include_usage,
        count(model, total),
        fields,
        echoes,
        stop_form(fields.get("stop")),
    )


def need_of_completion(request: CompletionRequest) -> Need:
    """Return the need of `request`: its input, and for every possible choice its cap or the key's default."""
    if request.cap is None:
        return Need(request.input_tokens, 0, request.reserved_choices, (request.model,))
    return Need(request.input_tokens, request.reserved_choices * request.cap, 0, (request.model,))


def _sum_suffix(suffix: str | None, prompts: Inputs, counter: TokenCounter) -> int:
    """Return the tokens of the text after the answer, which models that fill in the middle read for each prompt."""
    return sum([counter(suffix) for _ in prompts]) if suffix else 0


def _reserved_choices(fields: dict[str, Any], n: int, prompts: int) -> int:
    best_of = fields.get("best_of")
    if best_of is not None and best_of < n:
        raise InvalidRequest(
            f"Invalid 'best_of': expected a value >= 'n' ({n}), but got {best_of} instead.", "best_of", "invalid_value"
        )
    reserved = (best_of or n) * prompts
    if reserved > MAX_TOTAL_CHOICES:
        raise InvalidRequest(
            f"Invalid 'prompt': {prompts} prompts with {best_of or n} choices each. "
            f"Expected {MAX_TOTAL_CHOICES} choices or fewer in all.",
            "prompt",
            "invalid_value",
        )
    return reserved


def _echoes(prompts: Inputs) -> tuple[str, ...]:
    """Return the prompts that are texts. Only a service can turn prompts of tokens into text."""
    return tuple(each for each in prompts if type(each) is str)
