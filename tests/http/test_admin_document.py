"""The admin API's document is valid, and requests are checked as a JSON schema validator would check them."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from openapi_spec_validator import OpenAPIV31SpecValidator
from referencing import Registry
from referencing.jsonschema import DRAFT202012

from limiter_node.http.admin.checking import check, check_query
from limiter_node.http.admin.openapi import DOCUMENT_PATH, document
from limiter_node.http.admin.schema_parts import view_schema
from limiter_node.http.admin.schemas import NAMED
from limiter_node.http.admin.table import PREFIX, ROUTES, find
from limiter_node.http.requests.fields import InvalidRequest

DOCUMENT = json.loads(document())
BODIES = sorted({route.body["$ref"].rpartition("/")[2] for route in ROUTES if route.body is not None})
_ROOT = "urn:document"
_REGISTRY: Registry[Any] = Registry().with_resource(_ROOT, DRAFT202012.create_resource(DOCUMENT))


def validator(name: str) -> Draft202012Validator:
    return Draft202012Validator({"$ref": f"{_ROOT}#/components/schemas/{name}"}, registry=_REGISTRY)


def is_accepted(value: Any, name: str) -> bool:
    try:
        check(value, NAMED[name])
    except InvalidRequest:
        return False
    return True


def test_it_is_valid() -> None:
    assert [str(error) for error in OpenAPIV31SpecValidator(DOCUMENT).iter_errors()] == []


def test_it_has_each_route_with_a_schema_for_everything() -> None:
    shown = {(method.upper(), path) for path, methods in DOCUMENT["paths"].items() for method in methods}
    assert shown == {(route.method, PREFIX + route.path) for route in ROUTES} | {("GET", DOCUMENT_PATH)}
    names = [route.name for route in ROUTES]
    assert len(set(names)) == len(names)
    for methods in DOCUMENT["paths"].values():
        for operation in methods.values():
            for response in operation["responses"].values():
                assert response["content"]["application/json"]["schema"]
            for parameter in operation.get("parameters", ()):
                assert parameter["schema"]
            for content in operation.get("requestBody", {}).get("content", {}).values():
                assert content["schema"]


def test_each_schema_is_one_and_is_used() -> None:
    text = json.dumps(DOCUMENT)
    for name, schema in DOCUMENT["components"]["schemas"].items():
        Draft202012Validator.check_schema(schema)
        assert f'"#/components/schemas/{name}"' in text, name


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: route.name)
def test_a_path_leads_to_its_route_alone(route: Any) -> None:
    segments = [
        f"a%2F{index}" if part.startswith("{") else part for index, part in enumerate(route.path[1:].split("/"))
    ]
    found = find(segments)
    assert found is not None
    assert found[0][route.method] is route
    assert find([*segments, "x", "y", "z"]) is None


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-10, 10**16) | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


def _near(name: str) -> st.SearchStrategy[Any]:
    """Return objects with fields of a schema, whose values may be right."""
    names = [*NAMED[name].get("properties", {}), "requests/1s", "input_tokens/1d", "tokens/1m for gpt*", "requests"]
    entry = {"requests": 1, "per": "1d", "models": ["a"], "mode": "audit", "name": "n"}
    values = _JSON | st.sampled_from([1, "x", {"amount": 1, "mode": "audit"}, {"amount": 1, "per": 2}, [entry], [{}]])
    return st.dictionaries(st.sampled_from(names), values, max_size=5)


@pytest.mark.parametrize("name", BODIES)
@given(data=st.data())
def test_the_check_agrees_with_a_validator(name: str, data: st.DataObject) -> None:
    value = data.draw(_JSON | _near(name))
    if _has_whole_float(value):
        return  # an integer to JSON Schema, and none here
    assert is_accepted(value, name) is validator(name).is_valid(value), value


def _has_whole_float(value: Any) -> bool:
    if isinstance(value, dict):
        return any(map(_has_whole_float, value.values()))
    if isinstance(value, list):
        return any(map(_has_whole_float, value))
    return isinstance(value, float) and value.is_integer()


@pytest.mark.parametrize(
    ("name", "value", "param", "words"),
    [
        ("NewKey", {}, "path", "Missing"),
        ("NewKey", {"path": "a/b", "rpn": 1}, "rpn", "Unknown parameter: 'rpn'"),
        ("NewKey", {"path": 1}, "path", "expected a string"),
        ("NewKey", {"path": "a", "rpm": None}, "rpm", "expected an integer or an object"),
        ("NewKey", {"path": "a", "rpm": -1}, "rpm", "at least 0"),
        ("NewKey", {"path": "a", "rpm": {"mode": "audit"}}, "rpm.amount", "Missing"),
        ("NewKey", {"path": "a", "tpm": {"amount": 1, "mode": "off"}}, "tpm.mode", "'enforce', 'audit'"),
        ("NewKey", {"path": "a", "limits": [{"per": "1d", "x": 1}]}, "limits[0].x", "Unknown"),
        ("KeyChanges", {"weight": 1_001}, "weight", "at most 1000"),
        ("KeyChanges", {"weight": True}, "weight", "a boolean"),
        ("Expiry", {}, "at", "Missing"),
        ("Revocation", {"all": "yes"}, "all", "expected a boolean"),
        ("NewKey", {"path": "a", "x" * 1_000: 1}, "x" * 64 + "…", "Unknown"),
    ],
)
def test_a_mistake_is_named(name: str, value: Any, param: str, words: str) -> None:
    with pytest.raises(InvalidRequest) as raised:
        check(value, NAMED[name])
    assert raised.value.param == param
    assert words in raised.value.message


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ({"account": ["a"], "x": ["1"]}, "x"),
        ({"limit": ["0"]}, "limit"),
        ({"limit": ["1e3"]}, "limit"),
        ({"limit": ["-1"]}, "limit"),
        ({"limit": ["1", "2"]}, "limit"),
        ({"account": [""]}, "account"),
    ],
)
def test_a_mistake_in_a_query_is_named(query: dict[str, list[str]], param: str) -> None:
    (route,) = [each for each in ROUTES if each.name == "listKeys"]
    with pytest.raises(InvalidRequest) as raised:
        check_query(query, route.query, route.needed)
    assert raised.value.param == param


def test_a_query_has_values_of_their_types() -> None:
    (route,) = [each for each in ROUTES if each.name == "applyKeysFile"]
    assert check_query({"dry_run": ["true"], "prune": ["false"]}, route.query, ()) == {"dry_run": True, "prune": False}
    (route,) = [each for each in ROUTES if each.name == "listKeys"]
    assert check_query({"limit": ["10"], "account": ["7"]}, route.query, ()) == {"limit": 10, "account": "7"}


def test_a_view_without_a_schema_is_noticed() -> None:
    class View:
        field: object

    with pytest.raises(TypeError):
        view_schema(View)
