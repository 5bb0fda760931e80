"""The JSON schemas of the admin API: its document shows them, and requests are checked by them.

`NAMED` has those that the document lists by name. The views' are made from the views themselves.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from limiter_node.http.admin.schema_parts import (
    MODE,
    VIEWS,
    Schema,
    all_required,
    list_of,
    object_of,
    or_null,
    ref,
    view_schema,
)
from limiter_node.keysfile.fields import MAX_NAME_LENGTH, MAX_OUTPUT_RESERVE
from limiter_node.limit_names import PER_MINUTE
from limiter_node.policy import MAX_AMOUNT, UNITS

_MAX_TEXT = 512
"""Longer than any name, path, digest or time."""


def resolved(schema: Schema) -> Schema:
    """Return the schema that a reference names; any other as it is."""
    reference = schema.get("$ref")
    return schema if reference is None else NAMED[reference.rpartition("/")[2]]


def _text(description: str, **more: Any) -> Schema:
    return {"type": "string", "maxLength": _MAX_TEXT, "description": description, **more}


def _integer(description: str = "", **more: Any) -> Schema:
    return {"type": "integer", **({"description": description} if description else {}), **more}


# ---- fields that change -------------------------------------------------------------------------------------------

_AMOUNT = {"type": "integer", "minimum": 0, "maximum": MAX_AMOUNT}
_NAME = _text("A name of your choice, shown in messages.", maxLength=MAX_NAME_LENGTH)
_LIMIT_AT = "^(" + "|".join(UNITS) + ")/"
"""Begins the field of a limit that has no field of its own: ``input_tokens/1d``, ``tokens/1m for gpt-5*``."""


def _limit(nullable: bool) -> Schema:
    kinds = ["integer", "object"]
    return {
        "description": "The amount, or an object if the limit has a name or is audited only."
        + (" null removes the limit." if nullable else ""),
        "type": [*kinds, "null"] if nullable else kinds,
        "minimum": 0,
        "maximum": MAX_AMOUNT,
        "properties": {"amount": _AMOUNT, "mode": MODE, "name": _NAME},
        "required": ["amount"],
        "additionalProperties": False,
    }


_LIMIT_ENTRY = object_of(
    {
        **dict.fromkeys(UNITS, _AMOUNT),
        "per": _text("The length of the window: 1s to 31d.", examples=["1d"]),
        "models": list_of(_text("A pattern of models' names, with *."), minItems=1, maxItems=64),
        "name": _NAME,
        "mode": MODE,
    },
    ("per",),
    description="One limit as in the keys file: exactly one unit, and the length of its window.",
)


def _fields(extra: Mapping[str, Schema], *, nullable: bool, required: Mapping[str, Schema]) -> Schema:
    """Return the schema of an item's fields. `nullable`: null removes what is stored."""
    reserve = _integer("Output tokens reserved for requests without a cap.", minimum=1, maximum=MAX_OUTPUT_RESERVE)
    optional = {"output_reserve": reserve, **extra}
    limits = list_of(ref("LimitEntry"), maxItems=256, description="Limits as in the keys file, beside other fields.")
    return object_of(
        {
            **required,
            **{field: _limit(nullable) for field in PER_MINUTE},
            **{field: or_null(schema) if nullable else schema for field, schema in optional.items()},
            "limits": limits,
        },
        tuple(required),
        patternProperties={_LIMIT_AT: _limit(nullable)},
    )


_TIME = _text("A time with its offset, by RFC 3339.", examples=["2027-06-30T00:00:00Z"])
_DIGEST = _text("sha256: and 32 or 64 hex digits.", examples=["sha256:2c26b46b68ffc68ff99b453c1d304134"])
_KEY_FIELDS: Mapping[str, Schema] = {
    "team": _text("The key's team in its account, such as research/vision."),
    "weight": _integer("Its share where an account's limit binds and requests wait.", minimum=1, maximum=1_000),
    "expires": _TIME,
}
_ACCOUNT_FIELDS: Mapping[str, Schema] = {
    "show": {"type": "string", "enum": ["path", "own"], "description": "What callers see above their key."},
    **{f"key_defaults.{field}": _integer("For keys that say nothing.", **_AMOUNT) for field in PER_MINUTE},
}
_PATH_OF_KEY = _text("ACCOUNT/NAME, or the name of a key without an account.", minLength=1)
_PATH_OF_TEAM = _text("ACCOUNT/TEAM, such as acme/research/vision.", minLength=1)
_NAME_OF_ACCOUNT = _text("The account's name.", minLength=1)

NAMED: Mapping[str, Schema] = {
    "Error": all_required(
        error=object_of(
            {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"], "description": "The wrong field, if it is one."},
                "code": {"type": ["string", "null"]},
                "candidates": list_of({"type": "string"}, description="If several keys are meant: which."),
                "changes": list_of(ref("Change"), description="If a file was applied in part: what has changed."),
                "warnings": list_of({"type": "string"}, description="If a file was applied in part."),
            },
            ("message", "type", "param", "code"),
        )
    ),
    "LimitEntry": _LIMIT_ENTRY,
    "NewKey": _fields(
        {**_KEY_FIELDS, "digest": {**_DIGEST, "description": "Of a secret made elsewhere; none is made then."}},
        nullable=False,
        required={"path": _PATH_OF_KEY},
    ),
    "KeyChanges": _fields({**_KEY_FIELDS, "name": _NAME}, nullable=True, required={}),
    "NewAccount": _fields(_ACCOUNT_FIELDS, nullable=False, required={"name": _NAME_OF_ACCOUNT}),
    "AccountChanges": _fields(_ACCOUNT_FIELDS, nullable=True, required={}),
    "NewTeam": _fields({}, nullable=False, required={"path": _PATH_OF_TEAM}),
    "TeamChanges": _fields({}, nullable=True, required={}),
    "Rotation": object_of({"grace_ms": _integer("How long the former secrets stay valid, in ms.", minimum=0)}),
    "Revocation": object_of(
        {
            "credential": {**_DIGEST, "description": "The one to revoke, if the key has several that are valid."},
            "all": {"type": "boolean", "description": "Revoke all of the key's credentials."},
        }
    ),
    "Expiry": object_of({"at": {**or_null(_TIME), "description": "When the key ends; null for never."}}, ("at",)),
    "Target": object_of(
        {
            "account": {**or_null(_NAME_OF_ACCOUNT), "description": "The account to move to; null for none."},
            "team": _text("The team there; none if left out."),
        },
        ("account",),
    ),
    "Changed": all_required(change=ref("Change")),
    "ChangedAll": all_required(changes=list_of(ref("Change"))),
    "Made": all_required(
        change=ref("Change"),
        digest={"type": "string", "description": "The key's."},
        secret={"type": ["string", "null"], "description": "Shown here only; null if it was made elsewhere."},
    ),
    "AccountList": all_required(entries=list_of(ref("Account"))),
    "TeamList": all_required(entries=list_of(ref("Team"))),
    "Applied": all_required(
        changes=list_of(ref("Change")),
        warnings=list_of({"type": "string"}),
        dry_run={"type": "boolean", "description": "Whether the changes were only shown."},
    ),
    **{name: view_schema(view) for name, view in VIEWS.items()},
}
"""By the name in the document."""
