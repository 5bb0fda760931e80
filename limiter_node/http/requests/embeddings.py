"""Reads ``POST /v1/embeddings``: from the body to a checked request and its need.

Raises `InvalidRequest` and nothing else. Embeddings have no output tokens, so nothing is reserved for them.
"""

from __future__ import annotations

from limiter_node.decisions import Need
from limiter_node.http.requests.fields import (
    Check,
    check_model,
    check_optional,
    integer_between,
    is_string,
    missing,
    one_of,
)
from limiter_node.http.requests.inputs import refuse_empty, sum_inputs, texts_or_tokens
from limiter_node.http.requests.json_body import parse_object
from limiter_node.http.requests.known_fields import OF_EMBEDDING, SHORT, ExtraFields, add_unknown, no_extra_fields
from limiter_node.tokens.totals import Count, count_now
from limiter_node.upstream.requests import EmbeddingRequest

MAX_DIMENSIONS = 3_072

_FIELDS: dict[str, Check] = {
    "dimensions": integer_between(1, MAX_DIMENSIONS),
    "encoding_format": one_of("float", "base64"),
    "user": is_string,
}
_PLAIN = (OF_EMBEDDING | _FIELDS.keys()) - SHORT
"""A request with these fields only has no unknown fields to count."""


def parse_embedding(
    body: bytes, count: Count = count_now, extra_fields: ExtraFields = no_extra_fields
) -> EmbeddingRequest:
    """Return the request that `body` is, checked and counted. Raises `InvalidRequest`. O(length)."""
    fields = parse_object(body)
    model = check_model(fields)
    if fields.get("input") is None:
        raise missing("input")
    inputs = texts_or_tokens(fields["input"], "input")
    refuse_empty(inputs, "input")
    check_optional(fields, _FIELDS)
    unknown: list[str] = []
    if not _PLAIN.issuperset(fields):
        add_unknown(fields, OF_EMBEDDING | extra_fields(model), "", unknown)
    return EmbeddingRequest(
        model,
        inputs,
        fields.get("dimensions"),
        fields.get("encoding_format") == "base64",
        count(model, lambda counter: sum_inputs(inputs, counter) + sum([counter(text) for text in unknown])),
        fields,
    )


def need_of_embedding(request: EmbeddingRequest) -> Need:
    """Return the need of `request`: its input, and no output."""
    return Need(request.input_tokens, 0, 0, (request.model,))
