"""The table of the admin API's routes: the one place from which requests are served and the document is made."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from limiter_node.http.admin import operations
from limiter_node.http.admin.calls import Call, Reply
from limiter_node.http.admin.schema_parts import Schema, ref
from limiter_node.management.manager import Manager

PREFIX: Final = "/admin/v1"
MAX_BODY_BYTES: Final = 65_536
MAX_FILE_BYTES: Final = 8 * 1_048_576
"""The largest keys file that can be applied."""

Operation = Callable[[Manager, Call], Awaitable[Reply]]


@dataclass(frozen=True, slots=True)
class Route:
    """One route. `path` is below `PREFIX`; ``{who}`` in it stands for one segment, percent-encoded.

    `body`: the schema of its JSON body, None if it takes none; `takes_file`: its body is the text of a keys file.
    `is_body_needed`: without a body, an empty object counts. `query`: the schemas of its parameters; those of
    `needed` must be there. `errors`: beside 401, 500 and 503, which each route has.
    """

    method: str
    path: str
    name: str
    summary: str
    operation: Operation
    reply: Schema
    status: int = 200
    query: Mapping[str, Schema] = field(default_factory=dict)
    needed: tuple[str, ...] = ()
    body: Schema | None = None
    is_body_needed: bool = True
    takes_file: bool = False
    errors: tuple[int, ...] = ()

    @property
    def max_body_bytes(self) -> int:
        """The largest body."""
        return MAX_FILE_BYTES if self.takes_file else MAX_BODY_BYTES


_CHANGED, _CHANGED_ALL = ref("Changed"), ref("ChangedAll")
_TEXT: Schema = {"type": "string", "minLength": 1, "maxLength": 512}
_FLAG: Schema = {"type": "boolean", "default": False}
_RECURSIVE: Mapping[str, Schema] = {"recursive": {**_FLAG, "description": "Delete what is in it, too."}}
_DELETING = (400, 404, 409)
_MAKING = (400, 404, 408, 409, 413, 415)


def _of_key(verb: str, summary: str, operation: Operation, body: str = "", *, is_body_needed: bool = True) -> Route:
    return Route(
        "POST",
        f"/keys/{{who}}/{verb}",
        f"{verb}Key",
        summary,
        operation,
        ref("Made") if verb == "rotate" else _CHANGED,
        body=ref(body) if body else None,
        is_body_needed=is_body_needed,
        errors=_MAKING if body else _DELETING,
    )


ROUTES: Final = (
    Route(
        "GET",
        "/keys",
        "listKeys",
        "List the first keys by name, without their usage.",
        operations.list_keys,
        ref("KeyList"),
        query={
            "account": {**_TEXT, "description": "Only keys of this account."},
            "team": {**_TEXT, "description": "Only keys of this team of the account, and of teams below it."},
            "limit": {"type": "integer", "minimum": 1, "maximum": 10_000, "default": 1_000},
        },
        errors=(400, 404),
    ),
    Route(
        "POST",
        "/keys",
        "createKey",
        "Create a key. The reply shows its secret, this once.",
        operations.create_key,
        ref("Made"),
        201,
        body=ref("NewKey"),
        errors=_MAKING,
    ),
    Route(
        "GET",
        "/keys/{who}",
        "showKey",
        "Show a key with its credentials, and the limits on its path with their usage.",
        operations.show_key,
        ref("Key"),
        errors=(400, 404, 409),
    ),
    Route(
        "PATCH",
        "/keys/{who}",
        "changeKey",
        "Change the fields that the body has; null removes one.",
        operations.change_key,
        _CHANGED,
        body=ref("KeyChanges"),
        errors=_MAKING,
    ),
    Route("DELETE", "/keys/{who}", "deleteKey", "Delete a key.", operations.delete_key, _CHANGED, errors=_DELETING),
    _of_key(
        "rotate",
        "Give a key a new secret. The reply shows it, this once.",
        operations.rotate_key,
        "Rotation",
        is_body_needed=False,
    ),
    _of_key("revoke", "Revoke a credential of a key.", operations.revoke_key, "Revocation", is_body_needed=False),
    _of_key("disable", "Refuse all requests of a key until it is enabled.", operations.disable_key),
    _of_key("enable", "Enable a key that is disabled.", operations.enable_key),
    _of_key("expire", "Set when a key ends.", operations.expire_key, "Expiry"),
    _of_key("move", "Move a key to another account or team.", operations.move_key, "Target"),
    Route(
        "GET",
        "/keys/{who}/limits",
        "explainLimits",
        "Explain which limits a key's requests to a model meet, and which would reject.",
        operations.explain_limits,
        ref("Explanation"),
        query={"model": {**_TEXT, "description": "The model's name in requests."}},
        needed=("model",),
        errors=(400, 404, 409),
    ),
    Route("GET", "/accounts", "listAccounts", "List all accounts.", operations.list_accounts, ref("AccountList")),
    Route(
        "POST",
        "/accounts",
        "createAccount",
        "Create an account.",
        operations.create_account,
        _CHANGED,
        201,
        body=ref("NewAccount"),
        errors=_MAKING,
    ),
    Route(
        "GET",
        "/accounts/{name}",
        "showAccount",
        "Show an account and the usage of its limits.",
        operations.show_account,
        ref("Account"),
        errors=(400, 404),
    ),
    Route(
        "PATCH",
        "/accounts/{name}",
        "changeAccount",
        "Change the fields that the body has; null removes one.",
        operations.change_account,
        _CHANGED,
        body=ref("AccountChanges"),
        errors=_MAKING,
    ),
    Route(
        "DELETE",
        "/accounts/{name}",
        "deleteAccount",
        "Delete an account.",
        operations.delete_account,
        _CHANGED_ALL,
        query=_RECURSIVE,
        errors=_DELETING,
    ),
    Route(
        "GET",
        "/teams",
        "listTeams",
        "List the teams of an account.",
        operations.list_teams,
        ref("TeamList"),
        query={"account": _TEXT},
        needed=("account",),
        errors=(400, 404),
    ),
    Route(
        "POST",
        "/teams",
        "createTeam",
        "Create a team.",
        operations.create_team,
        _CHANGED,
        201,
        body=ref("NewTeam"),
        errors=_MAKING,
    ),
    Route(
        "GET",
        "/teams/{path}",
        "showTeam",
        "Show a team and the usage of its limits.",
        operations.show_team,
        ref("Team"),
        errors=(400, 404),
    ),
    Route(
        "PATCH",
        "/teams/{path}",
        "changeTeam",
        "Change the fields that the body has; null removes one.",
        operations.change_team,
        _CHANGED,
        body=ref("TeamChanges"),
        errors=_MAKING,
    ),
    Route(
        "DELETE",
        "/teams/{path}",
        "deleteTeam",
        "Delete a team.",
        operations.delete_team,
        _CHANGED_ALL,
        query=_RECURSIVE,
        errors=_DELETING,
    ),
    Route(
        "POST",
        "/apply",
        "applyKeysFile",
        "Make everything that a keys file declares exactly so, and show the differences.",
        operations.apply_file,
        ref("Applied"),
        query={
            "dry_run": {**_FLAG, "description": "Only show the differences."},
            "prune": {**_FLAG, "description": "Delete keys and teams that the file's accounts don't have there."},
            "prune_keys": {**_FLAG, "description": "Delete keys without an account that the file doesn't have."},
        },
        takes_file=True,
        errors=_MAKING,
    ),
)


def find(segments: list[str]) -> tuple[Mapping[str, Route], Mapping[str, str]] | None:
    """Return the routes at a path by method, and the values of its ``{…}``; None if there is no such path."""
    for template, routes in _BY_PATH:
        if len(template) == len(segments):
            values = {}
            for expected, segment in zip(template, segments, strict=True):
                if expected.startswith("{"):
                    values[expected[1:-1]] = segment
                elif expected != segment:
                    break
            else:
                return routes, values
    return None


def _by_path() -> list[tuple[list[str], dict[str, Route]]]:
    found: dict[str, dict[str, Route]] = {}
    for route in ROUTES:
        methods = found.setdefault(route.path, {})
        methods[route.method] = route
        if route.method == "GET":
            methods["HEAD"] = route
    return [(path.removeprefix("/").split("/"), routes) for path, routes in found.items()]


_BY_PATH = _by_path()
