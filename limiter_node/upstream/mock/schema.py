"""Makes JSON that fits a simple schema, for a `response_format` and for the arguments of a function.

Understood: `type` (one or several), `properties`, `required`, `items`, `prefixItems`, `minItems`, `enum`, `const`,
`minimum`, `maximum` and their exclusive forms, `multipleOf`, `minLength`, `maxLength`, the common `format`s, the first
of `anyOf` and `oneOf`, all of `allOf`, and references within the schema. Anything else is ignored: the answer is JSON
in any case, but may not fit. It is always the same for the same schema; its size is bounded for any schema.
"""

from __future__ import annotations

import math
from typing import Any, TypeGuard

import orjson

MAX_CHARS = 20_000
"""The approximate bound of the JSON and of the work: a schema of a few bytes can ask for any size."""
MAX_DEPTH = 32
"""Deeper values get required members only: a schema that refers to itself must end."""
_CHARS_PER_VALUE = 8
_LARGEST_NUMBER = 1e15
_SMALLEST_STEP = 1e-9

_TEXT = "text"
_FORMATS = {
    "date-time": "2025-01-01T00:00:00Z",
    "date": "2025-01-01",
    "time": "00:00:00Z",
    "duration": "PT1S",
    "email": "user@example.com",
    "hostname": "example.com",
    "ipv4": "192.0.2.1",
    "ipv6": "2001:db8::1",
    "uri": "https://example.com/",
    "uuid": "00000000-0000-4000-8000-000000000000",
}


def fitting_json(schema: dict[str, Any]) -> str:
    """Return compact JSON that fits `schema`. O(the schema's size and `MAX_CHARS`); never fails."""
    try:
        return orjson.dumps(_Maker(schema).value(schema, 0)).decode()
    except orjson.JSONEncodeError:  # constants can be nested too deeply
        return "{}"


