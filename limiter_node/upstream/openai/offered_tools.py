"""The tools that an answer may call, but need not: ``tool_choice`` is ``auto``, or not given.

A forced call is part of the form that a request asks for (`limiter_node.upstream.requests.AnswerForm.tool`); a free one
is the model's own choice. A request that brings a tool's result offers none, so that the loop of an agent ends.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from limiter_node.upstream.requests import AnswerForm, CallableTool, ChatRequest, LimitedRequest, ResponsesApiRequest

_KINDS = ("function", "custom")
_ALLOWED = "allowed_tools"


def with_offered_tools(request: LimitedRequest) -> LimitedRequest:
    """Return `request` with the tools that it offers in its form; the same request if it offers none."""
    if not isinstance(request, ChatRequest | ResponsesApiRequest) or not request.body.get("tools"):
        return request
    offered = _offered(request.body, nested=isinstance(request, ChatRequest))
    if not offered:
        return request
    return request._replace(form=(request.form or AnswerForm())._replace(offered=offered))


def _offered(body: Mapping[str, Any], *, nested: bool) -> tuple[CallableTool, ...]:
    """Return the functions and custom tools of a checked body. `nested`: in the shape of chat completions."""
    choice = body.get("tool_choice")
    allowed = None
    if type(choice) is dict:
        if choice["type"] != _ALLOWED:
            return ()
        holder = choice[_ALLOWED] if nested else choice
        if holder["mode"] != "auto":
            return ()
        allowed = {(each["type"], _definition(each, nested).get("name")) for each in holder["tools"]}
    elif choice not in (None, "auto"):
        return ()
    if _answers_a_tool(body):
        return ()
    tools = []
    for tool in body["tools"]:
        kind, definition = tool["type"], _definition(tool, nested)
        if kind in _KINDS and (allowed is None or (kind, definition["name"]) in allowed):
            parameters = definition.get("parameters") if kind == "function" else None
            tools.append(CallableTool(kind, definition["name"], parameters))
    return tuple(tools)


def _definition(tool: Mapping[str, Any], nested: bool) -> Mapping[str, Any]:
    definition: Mapping[str, Any] = tool[tool["type"]] if nested and tool["type"] in _KINDS else tool
    return definition


def _answers_a_tool(body: Mapping[str, Any]) -> bool:
    """Whether the last message, or item of the input, is a tool's result."""
    said = body.get("messages") or body.get("input")
    if type(said) is not list or not said or type(said[-1]) is not dict:
        return False
    last = said[-1]
    return last.get("role") in ("tool", "function") or str(last.get("type", "")).endswith("_output")
