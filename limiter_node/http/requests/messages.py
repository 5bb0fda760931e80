"""The checks of a chat's `messages`: roles, contents, and the fields that may replace a content.

Follows OpenAI's schema of the request as far as counting and forwarding need it: `limiter_node.tokens.chat.count_chat`
counts checked messages without further checks. Unknown fields are accepted, and returned to be counted.
"""

from __future__ import annotations

from typing import Any

from limiter_node.http.requests.fields import (
    check_if_given,
    check_required,
    empty_array,
    is_string,
    missing,
    object_of_type,
    required_object,
    unsupported_value,
    wrong_type,
)
from limiter_node.http.requests.known_fields import (
    OF_AUDIO,
    OF_CALLED,
    OF_MESSAGE,
    OF_PARTS,
    OF_PARTS_OBJECT,
    OF_TOOL_CALLS,
    add_unknown,
)
from limiter_node.tokens.chat import REASONING_FIELDS

ROLES = ("system", "assistant", "user", "function", "tool", "developer")
PART_TYPES = ("text", "image_url", "input_audio", "refusal", "file")
TOOL_CALL_TYPES = ("function", "custom")

# Fields that an assistant's message may hold instead of a content.
_INSTEAD_OF_CONTENT = ("tool_calls", "function_call", "refusal", "audio")
_ROLES = frozenset(ROLES)


def check_messages(messages: Any) -> list[str]:
    """Return the texts of `messages` that count beside those that `count_chat` counts; see `add_unknown`.

    Raises `InvalidRequest` unless they are a list of one or more well-formed messages.
    """
    unknown: list[str] = []
    if messages is None:
        raise missing("messages")
    if type(messages) is not list:
        raise wrong_type(messages, "messages", "an array of objects")
    if not messages:
        raise empty_array("messages")
    for index, message in enumerate(messages):
        # The common message, a role and a text, passes after two look-ups; paths are rendered only for others.
        if type(message) is not dict:
            raise wrong_type(message, f"messages[{index}]", "an object")
        role = message.get("role")
        if type(role) is not str or role not in _ROLES:
            raise _wrong_role(role, f"messages[{index}].role")
        if type(message.get("content")) is not str:
            _check_content(message, role, f"messages[{index}]", unknown)
        elif len(message) == 2:
            continue
        _check_extras(message, f"messages[{index}]", unknown)
    return unknown


def _wrong_role(role: Any, path: str) -> Exception:
    if role is None:
        return missing(path)
    if type(role) is not str:
        return wrong_type(role, path, "a string")
    return unsupported_value(role, path, ROLES)


def _check_content(message: dict[str, Any], role: str, path: str, unknown: list[str]) -> None:
    content = message.get("content")
    path = f"{path}.content"
    if content is None:
        if role == "assistant" and any(message.get(field) is not None for field in _INSTEAD_OF_CONTENT):
            return
        if "content" not in message:
            raise missing(path)
        if role == "function":
            return
        raise wrong_type(content, path, "one of a string or array of objects")
    if type(content) is not list:
        raise wrong_type(content, path, "one of a string or array of objects")
    if not content:
        raise empty_array(path)
    for index, part in enumerate(content):
        _check_part(part, f"{path}[{index}]", unknown)


def _check_part(part: Any, path: str, unknown: list[str]) -> None:
    kind = object_of_type(part, path, PART_TYPES)
    if len(part) > 2:  # more than `type` and the field named by it
        add_unknown(part, OF_PARTS[kind], path, unknown)
    if kind == "text" or kind == "refusal":
        check_required(part, kind, path, is_string)
        return
    add_unknown(required_object(part, kind, path), OF_PARTS_OBJECT[kind], f"{path}.{kind}", unknown)
    if kind == "image_url":
        image = required_object(part, kind, path)
        check_required(image, "url", f"{path}.{kind}", is_string)
    elif kind == "input_audio":
        audio = required_object(part, kind, path)
        check_required(audio, "data", f"{path}.{kind}", is_string)
    else:
        file = required_object(part, kind, path)
        check_if_given(file, "file_data", f"{path}.{kind}", is_string)


def _check_extras(message: dict[str, Any], path: str, unknown: list[str]) -> None:
    add_unknown(message, OF_MESSAGE, path, unknown)
    check_if_given(message, "name", path, is_string)
    check_if_given(message, "refusal", path, is_string)
    for reasoning in REASONING_FIELDS:
        check_if_given(message, reasoning, path, is_string)
    if message.get("function_call") is not None:
        call = required_object(message, "function_call", path)
        check_required(call, "name", f"{path}.function_call", is_string)
        check_required(call, "arguments", f"{path}.function_call", is_string)
        add_unknown(call, OF_CALLED["function"], f"{path}.function_call", unknown)
    audio = message.get("audio")
    if type(audio) is dict:
        add_unknown(audio, OF_AUDIO, f"{path}.audio", unknown)
    elif audio is not None:
        raise wrong_type(audio, f"{path}.audio", "an object")
    calls = message.get("tool_calls")
    if calls is None:
        return
    if type(calls) is not list:
        raise wrong_type(calls, f"{path}.tool_calls", "an array of objects")
    for index, call in enumerate(calls):
        _check_tool_call(call, f"{path}.tool_calls[{index}]", unknown)


def _check_tool_call(call: Any, path: str, unknown: list[str]) -> None:
    kind = object_of_type(call, path, TOOL_CALL_TYPES)
    called = required_object(call, kind, path)
    check_required(called, "name", f"{path}.{kind}", is_string)
    check_required(called, "arguments" if kind == "function" else "input", f"{path}.{kind}", is_string)
    add_unknown(call, OF_TOOL_CALLS[kind], path, unknown)
    if len(called) > 2:
        add_unknown(called, OF_CALLED[kind], f"{path}.{kind}", unknown)
