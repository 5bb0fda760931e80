"""The OpenAPI 3.1 document of the admin API, made from the table of routes and the schemas."""

from __future__ import annotations

from functools import cache
from importlib.metadata import version
from typing import Any, Final

import orjson

from limiter_node.http.admin.schema_parts import Schema, ref
from limiter_node.http.admin.schemas import NAMED
from limiter_node.http.admin.table import PREFIX, ROUTES, Route

DOCUMENT_PATH: Final = f"{PREFIX}/openapi.json"
_ALWAYS: Final = (401, 500, 503)
_REASONS: Final = {
    400: "The request is wrong; `param` names the field.",
    401: "The token is missing or wrong.",
    404: "There is no such key, account or team.",
    408: "The body was not sent in time.",
    409: "Something that is stored stands in the way, or several keys are meant.",
    413: "The body is too large.",
    415: "The content encoding is not supported.",
    500: "The node failed.",
    503: "The store can't be reached, or the node has no room for the body.",
}
_PATH_VALUES: Final = {
    "who": "The key: its name (acme/alice, written acme%2Falice), or 8 or more digits of its digest.",
    "name": "The account's name.",
    "path": "The team: ACCOUNT/TEAM, with each / written %2F.",
}
_RETRY_AFTER: Final = {"Retry-After": {"description": "Seconds to wait.", "schema": {"type": "integer"}}}


@cache
def document() -> bytes:
    """Return the document as JSON."""
    return orjson.dumps(described())


def described() -> dict[str, Any]:
    """Return the document."""
    paths: dict[str, dict[str, Any]] = {}
    for route in ROUTES:
        paths.setdefault(PREFIX + route.path, {})[route.method.lower()] = _operation(route)
    own = _responses(200, {"type": "object"})
    paths[DOCUMENT_PATH] = {
        "get": {"operationId": "openapi", "summary": "This document.", "security": [], "responses": own}
    }
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Admin API of limiter-node",
            "version": version("llm-rate-limiter"),
            "description": "Manages keys, accounts and teams; each change counts from the next decision of every node.",
        },
        "security": [{"token": []}],
        "paths": paths,
        "components": {
            "schemas": NAMED,
            "securitySchemes": {
                "token": {"type": "http", "scheme": "bearer", "description": "The token of --admin-token-file."}
            },
        },
    }


def _operation(route: Route) -> dict[str, Any]:
    names = [each[1:-1] for each in route.path.split("/") if each.startswith("{")]
    parameters = [
        {
            "name": name,
            "in": "path",
            "required": True,
            "description": _PATH_VALUES[name],
            "schema": {"type": "string", "minLength": 1, "maxLength": 512},
        }
        for name in names
    ]
    parameters += [
        {"name": name, "in": "query", "required": name in route.needed, "schema": schema}
        for name, schema in route.query.items()
    ]
    responses = _responses(route.status, route.reply)
    for status in sorted({*route.errors, *_ALWAYS}):
        responses |= _responses(status, ref("Error"), _REASONS[status], headers=_RETRY_AFTER if status == 503 else None)
    found: dict[str, Any] = {
        "operationId": route.name,
        "summary": route.summary,
        "tags": [route.path.split("/")[1]],
        "responses": responses,
    }
    if parameters:
        found["parameters"] = parameters
    if route.takes_file:
        text = {"schema": {"type": "string", "description": "The text of a keys file."}}
        found["requestBody"] = {"required": True, "content": {"application/toml": text}}
    elif route.body is not None:
        content = {"application/json": {"schema": route.body}}
        found["requestBody"] = {"required": route.is_body_needed, "content": content}
    return found


def _responses(status: int, schema: Schema, text: str = "Done.", headers: Any = None) -> dict[str, Any]:
    response: dict[str, Any] = {"description": text, "content": {"application/json": {"schema": schema}}}
    if headers is not None:
        response["headers"] = headers
    return {str(status): response}
