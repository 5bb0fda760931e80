"""Reads ``POST /v1/chat/completions``: from the body to a checked request and its need.

Raises `InvalidRequest` and nothing else. Rules and wording are OpenAI's.
"""

from __future__ import annotations

from typing import Any

from limiter_node.decisions import Need
from limiter_node.http.requests.fields import (
    MAX_CHOICES,
    MAX_TOKENS,
    SAMPLING_FIELDS,
    Check,
    check_model,
    check_optional,
    includes_usage,
    integer_between,
    is_array,
    is_boolean,
    is_logit_bias,
    is_metadata,
    is_object,
    is_string,
    is_string_or_object,
)
from limiter_node.http.requests.json_body import check_depth, parse_object
from limiter_node.http.requests.known_fields import (
    OF_CHAT,
    OF_RESPONSE_FORMAT,
    SHORT,
    ExtraFields,
    add_unknown,
    no_extra_fields,
)
from limiter_node.http.requests.messages import check_messages
from limiter_node.http.requests.tools import chat_form, check_function
from limiter_node.tokens.chat import count_chat, sum_chat
from limiter_node.tokens.tools import sum_json, sum_tools
from limiter_node.tokens.totals import Count, Total, count_now
from limiter_node.tokens.vocabulary import TokenCounter
from limiter_node.upstream.requests import AnswerForm, ChatRequest

# What shapes the answer (`tools`, `tool_choice`, `response_format`) is read by `limiter_node.http.requests.tools`.
_CHAT_FIELDS: dict[str, Check] = {
    "max_completion_tokens": integer_between(1, MAX_TOKENS),
    "max_tokens": integer_between(1, MAX_TOKENS),
    "n": integer_between(1, MAX_CHOICES),
    "stream": is_boolean,
    "stream_options": is_object,
    **SAMPLING_FIELDS,
    "logprobs": is_boolean,
    "top_logprobs": integer_between(0, 20),
    "logit_bias": is_logit_bias,
    "response_format": is_object,
    "tools": is_array,
    "tool_choice": is_string_or_object,
    "parallel_tool_calls": is_boolean,
    "functions": is_array,
    "function_call": is_string_or_object,
    "metadata": is_metadata,
    "store": is_boolean,
    "service_tier": is_string,
    "reasoning_effort": is_string,
    "verbosity": is_string,
    "modalities": is_array,
    "audio": is_object,
    "prediction": is_object,
    "web_search_options": is_object,
    "prompt_cache_key": is_string,
    "safety_identifier": is_string,
}
_PLAIN = (OF_CHAT | _CHAT_FIELDS.keys()) - SHORT - {"prediction"}
"""A request with these fields only has no unknown fields to count."""
_FOR_TEMPLATES = ("documents", "chat_template", "chat_template_kwargs")
"""Fields that servers of open models put into the prompt beside the messages."""
_SHAPING = frozenset(("stop", "tools", "tool_choice", "response_format", "functions", *_FOR_TEMPLATES))


def parse_chat(body: bytes, count: Count | None = None, extra_fields: ExtraFields = no_extra_fields) -> ChatRequest:
    """Return the request that `body` is, checked and counted. Raises `InvalidRequest`. O(length)."""
    fields = parse_object(body)
    model = check_model(fields)
    messages = fields.get("messages")
    unknown = check_messages(messages)
    check_optional(fields, _CHAT_FIELDS)
    if not _PLAIN.issuperset(fields):
        add_unknown(fields, OF_CHAT | extra_fields(model), "", unknown)
    cap = fields.get("max_completion_tokens")
    if cap is None:
        cap = fields.get("max_tokens")
    n = fields.get("n")
    stream = fields.get("stream") is True
    include_usage = fields.get("stream_options") is not None and includes_usage(fields["stream_options"], stream)
    messages, form = fields["messages"], None
    if _SHAPING.isdisjoint(fields) and not unknown:
        # Written out twice, because most requests take this path and then need no closure.
        if count is None:
            input_tokens = count_chat(messages, model)
        else:
            input_tokens = count(model, lambda counter: sum_chat(messages, counter))
    else:
        form = chat_form(fields)
        shaping = _shaping_total(fields, form, model, unknown)
        input_tokens = (count or count_now)(model, lambda counter: sum_chat(messages, counter) + shaping(counter))
    return ChatRequest(model, 1 if n is None else n, cap, stream, include_usage, input_tokens, fields, form)


def need_of_chat(request: ChatRequest) -> Need:
    """Return the need of `request`: its input, and for every choice its cap or the key's default."""
    if request.cap is None:
        return Need(request.input_tokens, 0, request.n, (request.model,))
    return Need(request.input_tokens, request.n * request.cap, 0, (request.model,))


def _shaping_total(fields: dict[str, Any], form: AnswerForm | None, model: str, unknown: list[str]) -> Total:
    """Return the total of tools (and `functions`, their older form), the answer's schema and `unknown`."""
    if (response_format := fields.get("response_format")) is not None:
        add_unknown(response_format, OF_RESPONSE_FORMAT, "response_format", unknown)
    functions = fields.get("functions") or ()
    for index, function in enumerate(functions):
        check_function(function, f"functions[{index}]")
    tools = [*(fields.get("tools") or ()), *[{"type": "function", "function": each} for each in functions]]
    check_depth(tools, "tools")
    as_json = []
    for name in _FOR_TEMPLATES:
        if (value := fields.get(name)) is not None:
            check_depth(value, name)
            as_json.append(value)
    if form is not None and form.json_schema is not None:
        schema = fields["response_format"].get("json_schema")
        check_depth(schema, "response_format")
        if schema is not None:
            as_json.append(schema)

    def total(counter: TokenCounter) -> int:
        known = sum_tools(tools, model, counter, nested=True) + sum([sum_json(value, counter) for value in as_json])
        return known + sum([counter(text) for text in unknown])

    return total
