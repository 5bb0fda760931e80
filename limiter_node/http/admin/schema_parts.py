"""How a JSON schema is put together, and the schema of a view, made from its dataclass so that both agree.

A schema is a dictionary as OpenAPI 3.1 has it (JSON Schema 2020-12).
"""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Mapping
from typing import Any, Final, Literal, Union, get_args, get_origin, get_type_hints

from limiter_node.changes import Change
from limiter_node.management import views
from limiter_node.policy import AUDIT, ENFORCE, UNITS

Schema = Mapping[str, Any]

MODE: Final[Schema] = {"type": "string", "enum": [ENFORCE, AUDIT]}
ANY_FIELDS: Final[Schema] = {"type": "object", "description": "Fields as they are written in requests."}

VIEWS: Final[Mapping[str, type]] = {
    "Change": Change,
    "Limit": views.LimitView,
    "Credential": views.CredentialView,
    "Key": views.KeyView,
    "KeyEntry": views.KeyEntry,
    "KeyList": views.KeyList,
    "Team": views.TeamView,
    "Account": views.AccountView,
    "ExplainedLimit": views.ExplainedLimit,
    "Explanation": views.Explanation,
}
"""The views that replies hold, by the names of their schemas."""

_NAMES = {view: name for name, view in VIEWS.items()}
_SIMPLE: Mapping[object, Schema] = {
    str: {"type": "string"},
    int: {"type": "integer"},
    bool: {"type": "boolean"},
    type(None): {"type": "null"},
    dict[str, int]: {"type": "object", "additionalProperties": {"type": "integer"}},
    dict[str, Any]: ANY_FIELDS,
}
_BY_FIELD: Mapping[str, Schema] = {
    "state": {"type": "string", "enum": ["active", "disabled", "expired", "revoked"]},
    "mode": MODE,
    "unit": {"type": "string", "enum": list(UNITS)},
}
"""Fields with fewer values than their type has."""


def ref(name: str) -> Schema:
    """Return a reference to a schema that the document lists by name."""
    return {"$ref": f"#/components/schemas/{name}"}


def object_of(properties: Mapping[str, Schema], required: tuple[str, ...] = (), **more: Any) -> Schema:
    """Return the schema of an object that has these properties and no others."""
    return {
        "type": "object",
        "properties": properties,
        **({"required": list(required)} if required else {}),
        "additionalProperties": False,
        **more,
    }


def all_required(**properties: Schema) -> Schema:
    """Return the schema of an object that has all of these properties and no others."""
    return object_of(properties, tuple(properties))


def list_of(schema: Schema, **more: Any) -> Schema:
    """Return the schema of an array."""
    return {"type": "array", "items": schema, **more}


def or_null(schema: Schema) -> Schema:
    """Return a schema that allows null as well."""
    values = {"enum": [*schema["enum"], None]} if "enum" in schema else {}
    return {**schema, "type": [schema["type"], "null"], **values}


def view_schema(view: type) -> Schema:
    """Return the schema of the JSON form of a view, in which each field is there."""
    hints = get_type_hints(view)
    return all_required(
        **{each.name: _BY_FIELD.get(each.name) or _type_schema(hints[each.name]) for each in dataclasses.fields(view)}
    )


def _type_schema(hint: Any) -> Schema:
    if hint in _NAMES:
        return ref(_NAMES[hint])
    if hint in _SIMPLE:
        return _SIMPLE[hint]
    if get_origin(hint) is Literal:
        return {"type": "string", "enum": list(get_args(hint))}
    if get_origin(hint) is tuple:
        return list_of(_type_schema(get_args(hint)[0]))
    if get_origin(hint) in (Union, types.UnionType):
        options = [_type_schema(each) for each in get_args(hint)]
        if all(each.keys() == {"type"} for each in options):
            return {"type": [each["type"] for each in options]}
        return {"anyOf": options}
    raise TypeError(f"no schema for {hint}")
