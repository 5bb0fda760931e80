"""The checks of `tools`, `tool_choice` and `response_format`, and the form of the answer that they ask for.

Chat completions put a function's definition under ``function``, the Responses API beside ``type``: only a prefix
differs. Only requests with such fields are checked here.
"""

from __future__ import annotations

from typing import Any

from limiter_node.http.requests.fields import (
    Check,
    InvalidRequest,
    array_too_long,
    check_if_given,
    check_required,
    is_array,
    is_boolean,
    is_object,
    is_string,
    missing,
    object_of_type,
    required_object,
    unsupported_value,
    wrong_type,
)
from limiter_node.upstream.requests import AnswerForm, CallableTool

MAX_TOOLS = 128
CHAT_TOOL_TYPES = ("function", "custom")
RESPONSES_API_TOOL_TYPES = (
    "function", "custom", "file_search", "web_search", "web_search_2025_08_26", "web_search_preview",
    "web_search_preview_2025_03_11", "computer", "computer_use_preview", "mcp", "code_interpreter", "image_generation",
    "local_shell", "shell", "apply_patch", "namespace", "tool_search", "programmatic_tool_calling",
)  # fmt: skip
FORMAT_TYPES = ("text", "json_object", "json_schema")
_CHOICES = ("none", "auto", "required")
_MODES = ("auto", "required")
_ALLOWED = "allowed_tools"
_NAMED = frozenset(CHAT_TOOL_TYPES)
_ANY_OBJECT: dict[str, Any] = {"type": "object"}


def check_tools(tools: Any, param: str, types: tuple[str, ...], *, nested: bool) -> None:
    """Raise `InvalidRequest` unless `tools` are definitions of `types`. `nested`: in the shape of chat completions."""
    is_array(tools, param)
    if len(tools) > MAX_TOOLS:
        raise array_too_long(param, MAX_TOOLS, len(tools))
    for index, tool in enumerate(tools):
        path = f"{param}[{index}]"
        kind = object_of_type(tool, path, types)
        if kind not in _NAMED:
            continue
        defined = tool
        if nested:
            defined = required_object(tool, kind, path)
            path = f"{path}.{kind}"
        check_function(defined, path)


def check_function(function: Any, path: str) -> None:
    """Raise `InvalidRequest` unless `function` has a name and well-formed fields beside it."""
    is_object(function, path)
    check_required(function, "name", path, _is_name)
    for field, check in _FUNCTION_FIELDS.items():
        check_if_given(function, field, path, check)


def forced_tool(choice: Any, tools: list[dict[str, Any]], *, nested: bool) -> CallableTool | None:
    """Return the tool that `choice` forces an answer to call; None if it is free. Raises `InvalidRequest`.

    ``required`` forces the first tool that a caller could run itself.
    """
    if type(choice) is str:
        if choice not in _CHOICES:
            raise unsupported_value(choice, "tool_choice", _CHOICES)
        if choice != "required":
            return None
        return _first(_needed(tools), nested)
    if type(choice) is not dict:
        raise wrong_type(choice, "tool_choice", "one of a string or object")
    kind = choice.get("type")
    if kind is None:
        raise missing("tool_choice.type")
    is_string(kind, "tool_choice.type")
    if kind == _ALLOWED:
        return _of_allowed(choice, tools, nested)
    if kind in _NAMED:
        return _named(choice, _needed(tools), "tool_choice", nested)
    if nested or kind not in RESPONSES_API_TOOL_TYPES:
        raise unsupported_value(kind, "tool_choice.type", (*CHAT_TOOL_TYPES, _ALLOWED))
    return None


def schema_of(holder: Any, path: str, *, nested: bool) -> dict[str, Any] | None:
    """Return the JSON schema that a `response_format` or `text.format` asks for; None for text.

    Raises `InvalidRequest`.
    """
    kind = object_of_type(holder, path, FORMAT_TYPES)
    if kind == "text":
        return None
    if kind == "json_object":
        return _ANY_OBJECT
    if nested:
        holder = required_object(holder, kind, path)
        path = f"{path}.{kind}"
    check_required(holder, "name", path, _is_name)
    check_if_given(holder, "description", path, is_string)
    check_if_given(holder, "strict", path, is_boolean)
    if nested and holder.get("schema") is None:
        return _ANY_OBJECT
    return required_object(holder, "schema", path)


