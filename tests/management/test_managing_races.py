"""Two changes at the same time: the second one happens as a whole between any two steps of the first one."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from looking import good, state_of
from stepping import Steps

from limiter_node.changes import Change
from limiter_node.credentials import key_id
from limiter_node.management.errors import Conflict, NotFound
from limiter_node.management.manager import Manager
from limiter_node.management.views import Made
from limiter_node.store.admin.store_admin import StoreAdmin

NewName = Callable[[str], str]
MOST_STEPS = 40


def digest_of(secret: str) -> str:
    return f"sha256:{key_id(secret)}{'0' * 32}"


@pytest.fixture
async def account(manager: Manager, new_name: NewName) -> str:
    """Return the name of a new account with two teams."""
    name = new_name("acme")
    await manager.create_account(name, {"team red": True, "team blue": True})
    return name


@pytest.fixture(params=["account", "flat", "plain"])
async def path(request: pytest.FixtureRequest, account: str, new_name: NewName) -> str:
    """Return the path for a new key: of an account, or without one."""
    return f"{account}/alice" if request.param == "account" else new_name(request.param)


@pytest.fixture
def fields(path: str) -> dict[str, object]:
    """Return fields for the new key, with which one without an account isn't plain if it is called so."""
    return {"rpm": 7, "requests/1d": 1_000} if path.startswith("flat") else {"rpm": 7}


async def test_of_two_creations_of_one_name_one_wins(
    manager: Manager, admin: StoreAdmin, monkeypatch: pytest.MonkeyPatch, account: str
) -> None:
    for at in range(MOST_STEPS):
        path = f"{account}/key-{at}"
        steps = Steps(monkeypatch)
        mine, other = await steps.with_other_at(at, manager.create_key(path, {}), manager.create_key(path, {}))
        if steps.count <= at:
            return
        # The other one was done as a whole; unless mine was by then, it has won.
        made, refused = (other, mine) if isinstance(other, Made) else (mine, other)
        assert isinstance(made, Made)
        assert isinstance(refused, Conflict)
        assert await good(admin, made.secret)
        assert (await manager.show_key(path)).digest == f"sha256:{made.kid}"
    raise AssertionError("the operation never ends")


@pytest.mark.parametrize("places", ["same", "accounts", "flat and account", "account and flat", "both flat"])
async def test_of_two_creations_with_one_secret_one_wins(
    manager: Manager, admin: StoreAdmin, monkeypatch: pytest.MonkeyPatch, new_name: NewName, places: str
) -> None:
    one, two = new_name("one"), new_name("two")
    await manager.create_account(one, {})
    await manager.create_account(two, {})
    for at in range(MOST_STEPS):
        secret, flat, other_flat = new_name("secret"), new_name("flat"), new_name("flat")
        first, second = {
            "same": (f"{one}/a{at}", f"{one}/b{at}"),
            "accounts": (f"{one}/a{at}", f"{two}/b{at}"),
            "flat and account": (flat, f"{two}/b{at}"),
            "account and flat": (f"{one}/a{at}", flat),
            "both flat": (flat, other_flat),
        }[places]
        steps = Steps(monkeypatch)
        mine, other = await steps.with_other_at(
            at,
            manager.create_key(first, {}, digest=digest_of(secret)),
            manager.create_key(second, {}, digest=digest_of(secret)),
        )
        if steps.count <= at:
            return
        outcomes = {first: mine, second: other}
        assert sorted(type(each).__name__ for each in outcomes.values()) == ["Conflict", "Made"]
        assert await good(admin, secret)
        for path, outcome in outcomes.items():
            if isinstance(outcome, Made):
                assert (await manager.show_key(path)).digest == f"sha256:{key_id(secret)}"
            else:
                with pytest.raises(NotFound):
                    await manager.show_key(path)
    raise AssertionError("the operation never ends")


async def test_two_changes_of_different_fields_are_both_kept(
    manager: Manager, monkeypatch: pytest.MonkeyPatch, path: str, fields: dict[str, object]
) -> None:
    await manager.create_key(path, fields)
    for at in range(MOST_STEPS):
        steps = Steps(monkeypatch)
        mine, other = await steps.with_other_at(
            at,
            manager.set_key(path, {"rpm": 1_000 + at}),
            manager.set_key(path, {"input_tpm": 2_000 + at}),
        )
        if steps.count <= at:
            return
        assert isinstance(mine, Change)
        assert isinstance(other, Change)
        assert mine.after == {"rpm": 1_000 + at}
        assert other.after == {"input_tpm": 2_000 + at}
        limits = {each.unit: each.limit for each in (await manager.show_key(path)).limits if each.window == "1m"}
        assert (limits["requests"], limits["input_tokens"]) == (1_000 + at, 2_000 + at)
    raise AssertionError("the operation never ends")


