"""The Responses API's `response` object (``POST /v1/responses``), complete in shape.

It repeats the request's fields, with the defaults of missing ones.
"""

from __future__ import annotations

from typing import Any

import orjson

from limiter_node.upstream.requests import ResponsesApiRequest
from limiter_node.upstream.source import Completion, ToolCall

# The fields repeated as they were sent, with their defaults.
_REPEATED: dict[str, Any] = {
    "instructions": None,
    "max_output_tokens": None,
    "max_tool_calls": None,
    "metadata": {},
    "parallel_tool_calls": True,
    "prompt_cache_key": None,
    "safety_identifier": None,
    "temperature": 1.0,
    "tool_choice": "auto",
    "top_logprobs": 0,
    "top_p": 1.0,
    "truncation": "disabled",
    "user": None,
}
REPEATED_FIELDS = frozenset((*_REPEATED, "reasoning", "text", "tools"))
"""The fields of a request that `responses_api_object` reads."""
_REASONING: dict[str, Any] = {"effort": None, "summary": None}
_TEXT: dict[str, Any] = {"format": {"type": "text"}, "verbosity": "medium"}
_FUNCTION: dict[str, Any] = {"description": None, "parameters": None, "strict": True}


def responses_api_body(request: ResponsesApiRequest, completion: Completion, request_id: str, created: int) -> bytes:
    """Return the object of a whole answer, as bytes."""
    return orjson.dumps(responses_api_object(request, completion, request_id, created))


def responses_api_object(
    request: ResponsesApiRequest, completion: Completion | None, request_id: str, created: int
) -> dict[str, Any]:
    """Return the object of an answer that has ended with `completion`, or is in progress if that is None.

    Its id is the request's with another prefix; `created` is in seconds since the epoch.
    """
    body = request.body
    digits = request_id.removeprefix("req_")
    is_cut = completion is not None and completion.finish_reasons[0] == "length"
    return {
        "id": f"resp_{digits}",
        "object": "response",
        "created_at": created,
        "completed_at": None if completion is None or is_cut else created,
        "status": "in_progress" if completion is None else "incomplete" if is_cut else "completed",
        "background": False,
        "error": None,
        "incomplete_details": {"reason": "max_output_tokens"} if is_cut else None,
        "model": request.model,
        "output": [] if completion is None else output_items(completion, digits),
        "previous_response_id": None,
        "reasoning": _REASONING | _sent(body.get("reasoning"), _REASONING),
        "service_tier": "default",
        "text": _TEXT | _sent(body.get("text"), _TEXT),
        "tools": [_tool(each) for each in body.get("tools") or ()],
        "usage": None
        if completion is None
        else responses_api_usage(request.input_tokens, completion.completion_tokens),
        **{name: otherwise if body.get(name) is None else body[name] for name, otherwise in _REPEATED.items()},
    }


def output_items(completion: Completion, digits: str) -> list[dict[str, Any]]:
    """Return the items of the object's `output`: a message, or the calls. `digits` make the ids."""
    status = "incomplete" if completion.finish_reasons[0] == "length" else "completed"
    calls = completion.tool_calls[0] if completion.tool_calls else ()
    if calls:
        return [call_item(call, f"{digits}{index}", status) for index, call in enumerate(calls)]
    part = {"type": "output_text", "annotations": [], "logprobs": [], "text": completion.contents[0]}
    return [{"id": f"msg_{digits}", "type": "message", "status": status, "role": "assistant", "content": [part]}]


def responses_api_usage(input_tokens: int, output_tokens: int) -> dict[str, Any]:
    """Return the usage as the Responses API writes it."""
    return {
        "input_tokens": input_tokens,
        "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
        "output_tokens": output_tokens,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": input_tokens + output_tokens,
    }


def call_item(call: ToolCall, digits: str, status: str) -> dict[str, Any]:
    """Return a call as an item of the output; `digits` make its ids."""
    if call.kind == "function":
        kind, prefix, payload = "function_call", "fc", "arguments"
    else:
        kind, prefix, payload = "custom_tool_call", "ctc", "input"
    return {
        "id": f"{prefix}_{digits}",
        "type": kind,
        "status": status,
        "call_id": f"call_{digits}",
        "name": call.name,
        payload: call.payload,
    }


def _sent(value: dict[str, Any] | None, known: dict[str, Any]) -> dict[str, Any]:
    """Return the sent fields that are among `known` and have a value."""
    return {name: value[name] for name in known if value.get(name) is not None} if value else {}


def _tool(tool: dict[str, Any]) -> dict[str, Any]:
    return _FUNCTION | tool if tool["type"] == "function" else tool
