"""Keys moved between accounts and teams by a person, also when that is interrupted or something else happens meanwhile.

How windows move, and what nodes do meanwhile, is tested with the scripts and the nodes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from contextlib import suppress

import pytest
from dispatching import dispatching
from looking import good, state_of
from stepping import Steps

from limiter_node.changes import Change
from limiter_node.decisions import Need, Outcome
from limiter_node.errors import ConfigError
from limiter_node.management.errors import Conflict, NotFound
from limiter_node.management.manager import Manager
from limiter_node.management.views import Made
from limiter_node.store.admin.store_admin import StoreAdmin

NewName = Callable[[str], str]
MOST_STEPS = 60


@pytest.fixture
async def accounts(manager: Manager, new_name: NewName) -> tuple[str, str]:
    """Return the names of two new accounts, each with the team red."""
    names = new_name("one"), new_name("two")
    for name in names:
        await manager.create_account(name, {"rpm": 1_000, "team red": True})
    return names


async def test_a_key_goes_from_account_to_account_and_out(either: Manager, new_name: NewName) -> None:
    one, two = new_name("one"), new_name("two")
    for account in (one, two):
        await either.create_account(account, {"team red": True})
    made = await either.create_key(new_name("ci"), {"rpm": 9})
    change = await either.move(made.kid, one, "red")
    assert change.after == {"account": one, "team": "red"}
    rotated = await either.rotate(made.kid, 60_000)
    change = await either.move(made.secret or "", two)
    assert (change.before, change.after) == ({"account": one, "team": "red"}, {"account": two})
    name = made.change.who
    with pytest.raises(NotFound):
        await either.show_key(f"{one}/{name}")
    for who in (f"{two}/{name}", made.kid, rotated.secret or ""):
        view = await either.show_key(who)
        assert (view.account, view.team, view.digest) == (two, None, f"sha256:{made.kid}")
        assert [each.limit for each in view.limits if each.unit == "requests"] == [9]
    change = await either.move(f"{two}/{name}", two, "red")
    assert (change.action, change.before, change.after) == ("moved", {}, {"team": "red"})
    change = await either.move(f"{two}/{name}", "")
    assert change.before == {"account": two, "team": "red"}
    assert (await either.show_key(name)).account is None
    assert (await either.move(name, "")).after == {}
    assert (await either.list_keys(two)).total == 0


async def test_usage_goes_with_the_key(manager: Manager, single_store: str, accounts: tuple[str, str]) -> None:
    one, two = accounts
    made = await manager.create_key(f"{one}/alice", {"rpm": 3})
    async with dispatching(single_store) as dispatcher:
        for _ in range(2):
            assert (await dispatcher.admit(made.kid, Need(0, 0, 0))).outcome is Outcome.ADMITTED
        await manager.move(f"{one}/alice", two)
        outcomes = [(await dispatcher.admit(made.kid, Need(0, 0, 0))).outcome for _ in range(2)]
    assert outcomes == [Outcome.ADMITTED, Outcome.REJECTED]
    used = {each.subject: each.used for each in (await manager.show_key(f"{two}/alice")).limits}
    assert used == {two: 1, f"{two}/alice": 3}
    assert [each.used for each in (await manager.show_account(one)).limits] == [2]


async def test_a_move_that_cannot_be_changes_nothing(
    manager: Manager, accounts: tuple[str, str], new_name: NewName
) -> None:
    one, two = accounts
    flat = new_name("ci")
    await manager.create_key(flat, {})
    await manager.create_key("a flat key's name", {})
    await manager.create_key(f"{one}/alice", {})
    await manager.create_key(f"{two}/alice", {})
    await manager.create_key(f"{one}/{flat}", {})
    for who, account, team, error in (
        (f"{one}/alice", "nobody", "", NotFound),
        (f"{one}/alice", two, "", Conflict),
        (f"{one}/alice", two, "blue", NotFound),
        (f"{one}/alice", one, "blue", NotFound),
        (f"{one}/alice", "", "red", ConfigError),
        (f"{one}/{flat}", "", "", Conflict),
        ("a flat key's name", one, "", ConfigError),
        (f"{one}/bob", two, "", NotFound),
    ):
        with pytest.raises(error):
            await manager.move(who, account, team)
    assert (await manager.list_keys(one)).total == 2
    assert (await manager.list_keys(two)).total == 1
    await manager.delete_key("a flat key's name")


@pytest.mark.parametrize("again_by", ["name", "digest"])
@pytest.mark.parametrize("way", ["between", "into", "out"])
async def test_a_move_can_be_stopped_anywhere(
    manager: Manager,
    admin: StoreAdmin,
    monkeypatch: pytest.MonkeyPatch,
    accounts: tuple[str, str],
    new_name: NewName,
    way: str,
    again_by: str,
) -> None:
    one, two = accounts
    for at in range(MOST_STEPS):
        name = new_name("key")
        source = {"between": f"{one}/{name}", "into": name, "out": f"{one}/{name}"}[way]
        target = "" if way == "out" else two
        made = await manager.create_key(source, {"rpm": 5})
        secrets = [made.secret]
        if way != "into":
            secrets.append((await manager.rotate(source, 3_600_000)).secret)
        change = await Steps(monkeypatch).stopped_at(at, manager.move(source, target))
        if change is None:
            with suppress(NotFound):  # all was done but saying so: the key doesn't go by its former name any more
                await manager.move(source if again_by == "name" else f"sha256:{made.kid}", target)
        for secret in secrets:
            assert await good(admin, secret)
            assert (await manager.find(secret or "")).account == (target or None)
        assert (await manager.show_key(f"{target}/{name}" if target else name)).digest == f"sha256:{made.kid}"
        if change is not None:
            return
    raise AssertionError("the operation never ends")


async def test_a_move_whose_reply_is_lost_is_made_once(
    manager: Manager, admin: StoreAdmin, monkeypatch: pytest.MonkeyPatch, accounts: tuple[str, str]
) -> None:
    one, two = accounts
    for at in range(MOST_STEPS):
        made = await manager.create_key(f"{one}/key-{at}", {})
        steps = Steps(monkeypatch)
        change = await steps.reply_lost_at(at, manager.move(f"{one}/key-{at}", two))
        assert (change.before, change.after) == ({"account": one}, {"account": two})
        assert await good(admin, made.secret)
        assert (await manager.find(f"{two}/key-{at}")).kid == made.kid
        if steps.count <= at:
            return
    raise AssertionError("the operation never ends")


@pytest.mark.parametrize("operation", ["set", "rotate", "revoke", "delete", "move back"])
async def test_what_happens_to_a_key_that_is_moved_meanwhile_is_not_lost(
    manager: Manager, admin: StoreAdmin, monkeypatch: pytest.MonkeyPatch, accounts: tuple[str, str], operation: str
) -> None:
    one, two = accounts
    for at in range(MOST_STEPS):
        path = f"{one}/key-{at}"
        made = await manager.create_key(path, {"rpm": 5})
        other = {
            "set": manager.set_key(made.kid, {"rpm": 6}),
            "rotate": manager.rotate(made.kid, 60_000),
            "revoke": manager.revoke(made.kid),
            "delete": manager.delete_key(made.kid),
            "move back": manager.move(made.kid, one),
        }
        chosen = other.pop(operation)
        for each in other.values():
            each.close()
        steps = Steps(monkeypatch)
        moved, done = await steps.with_other_at(at, manager.move(path, two), chosen)
        if steps.count <= at:
            return
        assert isinstance(done, Change | Made), done
        if operation == "delete":
            assert isinstance(moved, Change | NotFound), moved
            assert await state_of(admin, made.secret) is None
            assert (await admin.pointers.marks([made.kid]))[made.kid].kid == made.kid
            continue
        assert isinstance(moved, Change), moved
        view = await manager.show_key(made.kid)
        assert view.account == two if operation != "move back" else view.account in (one, two)
        if operation == "set":
            assert [each.limit for each in view.limits if each.subject == view.who] == [6]
        if operation == "rotate":
            assert isinstance(done, Made)
            assert await good(admin, done.secret)
        assert await state_of(admin, made.secret) == ("revoked" if operation == "revoke" else "active")
    raise AssertionError("the operation never ends")


async def test_a_key_that_was_made_again_moves_with_its_revoked_secrets(
    manager: Manager, admin: StoreAdmin, accounts: tuple[str, str]
) -> None:
    """The marks that its deletion left at those secrets say nothing of the key."""
    one, two = accounts
    made = await manager.create_key(f"{one}/alice", {"rpm": 5})
    rotated = await manager.rotate(f"{one}/alice", 0)
    await manager.revoke(rotated.secret or "")
    await manager.delete_key(f"{one}/alice")
    digest = hashlib.sha256((made.secret or "").encode()).hexdigest()
    await manager.create_key(f"{one}/alice", {"rpm": 5}, digest=f"sha256:{digest}")
    await manager.move(f"{one}/alice", two)
    assert await good(admin, made.secret)
    assert not await good(admin, rotated.secret)
    assert (await manager.show_key(f"{two}/alice")).digest == f"sha256:{made.kid}"
