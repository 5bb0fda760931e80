"""Keys made, found, changed, shown, rotated, revoked and deleted through the manager, at real stores."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from limiter_node.credentials import key_id
from limiter_node.errors import ConfigError
from limiter_node.key_states import MAX_CREDENTIALS
from limiter_node.management.errors import Conflict, NotFound
from limiter_node.management.manager import Manager
from limiter_node.store.admin.store_admin import StoreAdmin

NewName = Callable[[str], str]


async def test_a_key_from_its_making_to_its_end(either: Manager, new_name: NewName) -> None:
    acme = new_name("acme")
    change = await either.create_account(acme, {"rpm": 5_000, "team research": True, "team research rpm": 1_000})
    assert change.action == "created"
    assert change.after["rpm"] == 5_000
    made = await either.create_key(f"{acme}/alice", {"rpm": 60, "team": "research", "input_tokens/1d": 1_000_000})
    assert made.secret is not None
    assert made.secret.startswith("sk-")
    assert made.change.line().startswith(f"key {acme}/alice created: ")

    for who in (f"{acme}/alice", made.kid[:10], f"sha256:{made.kid}", made.secret):
        found = await either.find(who)
        assert (found.kid, found.account, found.by_secret) == (made.kid, acme, who == made.secret)
    view = await either.show_key(f"{acme}/alice")
    assert (view.state, view.team, view.account, view.weight) == ("active", "research", acme, 1)
    assert {(each.subject, each.unit, each.limit) for each in view.limits} == {
        (acme, "requests", 5_000),
        (f"{acme}/research", "requests", 1_000),
        (f"{acme}/alice", "requests", 60),
        (f"{acme}/alice", "input_tokens", 1_000_000),
    }

    change = await either.set_key(f"{acme}/alice", {"rpm": 120, "input_tokens/1d": None, "weight": 2})
    assert change.line() == f"key {acme}/alice changed: rpm 60 -> 120, input_tokens/1d 1,000,000 -> none, weight 1 -> 2"
    rotated = await either.rotate(f"{acme}/alice", grace_ms=3_600_000)
    assert rotated.secret not in (None, made.secret)
    assert rotated.kid == made.kid
    states = [each.state for each in (await either.show_key(f"{acme}/alice")).credentials]
    assert states == ["active", "active"]
    with pytest.raises(Conflict, match="2 valid credentials"):
        await either.revoke(f"{acme}/alice")
    await either.revoke(made.secret)
    assert [each.state for each in (await either.show_key(rotated.secret or "")).credentials] == ["revoked", "active"]
    await either.disable(f"{acme}/alice")
    assert (await either.show_key(f"{acme}/alice")).state == "disabled"
    await either.enable(f"{acme}/alice")
    assert (await either.show_key(f"{acme}/alice")).state == "active"
    change = await either.delete_key(f"{acme}/alice")
    assert change.action == "deleted"
    assert change.before["weight"] == 2
    for who in (f"{acme}/alice", made.kid[:10], made.kid, made.secret, rotated.secret or ""):
        with pytest.raises(NotFound):
            await either.find(who)
    assert (await either.list_keys(acme)).total == 0
    assert [each.kind for each in await either.delete_account(acme, recursive=True)] == ["team", "account"]


async def test_a_flat_key_is_plain_until_it_has_to_be_more(manager: Manager, new_name: NewName) -> None:
    name = new_name("ci")
    made = await manager.create_key(name, {"rpm": 10})
    view = await manager.show_key(name)
    assert [(each.unit, each.limit) for each in view.limits] == [
        ("requests", 10),
        ("output_tokens", 50_000),
        ("input_tokens", 100_000),
    ]
    assert (view.digest, view.account, view.state) == (f"sha256:{made.kid}", None, "active")
    change = await manager.set_key(name, {"rpm": 20})
    assert (change.before, change.after) == ({"rpm": 10}, {"rpm": 20})
    rotated = await manager.rotate(name)
    assert [each.state for each in (await manager.show_key(name)).credentials] == ["expired", "active"]
    assert (await manager.find(rotated.secret or "")).kid == made.kid
    await manager.set_key(name, {"rpm": "none", "requests/1d": 7})
    assert ("requests", "1d", 7) in {(e.unit, e.window, e.limit) for e in (await manager.show_key(name)).limits}
    await manager.delete_key(name)
    with pytest.raises(NotFound):
        await manager.show_key(name)


async def test_a_key_keeps_its_history_when_it_comes_back(
    manager: Manager, admin: StoreAdmin, new_name: NewName
) -> None:
    name, secret = new_name("ci"), new_name("secret")
    digest = f"sha256:{key_id(secret)}{'0' * 32}"
    await manager.create_key(name, {"requests/1d": 5}, digest=digest)
    await manager.set_key(name, {"rpm": 5})
    await manager.delete_key(name)
    await manager.create_key(name, {"requests/1d": 5}, digest=digest)
    item = await admin.keys.read(key_id(secret))
    assert item.account is not None
    assert item.account.revision == 3
    await manager.delete_key(name)
    await manager.create_key(name, {}, digest=digest)
    assert (await admin.keys.read(key_id(secret))).limits is not None


async def test_a_name_is_never_a_secret_of_its_key(manager: Manager, new_name: NewName) -> None:
    secret = new_name("secret")
    with pytest.raises(ConfigError, match="name must not be the key itself"):
        await manager.create_key(secret, {}, digest=f"sha256:{key_id(secret)}{'0' * 32}")
    made = await manager.create_key(new_name("ci"), {})
    rotated = await manager.rotate(made.kid, 60_000)
    for name in (made.secret, rotated.secret):
        with pytest.raises(ConfigError, match="name must not be the key itself"):
            await manager.set_key(made.kid, {"name": name})


async def test_the_oldest_useless_credentials_of_a_key_are_forgotten(
    manager: Manager, admin: StoreAdmin, new_name: NewName
) -> None:
    name = new_name("ci")
    made = await manager.create_key(name, {})
    secrets = [(await manager.rotate(made.kid)).secret or "" for _ in range(MAX_CREDENTIALS + 1)]
    view = await manager.show_key(name)
    assert len(view.credentials) == MAX_CREDENTIALS
    assert [each.digest for each in view.credentials][:2] == [f"sha256:{made.kid}", f"sha256:{key_id(secrets[2])}"]
    assert [each.state for each in view.credentials] == [*["expired"] * (MAX_CREDENTIALS - 1), "active"]
    # One that is forgotten is no key's, and never will be another's.
    assert await admin.search.way(key_id(secrets[0])) is not None
    with pytest.raises(NotFound):
        await manager.find(secrets[0])
    with pytest.raises(Conflict):
        await manager.create_key(new_name("ci"), {}, digest=f"sha256:{key_id(secrets[0])}{'0' * 32}")
    await manager.delete_key(made.kid)


async def test_a_key_with_too_many_valid_credentials_gets_no_more(manager: Manager, new_name: NewName) -> None:
    kid = (await manager.create_key(new_name("ci"), {})).kid
    for _ in range(MAX_CREDENTIALS - 1):
        await manager.rotate(kid, 3_600_000)
    with pytest.raises(Conflict, match="100 valid credentials: revoke some first"):
        await manager.rotate(kid, 3_600_000)
    await manager.revoke(kid, every=True)
    rotated = await manager.rotate(kid)
    assert (await manager.find(rotated.secret or "")).cid == key_id(rotated.secret or "")
    await manager.delete_key(kid)


async def test_a_grace_never_makes_a_credential_last_longer(manager: Manager, new_name: NewName) -> None:
    name = new_name("ci")
    await manager.create_key(name, {})
    await manager.rotate(name, 60_000)
    ends = (await manager.show_key(name)).credentials[0].expires
    await manager.rotate(name, 3_600_000)
    credentials = (await manager.show_key(name)).credentials
    assert credentials[0].expires == ends
    assert ends is not None
    assert (credentials[1].expires or "") > ends
    assert credentials[2].expires is None
    with pytest.raises(ConfigError, match="a grace is from 0 to 366 days"):
        await manager.rotate(name, -1)


async def test_a_credential_is_revoked_by_its_digest(manager: Manager, new_name: NewName) -> None:
    name = new_name("ci")
    made = await manager.create_key(name, {})
    await manager.rotate(name, 60_000)
    with pytest.raises(NotFound, match=f"key {name} has no credential whose digest begins so"):
        await manager.revoke(name, "0" * 12)
    with pytest.raises(ConfigError, match="named by 8 or more hex digits"):
        await manager.revoke(name, "sk-secret")
    with pytest.raises(ConfigError, match="either one credential is revoked, or all"):
        await manager.revoke(name, made.kid, every=True)
    await manager.revoke(name, f"sha256:{made.kid[:10]}")
    assert (await manager.revoke(name, made.kid)).after == {}, "it was already"
    await manager.revoke(name)
    with pytest.raises(Conflict, match="has no valid credentials"):
        await manager.revoke(name)