async def test_a_change_of_limits_and_one_that_ends_the_plain_form_are_both_kept(
    manager: Manager, monkeypatch: pytest.MonkeyPatch, new_name: NewName
) -> None:
    for at in range(MOST_STEPS):
        name = new_name("plain")
        await manager.create_key(name, {"rpm": 7})
        steps = Steps(monkeypatch)
        change, ended = (manager.set_key(name, {"rpm": 8}), manager.expire(name, 4_000_000_000_000))
        mine, other = await steps.with_other_at(at, change, ended)
        if steps.count <= at:
            return
        assert isinstance(mine, Change)
        assert isinstance(other, Change)
        view = await manager.show_key(name)
        assert view.expires == "2096-10-02T07:06:40Z"
        assert [each.limit for each in view.limits if each.unit == "requests"] == [8]
    raise AssertionError("the operation never ends")


async def test_a_key_that_is_rotated_while_it_is_deleted_is_gone(
    manager: Manager, admin: StoreAdmin, monkeypatch: pytest.MonkeyPatch, path: str, fields: dict[str, object]
) -> None:
    for at in range(MOST_STEPS):
        made = await manager.create_key(path, fields)
        steps = Steps(monkeypatch)
        change, rotated = await steps.with_other_at(at, manager.delete_key(path), manager.rotate(path, 60_000))
        assert isinstance(change, Change)
        assert isinstance(rotated, Made | NotFound | None)
        secrets = [made.secret, *([rotated.secret] if isinstance(rotated, Made) else [])]
        assert [await state_of(admin, secret) for secret in secrets] == [None] * len(secrets)
        marks = await admin.pointers.marks([key_id(str(secret)) for secret in secrets])
        assert {each.kid for each in marks.values()} == {made.kid}
        assert len(marks) == len(secrets)
        if steps.count <= at:
            return
    raise AssertionError("the operation never ends")


async def test_a_key_that_is_deleted_while_it_is_rotated_is_gone(
    manager: Manager, admin: StoreAdmin, monkeypatch: pytest.MonkeyPatch, path: str, fields: dict[str, object]
) -> None:
    for at in range(MOST_STEPS):
        made = await manager.create_key(path, fields)
        steps = Steps(monkeypatch)
        rotated, change = await steps.with_other_at(at, manager.rotate(path, 60_000), manager.delete_key(path))
        if steps.count <= at:
            return
        assert isinstance(change, Change)
        assert isinstance(rotated, Made | NotFound)
        assert await state_of(admin, made.secret) is None
        if isinstance(rotated, Made):
            assert await state_of(admin, rotated.secret) is None
    raise AssertionError("the operation never ends")


async def test_a_key_that_is_made_again_while_it_is_deleted_is_there_whole(
    manager: Manager,
    admin: StoreAdmin,
    monkeypatch: pytest.MonkeyPatch,
    path: str,
    fields: dict[str, object],
    new_name: NewName,
) -> None:
    for at in range(MOST_STEPS):
        secret = new_name("secret")
        await manager.create_key(path, fields, digest=digest_of(secret))
        steps = Steps(monkeypatch)
        change, again = await steps.with_other_at(
            at,
            manager.delete_key(path),
            manager.create_key(path, fields, digest=digest_of(secret)),
        )
        assert isinstance(change, Change)
        if isinstance(again, Made):
            assert await good(admin, secret)
            assert key_id(secret) not in await admin.pointers.marks([key_id(secret)])
            await manager.delete_key(path)
        else:
            assert isinstance(again, Conflict | None)
            assert await state_of(admin, secret) is None
        if steps.count <= at:
            return
    raise AssertionError("the operation never ends")


async def test_two_credentials_revoked_at_the_same_time_are_both_revoked(
    manager: Manager, admin: StoreAdmin, monkeypatch: pytest.MonkeyPatch, account: str
) -> None:
    for at in range(MOST_STEPS):
        made = await manager.create_key(f"{account}/key-{at}", {})
        second = await manager.rotate(f"{account}/key-{at}", 60_000)
        third = await manager.rotate(f"{account}/key-{at}", 60_000)
        steps = Steps(monkeypatch)
        one, two = made.secret or "", second.secret or ""
        mine, other = await steps.with_other_at(at, manager.revoke(one), manager.revoke(two))
        if steps.count <= at:
            return
        assert isinstance(mine, Change)
        assert isinstance(other, Change)
        states = [await state_of(admin, secret) for secret in (one, two, third.secret)]
        assert states == ["revoked", "revoked", "active"]
    raise AssertionError("the operation never ends")


async def test_a_key_that_is_revoked_while_it_is_rotated_has_the_new_secret_alone(
    manager: Manager, admin: StoreAdmin, monkeypatch: pytest.MonkeyPatch, path: str, fields: dict[str, object]
) -> None:
    for at in range(MOST_STEPS):
        made = await manager.create_key(path, fields)
        steps = Steps(monkeypatch)
        rotated, revoked = await steps.with_other_at(
            at,
            manager.rotate(path, 60_000),
            manager.revoke(made.secret or ""),
        )
        assert isinstance(rotated, Made)
        assert isinstance(revoked, Change | None)
        assert await good(admin, rotated.secret)
        assert await state_of(admin, made.secret) == ("revoked" if revoked else "active")
        await manager.delete_key(path)
        if steps.count <= at:
            return
    raise AssertionError("the operation never ends")


