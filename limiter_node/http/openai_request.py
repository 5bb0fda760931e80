"""From the bytes of a request's body to a checked request and what it needs; raises `InvalidRequest` and nothing else.

Rules and wording are OpenAI's. Outcomes that JSON leaves open: of duplicate fields the last one counts; a byte order
mark, bad UTF-8, a lone surrogate (as bytes or escaped), NaN, numbers beyond a double and nesting deeper than 1,024 are
malformed JSON; a field that is null is a field that is absent.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from typing import Any

import orjson

from limiter_node.http.fields import (
    MAX_CHOICES,
    MAX_TOKENS,
    Check,
    InvalidRequest,
    check_model,
    check_optional,
    integer_between,
    is_array,
    is_boolean,
    is_integer,
    is_object,
    is_stop,
    is_string,
    is_string_or_object,
    number_between,
    wrong_type,
)
from limiter_node.http.messages import check_messages
from limiter_node.model import Need
from limiter_node.token_process import INLINE_CHARS, TokenCounting
from limiter_node.tokens import count_chat, sum_chat
from limiter_node.upstream.base import ChatRequest

# Of `tools`, `tool_choice` and `response_format` only the type is checked: nothing here reads them.
_CHAT_FIELDS: dict[str, Check] = {
    "max_completion_tokens": integer_between(1, MAX_TOKENS),
    "max_tokens": integer_between(1, MAX_TOKENS),
    "n": integer_between(1, MAX_CHOICES),
    "stream": is_boolean,
    "stream_options": is_object,
    "temperature": number_between(0, 2),
    "top_p": number_between(0, 1),
    "presence_penalty": number_between(-2, 2),
    "frequency_penalty": number_between(-2, 2),
    "stop": is_stop,
    "seed": is_integer,
    "user": is_string,
    "logprobs": is_boolean,
    "top_logprobs": integer_between(0, 20),
    "logit_bias": is_object,
    "response_format": is_object,
    "tools": is_array,
    "tool_choice": is_string_or_object,
}


async def read_chat(body: bytes, counting: TokenCounting) -> ChatRequest:
    """`parse_chat` for a body of any size: the tokens of a large one are counted apart.

    Raises `InvalidRequest`, and what `TokenCounting.count` raises.
    """
    # A body has no fewer bytes than its texts have characters.
    if len(body) <= INLINE_CHARS:
        return parse_chat(body)
    chat = parse_chat(body, lambda _messages, _model: 0)
    input_tokens = await counting.count(chat.model, lambda counter: sum_chat(chat.messages, counter))
    return chat._replace(input_tokens=input_tokens)


def parse_chat(body: bytes, count: Callable[[Sequence[dict[str, Any]], str], int] = count_chat) -> ChatRequest:
    """Read, check and count the body of ``POST /v1/chat/completions``. Raises `InvalidRequest`. O(length)."""
    fields = parse_object(body)
    model = check_model(fields)
    messages = fields.get("messages")
    check_messages(messages)
    check_optional(fields, _CHAT_FIELDS)
    cap = fields.get("max_completion_tokens")
    if cap is None:
        cap = fields.get("max_tokens")
    n = fields.get("n")
    stream = fields.get("stream") is True
    include_usage = fields.get("stream_options") is not None and _include_usage(fields["stream_options"], stream)
    return ChatRequest(
        model, 1 if n is None else n, cap, stream, include_usage, count(fields["messages"], model), fields
    )


def parse_object(body: bytes) -> dict[str, Any]:
    """The JSON object that `body` is. Raises `InvalidRequest`."""
    try:
        fields = orjson.loads(body) if len(body) <= INLINE_CHARS else _load_large(body)
    except orjson.JSONDecodeError as error:
        # orjson's words give the position and never quote the body.
        raise InvalidRequest(f"The JSON body of your request could not be parsed: {error}.", None, None) from None
    if type(fields) is not dict:
        raise InvalidRequest("The JSON body of your request could not be used: expected an object.", None, None)
    return fields


def _load_large(body: bytes) -> Any:
    """`orjson.loads` without the garbage collector, which would look through a megabyte of ``[]`` time and again.

    The worst megabyte then takes 12 ms instead of 40. Nothing else runs meanwhile.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        return orjson.loads(body)
    finally:
        if was_enabled:
            gc.enable()


def need_of(request: ChatRequest) -> Need:
    """What `request` asks of its key: its input, and the cap of every choice or the key's default for each."""
    if request.cap is None:
        return Need(request.input_tokens, 0, request.n)
    return Need(request.input_tokens, request.n * request.cap, 0)


def _include_usage(options: dict[str, Any], stream: bool) -> bool:
    if not stream:
        raise InvalidRequest(
            "The 'stream_options' parameter is only allowed when 'stream' is enabled.",
            "stream_options",
            "invalid_value",
        )
    include_usage = options.get("include_usage")
    if include_usage is None:
        return False
    if type(include_usage) is not bool:
        raise wrong_type(include_usage, "stream_options.include_usage", "a boolean")
    return include_usage
