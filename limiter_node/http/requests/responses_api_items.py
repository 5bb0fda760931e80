"""The checks of the `input` of the Responses API, and its items as chat messages, by whose rule they count.

A function's call counts as an assistant's message with that call, its output as a tool's message, reasoning as an
assistant's message; items of other kinds (calls of built-in tools and their outputs) as their JSON.
"""

from __future__ import annotations

from typing import Any

from limiter_node.http.requests.fields import (
    InvalidRequest,
    check_if_given,
    check_required,
    empty_array,
    is_array,
    is_string,
    missing,
    object_of_type,
    unsupported_value,
    wrong_type,
)
from limiter_node.http.requests.json_body import to_json
from limiter_node.http.requests.known_fields import OF_ITEM_PARTS, OF_ITEMS, OF_PARTS_OBJECT, add_unknown

ROLES = ("user", "assistant", "system", "developer")
PART_TYPES = (
    "input_text",
    "output_text",
    "refusal",
    "input_image",
    "input_file",
    "input_audio",
    "text",
    "summary_text",
    "reasoning_text",
)

Message = dict[str, Any]

_EXPECTED = "one of a string or array of objects"
_TEXTS = frozenset(("input_text", "output_text", "text", "summary_text", "reasoning_text"))


def items_as_messages(value: Any, unknown: list[str]) -> list[Message]:
    """Return the messages in the `input` field, for counting; add its unknown fields and items to `unknown`.

    Raises `InvalidRequest` unless `value` is well-formed.
    """
    if value is None:
        raise missing("input")
    if type(value) is str:
        return [{"role": "user", "content": value}]
    if type(value) is not list:
        raise wrong_type(value, "input", _EXPECTED)
    if not value:
        raise empty_array("input")
    return [_message_of(item, f"input[{index}]", unknown) for index, item in enumerate(value)]


def _message_of(item: Any, path: str, unknown: list[str]) -> Message:
    if type(item) is not dict:
        raise wrong_type(item, path, "an object")
    check_if_given(item, "type", path, is_string)
    kind = item.get("type")
    if kind is None and "role" not in item:
        raise missing(f"{path}.type")
    if (known := OF_ITEMS.get(kind or "message")) is not None:
        add_unknown(item, known, path, unknown)
    if kind is None or kind == "message":
        return _message(item, path, unknown)
    if kind == "function_call" or kind == "custom_tool_call":
        return _call(item, path, kind)
    if kind == "function_call_output" or kind == "custom_tool_call_output":
        check_required(item, "call_id", path, is_string)
        return {"role": "tool", "content": _content(item, "output", path, unknown)}
    if kind == "reasoning":
        check_required(item, "summary", path, is_array)
        check_if_given(item, "content", path, is_array)
        parts = [(each, name) for name in ("summary", "content") for each in item.get(name) or ()]
        return {"role": "assistant", "content": [_part(each, f"{path}.{name}", unknown) for each, name in parts]}
    if kind == "item_reference":
        raise InvalidRequest(
            f"Invalid '{path}': items are not stored here, so none was found.", f"{path}.id", "not_found"
        )
    return {"role": "assistant", "content": to_json(item, path).decode()}


def _message(item: dict[str, Any], path: str, unknown: list[str]) -> Message:
    check_required(item, "role", path, is_string)
    if item["role"] not in ROLES:
        raise unsupported_value(item["role"], f"{path}.role", ROLES)
    return {"role": item["role"], "content": _content(item, "content", path, unknown)}


def _call(item: dict[str, Any], path: str, kind: str) -> Message:
    payload = "arguments" if kind == "function_call" else "input"
    for field in ("call_id", "name", payload):
        check_required(item, field, path, is_string)
    called = {"name": item["name"], "arguments": item[payload]}
    return {"role": "assistant", "content": None, "tool_calls": [{"type": "function", "function": called}]}


def _content(holder: dict[str, Any], field: str, path: str, unknown: list[str]) -> str | list[dict[str, Any]]:
    content = holder.get(field)
    path = f"{path}.{field}"
    if type(content) is str:
        return content
    if field not in holder:
        raise missing(path)
    if type(content) is not list:
        raise wrong_type(content, path, _EXPECTED)
    return [_part(part, f"{path}[{index}]", unknown) for index, part in enumerate(content)]


def _part(part: Any, path: str, unknown: list[str]) -> dict[str, Any]:
    """Return one content part in the form of a chat's."""
    kind = object_of_type(part, path, PART_TYPES)
    add_unknown(part, OF_ITEM_PARTS[kind], path, unknown)
    if kind in _TEXTS:
        check_required(part, "text", path, is_string)
        return {"type": "text", "text": part["text"]}
    if kind == "refusal":
        check_required(part, "refusal", path, is_string)
        return {"type": "refusal", "refusal": part["refusal"]}
    if kind == "input_image":
        check_if_given(part, "image_url", path, is_string)
        check_if_given(part, "file_id", path, is_string)
        if part.get("image_url") is None and part.get("file_id") is None:
            raise missing(f"{path}.image_url")
        return {"type": "image_url", "image_url": {"detail": part.get("detail")}}
    if kind == "input_audio":
        audio = part.get("input_audio")
        if type(audio) is not dict:
            raise wrong_type(audio, f"{path}.input_audio", "an object")
        check_required(audio, "data", f"{path}.input_audio", is_string)
        add_unknown(audio, OF_PARTS_OBJECT["input_audio"], f"{path}.input_audio", unknown)
        return {"type": "input_audio", "input_audio": {"data": audio["data"]}}
    check_if_given(part, "file_data", path, is_string)
    return {"type": "file", "file": {"file_data": part.get("file_data")}}