@pytest.mark.parametrize("recursive", [False, True])
async def test_no_key_gets_into_an_account_that_is_deleted(
    manager: Manager, admin: StoreAdmin, monkeypatch: pytest.MonkeyPatch, new_name: NewName, recursive: bool
) -> None:
    for at in range(MOST_STEPS):
        name = new_name("acme")
        await manager.create_account(name, {})
        steps = Steps(monkeypatch)
        deleted, made = await steps.with_other_at(
            at,
            manager.delete_account(name, recursive=recursive),
            manager.create_key(f"{name}/alice", {}),
        )
        if steps.count <= at:
            return
        if isinstance(made, Made) and not recursive:
            assert isinstance(deleted, Conflict)
            assert await good(admin, made.secret)
            continue
        assert isinstance(deleted, list)
        with pytest.raises(NotFound):
            await manager.show_account(name)
        if isinstance(made, Made):
            assert await state_of(admin, made.secret) is None
            assert made.kid in await admin.pointers.marks([made.kid])
    raise AssertionError("the operation never ends")


@pytest.mark.parametrize("operation", ["create", "set"])
async def test_no_key_gets_into_a_team_that_is_deleted(
    manager: Manager, monkeypatch: pytest.MonkeyPatch, account: str, operation: str
) -> None:
    for at in range(MOST_STEPS):
        path, team = f"{account}/key-{at}", f"{account}/team-{at}"
        await manager.create_team(team, {"rpm": 1})
        if operation == "set":
            await manager.create_key(path, {"team": "red"})
            moving = manager.set_key(path, {"team": f"team-{at}"})
        else:
            moving = manager.create_key(path, {"team": f"team-{at}"})  # type: ignore[assignment]
        steps = Steps(monkeypatch)
        moved, deleted = await steps.with_other_at(at, moving, manager.delete_team(team))
        if steps.count <= at:
            return
        if isinstance(moved, Made | Change):  # it was there before
            assert isinstance(deleted, Conflict)
            assert (await manager.show_key(path)).team == f"team-{at}"
            continue
        assert isinstance(deleted, list)
        assert isinstance(moved, NotFound)
        if operation == "set":
            assert (await manager.show_key(path)).team == "red"
    raise AssertionError("the operation never ends")


async def test_a_team_that_gets_a_key_while_it_is_deleted_stays(
    manager: Manager, monkeypatch: pytest.MonkeyPatch, account: str
) -> None:
    for at in range(MOST_STEPS):
        path, team = f"{account}/key-{at}", f"{account}/team-{at}"
        await manager.create_team(team, {"rpm": 1})
        steps = Steps(monkeypatch)
        deleted, made = await steps.with_other_at(
            at,
            manager.delete_team(team),
            manager.create_key(path, {"team": f"team-{at}"}),
        )
        if steps.count <= at:
            return
        assert isinstance(deleted, Conflict), deleted
        assert isinstance(made, Made)
        assert (await manager.show_team(team)).keys == 1
    raise AssertionError("the operation never ends")


async def test_a_team_and_a_key_never_share_a_path(
    manager: Manager, monkeypatch: pytest.MonkeyPatch, account: str
) -> None:
    for at in range(MOST_STEPS):
        path = f"{account}/both-{at}"
        steps = Steps(monkeypatch)
        made, team = await steps.with_other_at(
            at,
            manager.create_key(path, {}),
            manager.create_team(path, {}),
        )
        if steps.count <= at:
            break
        assert {type(made), type(team)} in ({Made, Conflict}, {Conflict, Change})
    for at in range(MOST_STEPS):
        path = f"{account}/each-{at}"
        steps = Steps(monkeypatch)
        team, made = await steps.with_other_at(
            at,
            manager.create_team(path, {}),
            manager.create_key(path, {}),
        )
        if steps.count <= at:
            return
        assert {type(made), type(team)} in ({Made, Conflict}, {Conflict, Change})
    raise AssertionError("the operation never ends")


async def test_two_changes_of_one_account_are_both_kept(
    manager: Manager, monkeypatch: pytest.MonkeyPatch, account: str
) -> None:
    for at in range(MOST_STEPS):
        steps = Steps(monkeypatch)
        mine, other = await steps.with_other_at(
            at,
            manager.set_account(account, {"rpm": 100 + at}),
            manager.set_team(f"{account}/red", {"rpm": 200 + at}),
        )
        if steps.count <= at:
            return
        assert isinstance(mine, Change)
        assert isinstance(other, Change)
        assert [each.limit for each in (await manager.show_account(account)).limits] == [100 + at]
        assert [each.limit for each in (await manager.show_team(f"{account}/red")).limits] == [200 + at]
    raise AssertionError("the operation never ends")
