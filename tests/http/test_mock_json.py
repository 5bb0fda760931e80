"""The mock's JSON: each rule of a schema that it understands, literally."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from limiter_node.upstream.mock.schema import MAX_CHARS, fitting_json


def made(schema: dict[str, Any]) -> Any:
    return json.loads(fitting_json(schema))


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        ({}, "text"),
        ({"type": "string"}, "text"),
        ({"type": "string", "minLength": 6}, "textte"),
        ({"type": "string", "maxLength": 2}, "te"),
        ({"type": "string", "maxLength": 0}, ""),
        ({"type": "string", "format": "date"}, "2025-01-01"),
        ({"type": "string", "format": "unheard of"}, "text"),
        ({"type": "string", "enum": ["b", "a"]}, "b"),
        ({"enum": [3, None]}, 3),
        ({"const": {"a": [1]}}, {"a": [1]}),
        ({"type": "boolean"}, True),
        ({"type": "null"}, None),
        ({"type": "unheard of"}, None),
        ({"type": ["integer", "null"]}, 1),
        ({"type": "integer"}, 1),
        ({"type": "integer", "minimum": 5}, 5),
        ({"type": "integer", "minimum": 5.5}, 6),
        ({"type": "integer", "exclusiveMinimum": 5}, 6),
        ({"type": "integer", "maximum": -5}, -5),
        ({"type": "integer", "exclusiveMaximum": -5}, -6),
        ({"type": "integer", "multipleOf": 7}, 7),
        ({"type": "integer", "multipleOf": 7, "minimum": 15, "maximum": 25}, 21),
        ({"type": "integer", "multipleOf": 7, "maximum": -1}, -7),
        ({"type": "number"}, 0.5),
        ({"type": "number", "minimum": 2}, 2.5),
        ({"type": "number", "maximum": 2}, 1.5),
        ({"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1}, 0.5),
        ({"type": "number", "multipleOf": 0.25, "minimum": 1.1}, 1.25),
        ({"type": "array"}, ["text"]),
        ({"type": "array", "items": {"type": "integer"}}, [1]),
        ({"type": "array", "items": {"type": "integer"}, "minItems": 3}, [1, 1, 1]),
        ({"type": "array", "items": {"type": "integer"}, "maxItems": 0}, []),
        ({"items": {"type": "boolean"}}, [True]),
        ({"type": "array", "prefixItems": [{"type": "integer"}, {"type": "null"}]}, [1, None]),
        ({"type": "object"}, {}),
        ({"type": "object", "required": ["a"]}, {"a": "text"}),
        ({"properties": {"a": {"type": "integer"}, "b": {}}, "required": ["b"]}, {"a": 1, "b": "text"}),
        ({"type": "object", "properties": {"a": {"type": "object", "properties": {"b": {}}}}}, {"a": {"b": "text"}}),
        ({"anyOf": [{"type": "integer"}, {"type": "null"}]}, 1),
        ({"oneOf": [{"type": "boolean"}]}, True),
        ({"$ref": "#/$defs/a", "$defs": {"a": {"type": "integer"}}}, 1),
        ({"$ref": "#/definitions/a~1b", "definitions": {"a/b": {"type": "integer"}}}, 1),
        ({"$ref": "#/nowhere"}, "text"),
        ({"$ref": "https://example.com/schema"}, "text"),
        (
            {
                "allOf": [{"$ref": "#/$defs/a"}, {"properties": {"y": {"type": "integer"}}}],
                "$defs": {"a": {"properties": {"x": {"type": "boolean"}}}},
            },
            {"x": True, "y": 1},
        ),
    ],
)
def test_rules(schema: dict[str, Any], value: Any) -> None:
    assert made(schema) == value


def test_a_schema_that_refers_to_itself_ends_where_it_may() -> None:
    node = {
        "type": "object",
        "properties": {"next": {"anyOf": [{"$ref": "#"}, {"type": "null"}]}},
        "required": ["next"],
    }
    value, depth = made(node), 0
    while value is not None:
        assert set(value) == {"next"}
        value, depth = value["next"], depth + 1
    assert 1 < depth < 40


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "array", "minItems": 10**9, "items": {"type": "string", "minLength": 10**9}},
        {"type": "array", "minItems": 10**6, "items": {"const": "x" * 50_000}},
        {"type": "array", "minItems": 10**6, "items": {"type": "object", "required": ["x" * 50_000]}},
        {"type": "array", "minItems": 5, "items": {"$ref": "#"}},
    ],
)
def test_the_size_is_bounded(schema: dict[str, Any]) -> None:
    assert len(fitting_json(schema)) < 3 * MAX_CHARS


BOUNDS = st.one_of(st.integers(-1_000, 1_000), st.floats(-1_000, 1_000))


@example(5e-324, 0, True, False, 2)
@given(BOUNDS, st.integers(0, 50), st.booleans(), st.booleans(), st.sampled_from([1, 2, 7]))
def test_integers_are_within_their_bounds(low: float, span: int, below: bool, above: bool, step: int) -> None:
    high = low + span + 2 * step
    schema: dict[str, Any] = {"type": "integer", "multipleOf": step}
    if below:
        schema["minimum"] = low
    if above:
        schema["maximum"] = high
    value = made(schema)
    assert type(value) is int
    assert value % step == 0
    assert not below or value >= low
    assert not above or value <= high
