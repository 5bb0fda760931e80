"""The operations of the admin API: each calls the `Manager` as the command of the same name does."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from limiter_node.changes import Change
from limiter_node.declarations import Declarations
from limiter_node.http.admin.calls import Call, Reply
from limiter_node.keysfile.fields import Misdeclared
from limiter_node.keysfile.limit_warnings import warnings_of
from limiter_node.keysfile.reading import read_keys_text
from limiter_node.management.manager import Manager
from limiter_node.management.views import Made
from limiter_node.policy_fields import time_ms


async def list_keys(manager: Manager, call: Call) -> Reply:
    """List keys."""
    query = call.query
    found = await manager.list_keys(query.get("account"), query.get("team"), query.get("limit", 1_000))
    return Reply(found.to_json())


async def create_key(manager: Manager, call: Call) -> Reply:
    """Create a key."""
    fields = dict(call.body)
    path, digest = fields.pop("path"), fields.pop("digest", None)
    return _made(await manager.create_key(path, fields, digest=digest))


async def show_key(manager: Manager, call: Call) -> Reply:
    """Show a key."""
    return Reply((await manager.show_key(call.path["who"])).to_json())


async def change_key(manager: Manager, call: Call) -> Reply:
    """Change a key's fields."""
    return _changed(await manager.set_key(call.path["who"], dict(call.body)))


async def delete_key(manager: Manager, call: Call) -> Reply:
    """Delete a key."""
    return _changed(await manager.delete_key(call.path["who"]))


async def rotate_key(manager: Manager, call: Call) -> Reply:
    """Give a key a new credential."""
    return _made(await manager.rotate(call.path["who"], call.body.get("grace_ms", 0)))


async def revoke_key(manager: Manager, call: Call) -> Reply:
    """Revoke one credential, or all."""
    body = call.body
    change = await manager.revoke(call.path["who"], body.get("credential"), every=body.get("all", False))
    return _changed(change)


async def disable_key(manager: Manager, call: Call) -> Reply:
    """Disable a key."""
    return _changed(await manager.disable(call.path["who"]))


async def enable_key(manager: Manager, call: Call) -> Reply:
    """Enable a key."""
    return _changed(await manager.enable(call.path["who"]))


async def expire_key(manager: Manager, call: Call) -> Reply:
    """Set when a key ends."""
    at = call.body["at"]
    return _changed(await manager.expire(call.path["who"], None if at is None else _time_ms(at)))


async def move_key(manager: Manager, call: Call) -> Reply:
    """Move a key."""
    body = call.body
    return _changed(await manager.move(call.path["who"], body["account"] or "", body.get("team", "")))


async def explain_limits(manager: Manager, call: Call) -> Reply:
    """Explain the limits that a key's requests meet."""
    return Reply((await manager.explain(call.path["who"], call.query["model"])).to_json())


async def list_accounts(manager: Manager, call: Call) -> Reply:
    """List accounts."""
    return Reply(_entries(await manager.list_accounts()))


async def create_account(manager: Manager, call: Call) -> Reply:
    """Create an account."""
    fields = dict(call.body)
    name = fields.pop("name")
    return _changed(await manager.create_account(name, fields))


async def show_account(manager: Manager, call: Call) -> Reply:
    """Show an account."""
    return Reply((await manager.show_account(call.path["name"])).to_json())


async def change_account(manager: Manager, call: Call) -> Reply:
    """Change an account's fields."""
    return _changed(await manager.set_account(call.path["name"], dict(call.body)))


async def delete_account(manager: Manager, call: Call) -> Reply:
    """Delete an account."""
    recursive = call.query.get("recursive", False)
    return _changed_all(await manager.delete_account(call.path["name"], recursive=recursive))


async def list_teams(manager: Manager, call: Call) -> Reply:
    """List the teams of an account."""
    return Reply(_entries(await manager.list_teams(call.query["account"])))


async def create_team(manager: Manager, call: Call) -> Reply:
    """Create a team."""
    fields = dict(call.body)
    path = fields.pop("path")
    return _changed(await manager.create_team(path, fields))


async def show_team(manager: Manager, call: Call) -> Reply:
    """Show a team."""
    return Reply((await manager.show_team(call.path["path"])).to_json())


async def change_team(manager: Manager, call: Call) -> Reply:
    """Change a team's fields."""
    return _changed(await manager.set_team(call.path["path"], dict(call.body)))


async def delete_team(manager: Manager, call: Call) -> Reply:
    """Delete a team."""
    recursive = call.query.get("recursive", False)
    return _changed_all(await manager.delete_team(call.path["path"], recursive=recursive))


async def apply_file(manager: Manager, call: Call) -> Reply:
    """Apply a keys file."""
    # In a thread, because a large file takes seconds to read.
    declared, warnings = await asyncio.to_thread(_read, call.file)
    dry_run = call.query.get("dry_run", False)
    applied = await manager.apply(
        declared,
        dry_run=dry_run,
        prune=call.query.get("prune", False),
        prune_keys=call.query.get("prune_keys", False),
    )
    changes = [each.to_json() for each in applied.changes]
    return Reply({"changes": changes, "warnings": [*warnings, *applied.warnings], "dry_run": dry_run})


def _read(file: bytes) -> tuple[Declarations, list[str]]:
    declared = read_keys_text(file, "the keys file")
    return declared, warnings_of(declared)


def _changed(change: Change) -> Reply:
    return Reply({"change": change.to_json()})


def _changed_all(changes: Sequence[Change]) -> Reply:
    return Reply({"changes": [each.to_json() for each in changes]})


def _made(made: Made) -> Reply:
    return Reply(made.to_json(), is_secret=True)


def _entries(views: Sequence[Any]) -> Mapping[str, Any]:
    return {"entries": [each.to_json() for each in views]}


def _time_ms(at: str) -> int:
    """Return a time in ms since the epoch. Raises Misdeclared."""
    try:
        at_ms = time_ms(at)
    except (ValueError, OverflowError):
        at_ms = 0
    if at_ms <= 0:
        raise Misdeclared("at must be a time with its offset, as 2027-06-30T00:00:00Z, or null", "at")
    return at_ms
