"""Changes of keys that stop between any two of their steps, or lose a reply: what is left is right and can be finished.

A key and the pointers of its credentials lie in different slots, so no change of several of them is atomic.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
from looking import good, state_of
from stepping import Steps

from limiter_node.credentials import key_id
from limiter_node.management.errors import NotFound
from limiter_node.management.manager import Manager
from limiter_node.store.admin.store_admin import StoreAdmin

NewName = Callable[[str], str]
MOST_STEPS = 40


@pytest.fixture(params=["account", "flat", "plain"])
async def path(request: pytest.FixtureRequest, manager: Manager, new_name: NewName) -> str:
    """Return the path for a new key: of an account, or without one."""
    name = new_name(request.param)
    if request.param != "account":
        return name
    await manager.create_account(name, {"key_defaults": {"rpm": 60}})
    return f"{name}/alice"


@pytest.fixture
def fields(path: str) -> dict[str, object]:
    """Return fields for the new key, with which one without an account isn't plain if it is called so."""
    return {"rpm": 7, "requests/1d": 1_000} if path.startswith("flat") else {"rpm": 7}


async def test_a_creation_can_be_stopped_anywhere(
    manager: Manager,
    admin: StoreAdmin,
    monkeypatch: pytest.MonkeyPatch,
    path: str,
    fields: dict[str, object],
    new_name: NewName,
) -> None:
    for at in range(MOST_STEPS):
        secret = new_name("secret")
        digest = f"sha256:{key_id(secret)}{'0' * 32}"
        made = await Steps(monkeypatch).stopped_at(at, manager.create_key(path, fields, digest=digest))
        is_there = await good(admin, secret)
        if made is not None:
            assert is_there
            return
        if not is_there:
            assert await state_of(admin, secret) is None
            with pytest.raises(NotFound):
                await manager.show_key(path)
            await manager.create_key(path, fields, digest=digest)
        assert await good(admin, secret)
        assert (await manager.show_key(path)).digest == f"sha256:{key_id(secret)}"
        await manager.delete_key(path)
    raise AssertionError("the operation never ends")


async def test_a_rotation_can_be_stopped_anywhere(
    manager: Manager, admin: StoreAdmin, monkeypatch: pytest.MonkeyPatch, path: str, fields: dict[str, object]
) -> None:
    made = await manager.create_key(path, fields)
    for at in range(MOST_STEPS):
        rotated = await Steps(monkeypatch).stopped_at(at, manager.rotate(path, grace_ms=3_600_000))
        assert await good(admin, made.secret)
        assert (await manager.find(path)).kid == made.kid
        again = await manager.rotate(path, grace_ms=3_600_000)
        assert await good(admin, again.secret)
        if rotated is not None:
            assert await good(admin, rotated.secret)
            return
    raise AssertionError("the operation never ends")


async def test_a_deletion_can_be_stopped_anywhere(
    manager: Manager, admin: StoreAdmin, monkeypatch: pytest.MonkeyPatch, path: str, fields: dict[str, object]
) -> None:
    for at in range(MOST_STEPS):
        made = await manager.create_key(path, fields)
        secrets = [made.secret]
        if not path.startswith("plain"):
            secrets.append((await manager.rotate(path, grace_ms=3_600_000)).secret)
        change = await Steps(monkeypatch).stopped_at(at, manager.delete_key(path))
        states = {await state_of(admin, secret) for secret in secrets}
        assert states in ({"active"}, {None}), "all of the key is there, or none"
        if change is None:
            try:
                await manager.delete_key(f"sha256:{made.kid}")
            except NotFound:
                assert states == {None}
        for secret in secrets:
            assert await state_of(admin, secret) is None
            assert (await admin.pointers.marks([key_id(str(secret))]))[key_id(str(secret))].kid == made.kid
        assert await admin.search.way(made.kid) is None
        if change is not None:
            return
    raise AssertionError("the operation never ends")


@pytest.mark.parametrize("operation", ["create", "set", "rotate", "revoke", "delete"])
async def test_a_lost_reply_changes_nothing(
    manager: Manager,
    admin: StoreAdmin,
    monkeypatch: pytest.MonkeyPatch,
    path: str,
    fields: dict[str, object],
    operation: str,
) -> None:
    for at in range(MOST_STEPS):
        made = None if operation == "create" else await manager.create_key(path, fields)
        steps = Steps(monkeypatch)
        if operation == "create":
            made = await steps.reply_lost_at(at, manager.create_key(path, fields))
            assert await good(admin, made.secret)
        assert made is not None
        if operation == "set":
            change = await steps.reply_lost_at(at, manager.set_key(path, {"rpm": 8}))
            assert (change.before, change.after) == ({"rpm": 7}, {"rpm": 8})
        elif operation == "rotate":
            rotated = await steps.reply_lost_at(at, manager.rotate(path))
            assert await good(admin, rotated.secret)
            assert await state_of(admin, made.secret) == "expired"
            assert len((await manager.show_key(path)).credentials) == 2
        elif operation == "revoke":
            change = await steps.reply_lost_at(at, manager.revoke(path))
            assert change.action == "revoked"
            assert await state_of(admin, made.secret) == "revoked"
        elif operation == "delete":
            change = await steps.reply_lost_at(at, manager.delete_key(path))
            assert change.before["rpm"] == 7
        if operation != "delete":
            await manager.delete_key(f"sha256:{made.kid}")
        assert await state_of(admin, made.secret) is None
        if steps.count <= at:
            return
    raise AssertionError("the operation never ends")
