"""Keys made, found, changed, shown, rotated, revoked and deleted through the manager, at real stores."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from limiter_node.management.errors import Conflict, NotFound
from limiter_node.management.manager import Manager

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
