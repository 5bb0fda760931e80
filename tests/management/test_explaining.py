"""The limits of a key for one model: which apply, what is left, which one rejects; usage is what a node has counted."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from dispatching import dispatching

from limiter_node.credentials import key_id
from limiter_node.decisions import Need, Outcome
from limiter_node.management.errors import NotFound
from limiter_node.management.manager import Manager

NewName = Callable[[str], str]


async def ask(url: str, kid: str, *needs: Need) -> list[Outcome]:
    """Have a node decide requests of a key; its records leave with it."""
    async with dispatching(url) as dispatcher:
        return [(await dispatcher.admit(kid, need)).outcome for need in needs]


async def test_a_model_is_explained(manager: Manager, single_store: str, new_name: NewName) -> None:
    acme = new_name("acme")
    big = {"amount": 1_000, "name": "big models"}
    await manager.create_account(acme, {"rpm": 100, "output_tokens/1m for o3*,gpt-5*": big, "team red": True})
    await manager.set_team(f"{acme}/red", {"input_tokens/1d": {"amount": 50, "mode": "audit"}})
    made = await manager.create_key(f"{acme}/alice", {"team": "red", "rpm": 4, "requests/1h for gpt-4*": 9})
    outcomes = await ask(single_store, made.kid, *[Need(30, 200, 0, ("o3-mini",))] * 3)
    assert outcomes == [Outcome.ADMITTED] * 3

    found = await manager.explain(f"{acme}/alice", "o3-mini")
    assert (found.who, found.state, found.model) == (f"{acme}/alice", "active", "o3-mini")
    assert [(each.limit.subject, each.limit.unit, each.applies, each.rejects, each.why) for each in found.limits] == [
        (f"{acme}/red", "input_tokens", True, False, "it is for all models; it is audited only, and never rejects"),
        (f"{acme}/alice", "requests", True, False, "it is for all models"),
        (acme, "output_tokens", True, False, "a pattern of gpt-5*, o3* matches o3-mini"),
        (acme, "requests", True, False, "it is for all models"),
        (f"{acme}/alice", "requests", False, False, "no pattern of gpt-4* matches o3-mini"),
    ]
    assert [(each.limit.used, each.limit.remaining) for each in found.limits] == [
        *((90, 0), (3, 1), (600, 400), (3, 97), (0, 9)),
    ]
    assert all(0 < each.limit.reset_ms <= 86_700_000 for each in found.limits if each.limit.used)
    assert found.binding == found.limits[1].limit
    assert found.summary == (
        f"Of the limits that apply to o3-mini, {acme}/alice requests/1m would reject first: 1 of 4 left."
    )
    assert found.limits[2].limit.name == "big models"

    await ask(single_store, made.kid, Need(0, 0, 0, ("gpt-4o",)))
    found = await manager.explain(f"{acme}/alice", "GPT-4o")
    assert next(each.rejects for each in found.limits if each.applies and each.limit.mode == "enforce")
    assert found.summary == (f"Every request for GPT-4o is rejected now by {acme}/alice requests/1m: 0 of 4 left.")
    assert [each.limit.used for each in found.limits if each.limit.window == "1h"] == [1]


async def test_a_plain_key_is_explained(manager: Manager, single_store: str, new_name: NewName) -> None:
    name = new_name("ci")
    made = await manager.create_key(name, {"rpm": 10, "input_tpm": 100})
    await ask(single_store, made.kid, Need(80, 0, 0))
    found = await manager.explain(name, "gpt-4o")
    assert [(each.limit.unit, each.limit.used, each.why) for each in found.limits] == [
        ("input_tokens", 80, "it is for all models"),
        ("requests", 1, "it is for all models"),
        ("output_tokens", 0, "it is for all models"),
    ]
    assert found.summary.endswith(f"{name} input_tokens/1m would reject first: 20 of 100 left.")


@pytest.mark.parametrize("form", ["account", "flat"])
async def test_a_key_that_is_refused_says_why(manager: Manager, new_name: NewName, form: str) -> None:
    acme, name = new_name("acme"), new_name("ci")
    await manager.create_account(acme, {})
    path = f"{acme}/alice" if form == "account" else name
    made = await manager.create_key(path, {})

    async def summary(who: str) -> str:
        return (await manager.explain(who, "gpt-4o")).summary

    await manager.disable(path)
    assert await summary(path) == "Every request is refused (401): the key is disabled."
    await manager.enable(path)
    await manager.expire(path, 1_700_000_000_000)
    assert await summary(path) == "Every request is refused (401): the key has expired on 2023-11-14T22:13:20Z."
    await manager.expire(path, None)
    rotated = await manager.rotate(path)
    assert "this credential has expired on 20" in await summary(made.secret or "")
    assert "refused" not in await summary(path)
    await manager.revoke(rotated.secret or "")
    assert await summary(rotated.secret or "") == "Every request is refused (401): this credential has been revoked."
    assert "all credentials of the key have expired or been revoked" in await summary(path)
    assert (await manager.show_key(path)).state == "expired"
    await manager.revoke(path, every=True)
    assert await summary(path) == "Every request is refused (401): all credentials of the key have been revoked."
    assert (await manager.show_key(path)).state == "revoked"


async def test_the_tightest_limits_of_a_key_come_first(manager: Manager, single_store: str, new_name: NewName) -> None:
    acme = new_name("acme")
    await manager.create_account(acme, {"rpm": 4, "input_tpm": 1_000})
    made = await manager.create_key(f"{acme}/alice", {"rpm": 3, "tpm": 0})
    await ask(single_store, made.kid, *[Need(0, 0, 0)] * 2)
    shown = [(each.subject, each.unit, each.used, each.remaining) for each in (await manager.show_key(made.kid)).limits]
    assert shown == [
        (f"{acme}/alice", "tokens", 0, 0),
        (f"{acme}/alice", "requests", 2, 1),
        (acme, "requests", 2, 2),
        (acme, "input_tokens", 0, 1_000),
    ]


@pytest.mark.parametrize("form", ["account", "flat", "plain"])
async def test_a_deleted_key_leaves_no_usage(manager: Manager, single_store: str, new_name: NewName, form: str) -> None:
    acme, secret = new_name("acme"), new_name("secret")
    await manager.create_account(acme, {"rpm": 100})
    path = f"{acme}/alice" if form == "account" else new_name(form)
    fields = {"rpm": 5} if form != "flat" else {"rpm": 5, "requests/1d": 9}
    digest = f"sha256:{key_id(secret)}{'0' * 32}"
    made = await manager.create_key(path, fields, digest=digest)
    await ask(single_store, made.kid, *[Need(1, 1, 0)] * 3)
    await manager.delete_key(path)
    with pytest.raises(NotFound):
        await manager.find(path)
    await manager.create_key(path, fields, digest=digest)
    used = {each.subject: each.used for each in (await manager.show_key(path)).limits if each.unit == "requests"}
    assert used == ({acme: 3, path: 0} if form == "account" else {path: 0})
    assert await ask(single_store, made.kid, Need(1, 1, 0)) == [Outcome.ADMITTED]


async def test_a_deleted_account_leaves_no_usage(manager: Manager, single_store: str, new_name: NewName) -> None:
    acme = new_name("acme")
    for _ in range(2):
        await manager.create_account(acme, {"rpm": 5, "team red": True, "team red rpm": 4})
        made = await manager.create_key(f"{acme}/alice", {"team": "red"})
        assert await ask(single_store, made.kid, *[Need(0, 0, 0)] * 3) == [Outcome.ADMITTED] * 3
        assert [each.used for each in (await manager.show_account(acme)).limits] == [3]
        assert [each.used for each in (await manager.show_team(f"{acme}/red")).limits] == [3]
        await manager.delete_account(acme, recursive=True)