class _Maker:
    """Make one value; `_left` is the rest of `MAX_CHARS`."""

    def __init__(self, root: dict[str, Any]) -> None:
        self._root = root
        self._left = MAX_CHARS

    def value(self, schema: Any, depth: int) -> Any:
        """Return a value for `schema`, at `depth` of the answer; null if it can't or mustn't be larger."""
        self._left -= _CHARS_PER_VALUE
        if type(schema) is not dict or depth > 2 * MAX_DEPTH or self._left < 0:
            return None
        schema = self._resolved(schema)
        if "const" in schema:
            return self._constant(schema["const"])
        if (values := _list(schema, "enum")) is not None:
            return self._constant(values[0])
        for several in ("anyOf", "oneOf"):
            if (options := _list(schema, several)) is not None:
                return self.value(_ending(options, depth), depth + 1)
        match _type_of(schema, depth):
            case "object":
                return self._object(schema, depth)
            case "array":
                return self._array(schema, depth)
            case "string":
                return self._string(schema)
            case "integer":
                return _number(schema, whole=True)
            case "number":
                return _number(schema, whole=False)
            case "boolean":
                return True
            case _:
                return None

    def _resolved(self, schema: dict[str, Any]) -> dict[str, Any]:
        """Return `schema` with its reference followed and its `allOf` merged into it."""
        for _ in range(MAX_DEPTH):
            reference = schema.get("$ref")
            if type(reference) is not str:
                break
            target = self._target(reference)
            self._left -= len(target)
            schema = {**target, **{name: each for name, each in schema.items() if name != "$ref"}}
        if (parts := _list(schema, "allOf")) is not None:
            parts = [part for part in parts if type(part) is dict]
            parts = [self._target(part["$ref"]) if type(part.get("$ref")) is str else part for part in parts]
            self._left -= sum(map(len, parts))
            return _merged([schema, *parts])
        return schema

    def _target(self, reference: str) -> dict[str, Any]:
        target: Any = self._root
        if reference == "#":
            return self._root
        for step in reference.removeprefix("#/").split("/"):
            target = target.get(step.replace("~1", "/").replace("~0", "~")) if type(target) is dict else None
        return target if type(target) is dict else {}

    def _constant(self, value: Any) -> Any:
        self._left -= len(orjson.dumps(value))
        return value if self._left >= 0 else None

    def _string(self, schema: dict[str, Any]) -> str:
        known = _FORMATS.get(schema["format"]) if type(schema.get("format")) is str else None
        if known is not None:
            return known
        length = max(len(_TEXT), _size(schema, "minLength", 0))
        length = min(length, _size(schema, "maxLength", length), max(self._left, 0))
        self._left -= length
        return (_TEXT * (length // len(_TEXT) + 1))[:length]

    def _object(self, schema: dict[str, Any], depth: int) -> dict[str, Any]:
        properties = schema.get("properties")
        if type(properties) is not dict:
            properties = {}
        required = [each for each in _list(schema, "required") or () if type(each) is str]
        self._left -= len(properties) + len(required)
        wanted = required if depth > MAX_DEPTH else [*properties, *required]
        made: dict[str, Any] = {}
        for name in wanted:
            if name not in made:
                self._left -= len(name)
                if self._left <= 0:
                    break
                made[name] = self.value(properties.get(name, {"type": "string"}), depth + 1)
        return made

    def _array(self, schema: dict[str, Any], depth: int) -> list[Any]:
        first, item = _list(schema, "prefixItems") or [], schema.get("items", {"type": "string"})
        length = max(_size(schema, "minItems", 0), len(first))
        # One item shows more than none, if one is allowed; deep down, a schema that refers to itself has to end.
        if not length and depth <= MAX_DEPTH:
            length = min(1, _size(schema, "maxItems", 1))
        made: list[Any] = []
        while len(made) < length and self._left > 0:
            made.append(self.value(first[len(made)] if len(made) < len(first) else item, depth + 1))
        return made


def _type_of(schema: dict[str, Any], depth: int) -> Any:
    kind = schema.get("type")
    if type(kind) is list and kind:
        return "null" if depth > MAX_DEPTH and "null" in kind else kind[0]
    if kind is None:
        if "properties" in schema:
            return "object"
        return "array" if "items" in schema else "string"
    return kind


def _ending(options: list[Any], depth: int) -> Any:
    """Return the first of `options`; deep down the last, where schemas that refer to themselves put the null."""
    return options[-1 if depth > MAX_DEPTH else 0]


def _merged(schemas: list[dict[str, Any]]) -> dict[str, Any]:
    """Return all schemas merged into one; earlier ones take precedence. O(their size)."""
    merged: dict[str, Any] = {}
    properties: dict[str, Any] = {}
    required: list[Any] = []
    for schema in schemas:
        for name, value in schema.items():
            merged.setdefault(name, value)
        if type(schema.get("properties")) is dict:
            for name, value in schema["properties"].items():
                properties.setdefault(name, value)
        required += _list(schema, "required") or []
    return merged | {"properties": properties, "required": required} if properties or required else merged


def _list(schema: dict[str, Any], name: str) -> list[Any] | None:
    value = schema.get(name)
    return value if type(value) is list and value else None


def _size(schema: dict[str, Any], name: str, otherwise: int) -> int:
    value = schema.get(name)
    return min(max(value, 0), MAX_CHARS) if type(value) is int else otherwise


def _number(schema: dict[str, Any], *, whole: bool) -> int | float:
    """Return a number within the bounds, if there is one; the smallest if there is a lower bound."""
    low, is_low_excluded = _bound(schema, "minimum", "exclusiveMinimum")
    high, is_high_excluded = _bound(schema, "maximum", "exclusiveMaximum")
    multiple = schema.get("multipleOf")
    step: int | float | None = 1 if whole else None
    if _is_number(multiple) and multiple >= _SMALLEST_STEP:
        step = multiple
    if step is not None:
        if low is not None:
            steps = math.floor(low / step) + 1 if is_low_excluded else math.ceil(low / step)
            steps += steps * step < low  # the quotient was rounded, the smallest floats to 0
        elif high is not None:
            steps = math.ceil(high / step) - 1 if is_high_excluded else math.floor(high / step)
            steps -= steps * step > high
        else:
            steps = 1
        return int(steps * step) if whole else steps * step
    if low is not None and high is not None:
        return (low + high) / 2
    if low is not None:
        return low + 0.5
    return high - 0.5 if high is not None else 0.5


def _bound(schema: dict[str, Any], inclusive: str, exclusive: str) -> tuple[int | float | None, bool]:
    """Return a bound, and whether it is itself excluded; the exclusive one if both are given."""
    for name in (exclusive, inclusive):
        if _is_number(bound := schema.get(name)):
            return bound, name == exclusive
    return None, False


def _is_number(value: Any) -> TypeGuard[int | float]:
    return (type(value) is int or type(value) is float) and abs(value) < _LARGEST_NUMBER
