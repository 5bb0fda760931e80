"""Finds the error in a JSON answer or event of status 200, wherever services put it, and the status that it states.

An object is an error if it has an ``error``, calls itself one (``"object": "error"``), or has a message and no field of
an answer. Its ``code`` is the status, if it is a number of one: services behind a router, and servers that have begun
to stream, have no other place for it.
"""

from __future__ import annotations

from typing import Any

_ANSWERS = ("choices", "output", "data", "embeddings", "response", "content")
_MESSAGES = ("message", "detail", "msg", "errors", "error_msg", "error_message", "Message")
_ALONE = frozenset(
    (
        *_MESSAGES,
        *("code", "type", "param", "status", "status_code", "object", "title", "instance", "success", "request_id"),
        *("error_code", "error_type", "timestamp", "path"),
    )
)
"""Fields of an event that is only an error."""
_STATUSES = ("code", "status_code", "status", "http_status", "error_code")
_NAMED = {
    "context_length_exceeded": 400,
    "invalid_prompt": 400,
    "content_filter": 400,
    "content_policy_violation": 400,
    "string_above_max_length": 400,
    "invalid_api_key": 401,
    "model_not_found": 404,
    "rate_limit_exceeded": 429,
    "insufficient_quota": 429,
    "overloaded": 503,
}
"""OpenAI's codes, which aren't numbers → their statuses."""


def find_event_error(fields: Any, *, is_first: bool) -> Any:
    """Return the error in an event of a stream, None if there is none. `is_first`: no event came before it.

    Later events without an ``error`` are events of some other kind, whatever their fields are called.
    """
    if type(fields) is not dict:
        return None
    if fields.get("error") or fields.get("object") == "error":
        return fields
    if not fields.get("choices"):
        if (error := _base_error(fields)) is not None:
            return error
        is_bare = is_first and fields.keys() <= _ALONE and "error" in str(fields.get("type", "error")).lower()
        return find_answer_error(fields) if is_bare else None
    return _choices_error(fields["choices"])


def find_answer_error(said: dict[str, Any]) -> Any:
    """Return the error in a whole answer, None if there is none: the whole answer, or one of its choices."""
    if said.get("object") == "response" and type(said.get("output")) is list:
        return None  # a failed response states it in the API's own way
    if said.get("error") or said.get("object") == "error":
        return said
    if choices := said.get("choices"):
        return _choices_error(choices)
    if any(said.get(name) for name in _ANSWERS):
        return None
    if (error := _base_error(said)) is not None:
        return error
    if said.get("success") is False or any(said.get(name) for name in _MESSAGES):
        return said
    return None


def error_status(error: Any) -> int | None:
    """Return the status that an error states, 400 to 599; None if it states none."""
    inner = error.get("error") if type(error) is dict else None
    holders = [holder for holder in (inner, error) if type(holder) is dict]
    for holder in holders:
        for name in _STATUSES:
            value = holder.get(name)
            if type(value) is str and len(value) == 3 and value.isascii() and value.isdigit():
                value = int(value)
            if type(value) is int and 400 <= value < 600:
                return value
    for holder in holders:
        value = holder.get("code")
        if type(value) is str and value in _NAMED:
            return _NAMED[value]
    return None


def _base_error(said: dict[str, Any]) -> Any:
    """Return the error in MiniMax's form: each answer has a status with codes of its own."""
    base = said.get("base_resp")
    if type(base) is not dict or not base.get("status_code"):
        return None
    return {"message": base.get("status_msg"), "code": base["status_code"]}


def _choices_error(choices: Any) -> Any:
    """Return the error in OpenRouter's form: that of the service behind it, in a choice without a text."""
    if type(choices) is not list or len(choices) != 1 or type(choices[0]) is not dict:
        return None
    choice = choices[0]
    error = choice.get("error")
    if not error:
        return None
    for name in ("message", "delta"):
        said = choice.get(name)
        if type(said) is dict and (said.get("content") or said.get("tool_calls")):
            return None
    return {"error": error}
