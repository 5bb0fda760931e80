"""Checks requests of the admin API by the schemas that its document shows, so that both say the same.

It knows the keywords that `schemas` uses, and stops at the first mistake, which it names in OpenAI's words and codes.
Two things are stricter than in JSON Schema: an integer is written without a fraction, and a text is one that UTF-8 can
hold.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from limiter_node.http.admin.schema_parts import Schema
from limiter_node.http.admin.schemas import resolved
from limiter_node.http.requests.fields import InvalidRequest, missing, wrong_type

_KINDS: Final = {
    str: "string",
    bool: "boolean",
    int: "integer",
    float: "number",
    list: "array",
    dict: "object",
    type(None): "null",
}
_IN_WORDS: Final = {
    "string": "a string",
    "boolean": "a boolean",
    "integer": "an integer",
    "array": "an array",
    "object": "an object",
    "null": "null",
}
_MOST_SHOWN = 64


def check(value: Any, schema: Schema, path: str = "") -> None:
    """Raise `InvalidRequest` unless `value`, which `path` names, is as `schema` says. O(size of the value)."""
    schema = resolved(schema)
    kinds = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
    kind = _KINDS[type(value)]
    if kind not in kinds:
        raise wrong_type(value, path, _listed(kinds))
    if kind == "object":
        _check_object(value, schema, path)
    elif kind == "array":
        _check_array(value, schema, path)
    elif kind == "string":
        _check_text(value, schema, path)
    elif kind == "integer":
        _check_integer(value, schema, path)


def check_query(
    given: Mapping[str, list[str]], parameters: Mapping[str, Schema], needed: Sequence[str]
) -> dict[str, Any]:
    """Return the values of a query's parameters.

    Raises `InvalidRequest`, also for a parameter that isn't among `parameters`, and for one of `needed` that isn't
    there.
    """
    found: dict[str, Any] = {}
    for name, texts in given.items():
        if name not in parameters:
            raise _unknown(name, parameters)
        if len(texts) > 1:
            raise InvalidRequest(f"'{name}' is given {len(texts)} times: give it once.", name, "invalid_value")
        found[name] = _value_of(texts[0], parameters[name])
        check(found[name], parameters[name], name)
    for name in needed:
        if name not in found:
            raise missing(name)
    return found


def _value_of(text: str, schema: Schema) -> Any:
    kind = schema["type"]
    if kind == "integer" and re.fullmatch(r"[0-9]{1,15}", text):
        return int(text)
    if kind == "boolean" and text in ("true", "false"):
        return text == "true"
    return text


def _check_object(value: dict[str, Any], schema: Schema, path: str) -> None:
    properties = schema.get("properties", {})
    patterns = schema.get("patternProperties", {})
    for name in schema.get("required", ()):
        if name not in value:
            raise missing(_below(path, name))
    for name, each in value.items():
        found = properties.get(name)
        if found is None:
            found = next((of for pattern, of in patterns.items() if re.search(pattern, name)), None)
        if found is None:
            raise _unknown(_below(path, name), [*properties, *(_spoken(pattern) for pattern in patterns)])
        check(each, found, _below(path, name))


def _check_array(value: list[Any], schema: Schema, path: str) -> None:
    least, most = schema.get("minItems", 0), schema.get("maxItems")
    if len(value) < least or (most is not None and len(value) > most):
        raise InvalidRequest(f"Invalid '{path}': expected {least} to {most} items.", path, "invalid_value")
    for index, each in enumerate(value):
        check(each, schema["items"], f"{path}[{index}]")


def _check_text(value: str, schema: Schema, path: str) -> None:
    least, most = schema.get("minLength", 0), schema.get("maxLength")
    if len(value) < least or (most is not None and len(value) > most):
        raise InvalidRequest(f"Invalid '{path}': expected {least} to {most} characters.", path, "invalid_value")
    if "enum" in schema and value not in schema["enum"]:
        allowed = ", ".join(f"'{each}'" for each in schema["enum"])
        raise InvalidRequest(f"Invalid '{path}': expected one of {allowed}.", path, "invalid_value")


def _check_integer(value: int, schema: Schema, path: str) -> None:
    least, most = schema.get("minimum"), schema.get("maximum")
    if least is not None and value < least:
        raise InvalidRequest(f"Invalid '{path}': expected at least {least}.", path, "integer_below_min_value")
    if most is not None and value > most:
        raise InvalidRequest(f"Invalid '{path}': expected at most {most}.", path, "integer_above_max_value")


def _below(path: str, name: str) -> str:
    shown = name if len(name) <= _MOST_SHOWN else name[:_MOST_SHOWN] + "…"
    return f"{path}.{shown}" if path else shown


def _unknown(path: str, known: Iterable[str]) -> InvalidRequest:
    listed = ", ".join(known) or "none"
    return InvalidRequest(f"Unknown parameter: '{path}'. Known are: {listed}.", path, "unknown_parameter")


def _spoken(pattern: str) -> str:
    """Return the pattern of a field's name as people read it: ``^(a|b)/`` is ``a/…`` and ``b/…``."""
    return ", ".join(f"{each}/…" for each in pattern.removeprefix("^(").removesuffix(")/").split("|"))


def _listed(kinds: list[str]) -> str:
    words = [_IN_WORDS[each] for each in kinds]
    return " or ".join(words)