def chat_form(fields: dict[str, Any]) -> AnswerForm | None:
    """Return the form that a chat completion's fields ask for; None for plain prose. Raises `InvalidRequest`."""
    tools = fields.get("tools") or []
    if tools:
        check_tools(tools, "tools", CHAT_TOOL_TYPES, nested=True)
    choice, response_format = fields.get("tool_choice"), fields.get("response_format")
    return _form(
        stop_sequences(fields.get("stop")),
        None if choice is None else forced_tool(choice, tools, nested=True),
        None if response_format is None else schema_of(response_format, "response_format", nested=True),
    )


def responses_api_form(fields: dict[str, Any]) -> AnswerForm | None:
    """Return the form that the fields of the Responses API ask for, as `chat_form` does."""
    tools = fields.get("tools") or []
    if tools:
        check_tools(tools, "tools", RESPONSES_API_TOOL_TYPES, nested=False)
    choice = fields.get("tool_choice")
    answer_format = (fields.get("text") or {}).get("format")
    return _form(
        (),
        None if choice is None else forced_tool(choice, tools, nested=False),
        None if answer_format is None else schema_of(answer_format, "text.format", nested=False),
    )


def stop_form(stop: Any) -> AnswerForm | None:
    """Return the form that a checked `stop` alone asks for."""
    return _form(stop_sequences(stop), None, None)


def stop_sequences(stop: Any) -> tuple[str, ...]:
    """Return the sequences of a checked `stop` field, without empty ones, which stop nothing."""
    if stop is None:
        return ()
    return tuple(each for each in ([stop] if type(stop) is str else stop) if each)


def _form(stop: tuple[str, ...], tool: CallableTool | None, json_schema: dict[str, Any] | None) -> AnswerForm | None:
    if not stop and tool is None and json_schema is None:
        return None
    return AnswerForm(stop, tool, json_schema)


def _needed(tools: list[dict[str, Any]]) -> list[dict[str, Any]]:
    if not tools:
        raise InvalidRequest(
            "Invalid value for 'tool_choice': 'tool_choice' is only allowed when 'tools' are specified.",
            "tool_choice",
            "invalid_value",
        )
    return tools


def _first(tools: list[dict[str, Any]], nested: bool) -> CallableTool | None:
    return next((_forced(tool, nested) for tool in tools if tool["type"] in _NAMED), None)


def _named(choice: dict[str, Any], tools: list[dict[str, Any]], path: str, nested: bool) -> CallableTool:
    kind = choice["type"]
    if nested:
        choice = required_object(choice, kind, path)
        path = f"{path}.{kind}"
    check_required(choice, "name", path, is_string)
    for tool in tools:
        if tool["type"] == kind and (tool[kind] if nested else tool)["name"] == choice["name"]:
            return _forced(tool, nested)
    raise InvalidRequest("Tool choice not found in 'tools' parameter.", "tool_choice", "invalid_value")


def _of_allowed(choice: dict[str, Any], tools: list[dict[str, Any]], nested: bool) -> CallableTool | None:
    path = "tool_choice"
    if nested:
        choice = required_object(choice, _ALLOWED, path)
        path = f"{path}.{_ALLOWED}"
    mode = choice.get("mode")
    if mode is None:
        raise missing(f"{path}.mode")
    is_string(mode, f"{path}.mode")
    if mode not in _MODES:
        raise unsupported_value(mode, f"{path}.mode", _MODES)
    check_required(choice, "tools", path, is_array)
    types = CHAT_TOOL_TYPES if nested else RESPONSES_API_TOOL_TYPES
    forced = None
    for index, allowed in enumerate(choice["tools"]):
        kind = object_of_type(allowed, f"{path}.tools[{index}]", types)
        if kind in _NAMED:
            tool = _named(allowed, _needed(tools), f"{path}.tools[{index}]", nested)
            forced = forced or tool
    return forced if mode == "required" else None


def _forced(tool: dict[str, Any], nested: bool) -> CallableTool:
    kind = tool["type"]
    defined = tool[kind] if nested else tool
    return CallableTool(kind, defined["name"], defined.get("parameters") if kind == "function" else None)


def _is_name(value: Any, param: str) -> None:
    is_string(value, param)
    if not value:
        raise InvalidRequest(
            f"Invalid '{param}': empty string. Expected a string with minimum length 1.", param, "empty_string"
        )


_FUNCTION_FIELDS: dict[str, Check] = {"description": is_string, "parameters": is_object, "strict": is_boolean}
