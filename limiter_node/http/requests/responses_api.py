"""Reads ``POST /v1/responses``: from the body to a checked request and its need.

Raises `InvalidRequest` and nothing else. Nothing is stored between requests, so requests that refer to stored data
(`previous_response_id`, `conversation`, `prompt`) or run later (`background`) are rejected, naming the field.
"""

from __future__ import annotations

from typing import Any

from limiter_node.decisions import Need
from limiter_node.http.requests.fields import (
    MAX_TOKENS,
    Check,
    InvalidRequest,
    check_if_given,
    check_model,
    check_optional,
    integer_between,
    is_array,
    is_boolean,
    is_metadata,
    is_object,
    is_string,
    is_string_or_object,
    number_between,
    one_of,
)
from limiter_node.http.requests.json_body import check_depth, parse_object
from limiter_node.http.requests.known_fields import (
    OF_RESPONSES_API,
    OF_TEXT,
    SHORT,
    ExtraFields,
    add_unknown,
    no_extra_fields,
)
from limiter_node.http.requests.responses_api_items import items_as_messages
from limiter_node.http.requests.tools import responses_api_form
from limiter_node.tokens.chat import sum_chat
from limiter_node.tokens.tools import sum_json, sum_tools
from limiter_node.tokens.totals import Count, count_now
from limiter_node.tokens.vocabulary import TokenCounter
from limiter_node.upstream.requests import ResponsesApiRequest

_is_effort = one_of("none", "minimal", "low", "medium", "high", "xhigh", "max")
_is_summary = one_of("auto", "concise", "detailed")
_is_verbosity = one_of("low", "medium", "high")


def _is_reasoning(value: Any, param: str) -> None:
    is_object(value, param)
    check_if_given(value, "effort", param, _is_effort)
    check_if_given(value, "summary", param, _is_summary)


def _is_text(value: Any, param: str) -> None:
    is_object(value, param)
    check_if_given(value, "format", param, is_object)
    check_if_given(value, "verbosity", param, _is_verbosity)


_FIELDS: dict[str, Check] = {
    "instructions": is_string,
    "max_output_tokens": integer_between(1, MAX_TOKENS),
    "max_tool_calls": integer_between(1, MAX_TOKENS),
    "stream": is_boolean,
    "stream_options": is_object,
    "temperature": number_between(0, 2),
    "top_p": number_between(0, 1),
    "top_logprobs": integer_between(0, 20),
    "tools": is_array,
    "tool_choice": is_string_or_object,
    "parallel_tool_calls": is_boolean,
    "text": _is_text,
    "reasoning": _is_reasoning,
    "truncation": one_of("auto", "disabled"),
    "metadata": is_metadata,
    "include": is_array,
    "store": is_boolean,
    "service_tier": is_string,
    "user": is_string,
    "prompt_cache_key": is_string,
    "safety_identifier": is_string,
}
_PLAIN = (OF_RESPONSES_API | _FIELDS.keys()) - SHORT
"""A request with these fields only has no unknown fields to count."""
_REPEATED = ("tools", "tool_choice", "text")
"""Fields that the Responses API repeats in its response and that may be nested."""
_OF_PLAIN_FORMAT = frozenset(("type",))
"""A format with a schema counts whole."""
_STORED = ("previous_response_id", "conversation", "prompt")
_BACKGROUND = ("background", "background_options")


def parse_responses_api(
    body: bytes, count: Count = count_now, extra_fields: ExtraFields = no_extra_fields
) -> ResponsesApiRequest:
    """Return the request that `body` is, checked and counted. Raises `InvalidRequest`. O(length)."""
    fields = parse_object(body)
    model = check_model(fields)
    unknown: list[str] = []
    messages = items_as_messages(fields.get("input"), unknown)
    check_optional(fields, _FIELDS)
    _refuse_stored(fields)
    form = responses_api_form(fields)
    if fields.get("instructions") is not None:
        messages.append({"role": "system", "content": fields["instructions"]})
    for name in _REPEATED:
        if name in fields:
            check_depth(fields[name], name)
    tools = fields.get("tools") or ()
    schema = fields["text"]["format"] if form is not None and form.json_schema is not None else None
    if not _PLAIN.issuperset(fields):
        add_unknown(fields, OF_RESPONSES_API | extra_fields(model), "", unknown)
    if (text := fields.get("text")) is not None:
        add_unknown(text, OF_TEXT, "text", unknown)
        if text.get("format") is not None and (schema is None or "schema" not in schema):
            add_unknown(text["format"], _OF_PLAIN_FORMAT, "text.format", unknown)

    def total(counter: TokenCounter) -> int:
        tokens = sum_chat(messages, counter) + sum_tools(tools, model, counter, nested=False)
        tokens += sum([counter(text) for text in unknown])
        return tokens if schema is None or "schema" not in schema else tokens + sum_json(schema, counter)

    return ResponsesApiRequest(
        model, fields.get("max_output_tokens"), fields.get("stream") is True, count(model, total), fields, form
    )


def need_of_responses_api(request: ResponsesApiRequest) -> Need:
    """Return the need of `request`: its input, and its cap or the key's default."""
    if request.cap is None:
        return Need(request.input_tokens, 0, 1, (request.model,))
    return Need(request.input_tokens, request.cap, 0, (request.model,))


def _refuse_stored(fields: dict[str, Any]) -> None:
    for name in _STORED:
        if fields.get(name) is not None:
            code = "previous_response_not_found" if name == "previous_response_id" else "not_found"
            raise InvalidRequest(f"Invalid '{name}': responses are not stored here, so none was found.", name, code)
    for name in _BACKGROUND:
        if fields.get(name):
            raise InvalidRequest(f"Invalid '{name}': responses cannot run in the background.", name, "invalid_value")
