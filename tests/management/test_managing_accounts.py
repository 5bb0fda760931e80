"""Accounts and teams made, changed, shown, listed and deleted, with what depends on them, at real stores."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from looking import good, state_of

from limiter_node.credentials import key_id
from limiter_node.errors import ConfigError
from limiter_node.management.errors import Conflict, NotFound
from limiter_node.management.manager import Manager
from limiter_node.store.admin.store_admin import StoreAdmin

NewName = Callable[[str], str]


async def test_an_organisation_is_made_looked_at_and_taken_apart(either: Manager, new_name: NewName) -> None:
    acme = new_name("acme")
    await either.create_account(acme, {"rpm": 100, "key_defaults": {"rpm": 10, "tpm": 1_000}, "show": "own"})
    assert (await either.create_team(f"{acme}/research", {"rpm": 50})).line() == f"team {acme}/research created: rpm 50"
    await either.create_team(f"{acme}/research/vision", {"requests/1d": 7})
    with pytest.raises(ConfigError, match="there is no team 'sales' above it"):
        await either.create_team(f"{acme}/sales/north", {})
    alice = await either.create_key(f"{acme}/alice", {"team": "research/vision", "tpm": "none"})
    await either.create_key(f"{acme}/bob", {"rpm": 20})
    assert alice.change.after == {"rpm": 10, "team": "research/vision", "name": "alice"}

    view = await either.show_account(acme)
    assert (view.show, view.key_defaults, view.teams, view.keys) == (
        *("own", {"rpm": 10, "tpm": 1_000}, ("research", "research/vision"), 2),
    )
    assert [each.to_json() for each in view.limits] == [
        {
            "name": None,
            "subject": acme,
            "unit": "requests",
            "window": "1m",
            "models": [],
            "limit": 100,
            "used": 0,
            "reserved": None,
            "remaining": 100,
            "reset_ms": 0,
            "mode": "enforce",
            "counting_since": view.limits[0].counting_since,
        }
    ]
    assert [(each.who, each.teams, each.keys) for each in await either.list_teams(acme)] == [
        (f"{acme}/research", 1, 0),
        (f"{acme}/research/vision", 0, 1),
    ]
    team = await either.show_team(f"{acme}/research/vision")
    assert [(each.unit, each.window, each.limit) for each in team.limits] == [("requests", "1d", 7)]
    assert acme in [each.name for each in await either.list_accounts()]

    listed = await either.list_keys(acme)
    assert [(each.who, each.team, each.limits) for each in listed.entries] == [
        (f"{acme}/alice", "research/vision", {"rpm": 10}),
        (f"{acme}/bob", None, {"rpm": 20, "tpm": 1_000}),
    ]
    assert [each.who for each in (await either.list_keys(acme, "research")).entries] == [f"{acme}/alice"]
    assert (await either.list_keys(acme, limit=1)).total == 2
    assert {f"{acme}/alice", f"{acme}/bob"} <= {each.who for each in (await either.list_keys()).entries}

    change = await either.set_team(f"{acme}/research", {"rpm": 60})
    assert (change.before, change.after) == ({"rpm": 50}, {"rpm": 60})
    change = await either.set_account(acme, {"show": None, "key_defaults": {"rpm": 11}})
    assert change.line() == (
        f"account {acme} changed: key_defaults.rpm 10 -> 11, key_defaults.tpm 1,000 -> none, show own -> path"
    )
    with pytest.raises(Conflict, match=f"team {acme}/research has 1 team below it and 1 key"):
        await either.delete_team(f"{acme}/research")
    with pytest.raises(Conflict, match=f"account '{acme}' has 2 teams and 2 keys"):
        await either.delete_account(acme)
    changes = await either.delete_team(f"{acme}/research", recursive=True)
    assert [each.line() for each in changes] == [
        f"key {acme}/alice deleted",
        f"team {acme}/research/vision deleted",
        f"team {acme}/research deleted",
    ]
    changes = await either.delete_account(acme, recursive=True)
    assert [each.line() for each in changes] == [f"key {acme}/bob deleted", f"account {acme} deleted"]
    for gone in (either.show_account(acme), either.list_teams(acme), either.list_keys(acme)):
        with pytest.raises(NotFound, match=f"there is no account '{acme}'"):
            await gone
    assert acme not in [each.name for each in await either.list_accounts()]


async def test_what_comes_back_goes_on_with_its_history(manager: Manager, admin: StoreAdmin, new_name: NewName) -> None:
    """A revision never falls, so that nodes know which of two policies is the later one; a revoked secret stays so."""
    acme, tag = new_name("acme"), ""
    await manager.create_account(acme, {"rpm": 1})
    await manager.set_account(acme, {"rpm": 2})
    tag = f"@{acme}"
    secret = new_name("secret")
    digest = f"sha256:{key_id(secret)}{'0' * 32}"
    await manager.create_key(f"{acme}/alice", {}, digest=digest)
    await manager.set_key(f"{acme}/alice", {"rpm": 5})
    await manager.delete_key(f"{acme}/alice")
    await manager.create_key(f"{acme}/alice", {}, digest=digest)
    stored = await admin.policies.read(tag, [key_id(secret)])
    assert stored.keys[key_id(secret)].policy.revision == 3
    assert await good(admin, secret)
    rotated = await manager.rotate(f"{acme}/alice")
    await manager.revoke(secret)
    await manager.delete_account(acme, recursive=True)
    await manager.create_account(acme, {})
    stored = await admin.policies.read(tag)
    assert stored.policy is not None
    assert stored.policy.revision == 3
    for again in (digest, f"sha256:{key_id(rotated.secret or '')}{'0' * 32}"):
        with pytest.raises(Conflict, match=r"revoked|another key's"):
            await manager.create_key(f"{acme}/alice", {}, digest=again)
        with pytest.raises(Conflict, match=r"revoked|another key's"):
            await manager.create_key(new_name("flat"), {}, digest=again)
    assert await state_of(admin, secret) is None


@pytest.mark.parametrize(
    ("path", "fields", "error", "message"),
    [
        ("nobody/alice", {}, NotFound, "there is no account 'nobody'"),
        ("{acme}/alice/x", {}, ConfigError, "a new key is called ACCOUNT/NAME"),
        ("{acme}/", {}, ConfigError, "a new key is called ACCOUNT/NAME"),
        ("{acme}/a b", {}, ConfigError, "the name of a key of an account is"),
        ("{acme}/red", {}, Conflict, "account '{acme}' has a team 'red': a key can't have the same name"),
        ("{acme}/old", {}, Conflict, "account '{acme}' has a key 'old' already"),
        ("{acme}", {}, Conflict, "a key without an account can't be called like an account"),
        ("{flat}", {}, Conflict, "there is a key '{flat}' without an account already"),
        ("{acme}/new", {"team": "green"}, NotFound, "there is no team {acme}/green"),
        ("{acme}/new", {"name": "x"}, ConfigError, "the name of a new key is the last part of its path"),
        ("{acme}/new", {"account": "x"}, ConfigError, "unknown field 'account'"),
        ("fresh", {"team": "red"}, ConfigError, "team is for keys of an account"),
        ("fresh", {"weight": 2}, ConfigError, "weight is for keys of an account"),
    ],
)
async def test_a_key_that_cannot_be_is_not_made(
    manager: Manager, new_name: NewName, path: str, fields: dict[str, Any], error: type[Exception], message: str
) -> None:
    names = {"acme": new_name("acme"), "flat": new_name("flat")}
    await manager.create_account(names["acme"], {"team red": True})
    await manager.create_key(f"{names['acme']}/old", {})
    await manager.create_key(names["flat"], {})
    with pytest.raises(error, match=message.format(**names)):
        await manager.create_key(path.format(**names), fields)
    assert (await manager.list_keys(names["acme"])).total == 1


async def test_names_that_are_taken_are_refused_to_what_exists(manager: Manager, new_name: NewName) -> None:
    acme, flat = new_name("acme"), new_name("flat")
    await manager.create_account(acme, {"team red": True})
    await manager.create_key(f"{acme}/old", {})
    await manager.create_key(f"{acme}/new", {})
    await manager.create_key(flat, {})
    for name in ("red", "old"):
        with pytest.raises(Conflict):
            await manager.set_key(f"{acme}/new", {"name": name})
    with pytest.raises(Conflict):
        await manager.set_key(flat, {"name": acme})
    for path in (f"{acme}/red", f"{acme}/old"):
        with pytest.raises(Conflict):
            await manager.create_team(path, {})
    with pytest.raises(Conflict):
        await manager.set_account(acme, {"team old": True})
    for name in (acme, flat):
        with pytest.raises(Conflict):
            await manager.create_account(name, {})
    with pytest.raises(NotFound):
        await manager.set_key(f"{acme}/new", {"team": "green"})
    for missing in (manager.set_team(f"{acme}/green", {}), manager.show_team(f"{acme}/green")):
        with pytest.raises(NotFound):
            await missing
    change = await manager.set_key(f"{acme}/new", {"name": "newer", "team": "red"})
    assert change.after == {"name": "newer", "team": "red"}
    assert (await manager.create_key(f"{acme}/new", {})).change.who == f"{acme}/new"
