"""Estimates the input tokens of tool definitions and JSON schemas; the text that models read isn't published.

Functions are counted as OpenAI's cookbook does ("How to count tokens with tiktoken", num_tokens_for_tools): 7 tokens a
function (10 for the models of cl100k_base), its ``name:description``, 3 for having parameters, 3 and
``name:type:description`` for each of them, 3 and its text for each value of an enum less 3 for the enum, and 12 once.
The cookbook covers flat parameters only; those of nested objects and lists are counted by the same rule. All other
fields of a definition (titles, defaults, examples, …) are counted as their compact JSON, since services show models all
of it; so are other kinds of tools, and the schema of a `response_format`.

Definitions must have been checked by `limiter_node.http.requests.tools` and by `http.requests.json_body.check_depth`.
O(characters).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import orjson

from limiter_node.tokens.vocabulary import CL100K_BASE, TokenCounter, count, encoding_name

TOKENS_PER_FUNCTION = 7
TOKENS_PER_FUNCTION_CL100K = 10
TOKENS_FOR_PARAMETERS = 3
TOKENS_PER_PARAMETER = 3
TOKENS_PER_ENUM = -3
TOKENS_PER_ENUM_VALUE = 3
TOKENS_FOR_TOOLS = 12

_OF_TOOL = frozenset(("type", "function"))
_OF_FUNCTION = frozenset(("name", "description", "parameters", "strict"))
_OF_FLAT = _OF_FUNCTION | {"type"}
_OF_PARAMETER = frozenset(("type", "description"))
_TYPES = frozenset(("object", "array", "string", "number", "integer", "boolean", "null"))
_SEVERAL = frozenset(("anyOf", "oneOf", "allOf", "prefixItems"))
_NAMED = frozenset(("$defs", "definitions"))


def count_tools(tools: Sequence[dict[str, Any]], model: str, *, nested: bool = True) -> int:
    """Return the input tokens that `tools` add; 0 for none.

    `nested`: in the shape of chat completions, with a function's definition under ``function``; else in that of the
    Responses API.
    """
    return sum_tools(tools, model, lambda text: count(text, model), nested=nested)


def sum_tools(tools: Sequence[dict[str, Any]], model: str, counter: TokenCounter, *, nested: bool) -> int:
    """Return the same as `count_tools`, with the caller's counter."""
    if not tools:
        return 0
    per_function = TOKENS_PER_FUNCTION_CL100K if encoding_name(model) == CL100K_BASE else TOKENS_PER_FUNCTION
    total = TOKENS_FOR_TOOLS
    for tool in tools:
        if tool.get("type") == "function":
            function, unknown = tool, _others(tool, _OF_TOOL if nested else _OF_FLAT)
            if nested:
                function = tool["function"]
                unknown += _others(function, _OF_FUNCTION)
            total += per_function + _sum_function(function, counter, unknown)
        else:
            total += sum_json(tool, counter)
    return total


def sum_json(value: Any, counter: TokenCounter) -> int:
    """Return the tokens of `value`, which `http.requests.json_body.check_depth` let pass, as compact JSON."""
    return counter(orjson.dumps(value).decode())


def _others(fields: dict[str, Any], known: frozenset[str]) -> list[Any]:
    return [{name: value} for name, value in fields.items() if name not in known]


def _sum_function(function: dict[str, Any], counter: TokenCounter, unknown: list[Any]) -> int:
    """Return the tokens of one definition, including `unknown` and the fields that the rule doesn't cover."""
    lines = [f"{function['name']}:{_sentence(function.get('description'))}"]
    total = 0
    # Not recursive: schemas may be nested a thousand deep.
    schemas: list[tuple[Any, bool]] = [(function.get("parameters") or {}, False)]
    while schemas:
        schema, is_parameter = schemas.pop()
        if type(schema) is not dict:
            unknown.append(schema)
            continue
        properties = schema.get("properties")
        if type(properties) is dict and properties:
            total += TOKENS_FOR_PARAMETERS
            for name, parameter in properties.items():
                total += TOKENS_PER_PARAMETER + _describe(name, parameter, lines)
                schemas.append((parameter, True))
        for name, value in schema.items():
            if name in _SEVERAL and type(value) is list:
                schemas += [(each, False) for each in value]
            elif name in _NAMED and type(value) is dict:
                unknown += value
                schemas += [(each, False) for each in value.values()]
            elif name == "items":
                schemas.append((value, False))
            elif not _is_counted(name, value, properties, is_parameter=is_parameter):
                unknown.append({name: value})
    return total + sum(map(counter, lines)) + (sum_json(unknown, counter) if unknown else 0)


def _is_counted(name: str, value: Any, properties: Any, *, is_parameter: bool) -> bool:
    """Return whether the rule covers the field `name` of a schema with these `properties`, or it costs nothing."""
    if name == "properties":
        return type(value) is dict
    if name == "required":
        if type(value) is not list or type(properties) is not dict or len(value) > len(properties):
            return False
        return all(type(each) is str and each in properties for each in value)
    if name == "additionalProperties":
        return type(value) is bool
    if is_parameter and (name in _OF_PARAMETER or (name == "enum" and type(value) is list)):
        return type(value) is str or name != "description"
    return name == "type" and type(value) is str and value in _TYPES


def _describe(name: str, parameter: Any, lines: list[str]) -> int:
    """Add the text of one parameter to `lines`; return its tokens beyond that text."""
    if type(parameter) is not dict:
        lines.append(name)
        return 0
    kind = parameter.get("type")
    lines.append(f"{name}:{_text(kind)}:{_sentence(parameter.get('description'))}")
    values = parameter.get("enum")
    if type(values) is not list:
        return 0
    lines += [_text(value) for value in values]
    return TOKENS_PER_ENUM + TOKENS_PER_ENUM_VALUE * len(values)


def _text(value: Any) -> str:
    if type(value) is str:
        return value
    return "" if value is None else orjson.dumps(value).decode()


def _sentence(description: Any) -> str:
    return description.removesuffix(".") if type(description) is str else ""
