"""WHO: names first, then digests, then secrets; and no message that repeats what may be one."""

from __future__ import annotations

import logging
from collections.abc import Callable

import pytest
from accounts_in_store import put_account
from store_tools import declare, new_api_key, store_client

from limiter_node.credentials import key_id
from limiter_node.errors import ConfigError
from limiter_node.management.errors import Ambiguous, Conflict, NotFound
from limiter_node.management.manager import Manager
from limiter_node.policy import AccountPolicy, KeyPolicy, Subject, account_tag
from limiter_node.store.keyspace import limits_key, policy_key

NewName = Callable[[str], str]


async def test_a_key_of_an_earlier_version_is_found_by_its_name(
    manager: Manager, single_store: str, new_name: NewName
) -> None:
    """Such versions keep no index of names, and none is written by looking."""
    name, secret = new_name("acme"), new_api_key()
    put_account(single_store, AccountPolicy(name, (Subject(""),)), [KeyPolicy(key_id(secret), "alice")])
    found = await manager.find(f"{name}/alice")
    assert (found.kid, found.account, found.cid) == (key_id(secret), name, None)
    with pytest.raises(Conflict):
        await manager.create_key(f"{name}/alice", {})


async def test_names_that_occur_twice_are_told_apart_by_digests(
    manager: Manager, single_store: str, new_name: NewName
) -> None:
    name = new_name("twin")
    kids = [declare(single_store, new_api_key(), name=name) for _ in range(2)]
    with pytest.raises(Ambiguous) as caught:
        await manager.show_key(name)
    assert sorted(caught.value.candidates) == sorted(f"sha256:{kid[:12]}" for kid in kids)
    for kid in kids:
        assert (await manager.show_key(kid[:12])).digest == f"sha256:{kid}"
    await manager.set_key(kids[0], {"name": new_name("single")})
    assert (await manager.find(name)).kid == kids[1]


async def test_the_beginning_of_a_digest_needs_eight_digits(manager: Manager, new_name: NewName) -> None:
    made = await manager.create_key(new_name("ci"), {})
    for who in (made.kid[:8], made.kid[:8].upper(), f"sha256:{made.kid[:8]}", made.kid, f"sha256:{made.kid}{'0' * 32}"):
        assert (await manager.find(who)).cid == made.kid
    with pytest.raises(NotFound):
        await manager.find(made.kid[:7])


async def test_a_digest_that_begins_several_is_ambiguous(
    manager: Manager, single_store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for last in "01":
        kid = f"{'facade00' * 3}0000000{last}"
        monkeypatch.setattr("store_tools.key_id", lambda _, kid=kid: kid)
        declare(single_store, "secret", name=f"facade-{last}")
    with pytest.raises(Ambiguous, match="2 digests begin so"):
        await manager.find("facade00")
    assert (await manager.find(f"{'facade00' * 3}00000001")).kid.endswith("1")


async def test_a_name_comes_before_a_digest_and_a_digest_before_a_secret(manager: Manager, new_name: NewName) -> None:
    made = await manager.create_key(new_name("ci"), {})
    # Named like the beginning of another key's digest: the name counts.
    namesake = await manager.create_key(made.kid[:9], {})
    assert (await manager.find(made.kid[:9])).kid == namesake.kid
    assert (await manager.find(made.kid[:10])).kid == made.kid
    secret = made.kid[:11]  # a secret that looks like a digest
    other = await manager.create_key(new_name("ci"), {}, digest=f"sha256:{key_id(secret)}{'0' * 32}")
    assert (await manager.find(secret)).kid == made.kid
    await manager.delete_key(made.kid)
    found = await manager.find(secret)
    assert (found.kid, found.cid, found.by_secret) == (other.kid, other.kid, True)


async def test_a_further_credential_names_its_key(manager: Manager, new_name: NewName) -> None:
    name = new_name("ci")
    made = await manager.create_key(name, {})
    rotated = await manager.rotate(name, 60_000)
    cid = key_id(rotated.secret or "")
    for who in (cid[:12], f"sha256:{cid}", rotated.secret or ""):
        found = await manager.find(who)
        assert (found.kid, found.cid) == (made.kid, cid)
    assert (await manager.revoke(cid[:12])).action == "revoked"
    states = {each.digest: each.state for each in (await manager.show_key(name)).credentials}
    assert states == {f"sha256:{made.kid}": "active", f"sha256:{cid}": "revoked"}


async def test_no_message_and_no_log_line_holds_a_secret(
    manager: Manager, new_name: NewName, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    unknown = "sk-unknown-0123456789"
    calls = (manager.find, manager.show_key, manager.delete_key, manager.rotate, manager.revoke, manager.disable)
    for call in calls:
        with pytest.raises(NotFound) as caught:
            await call(unknown)
        assert unknown not in str(caught.value)
    account = new_name("acme")
    await manager.create_account(account, {})
    with pytest.raises((NotFound, ConfigError)) as caught_in_account:
        await manager.show_key(f"{account}/{unknown}")
    assert unknown not in str(caught_in_account.value)
    made = await manager.create_key(f"{account}/alice", {})
    rotated = await manager.rotate(made.secret or "", 60_000)
    changes = [made.change, rotated.change, await manager.set_key(made.secret or "", {"rpm": 1})]
    changes += [await manager.revoke(rotated.secret or ""), await manager.delete_key(made.secret or "")]
    for secret in (made.secret, rotated.secret, unknown):
        assert secret is not None
        assert not any(secret in str(each.to_json()) or secret in each.line() for each in changes)
        assert not any(secret in str(record.__dict__) for record in caplog.records)


@pytest.mark.parametrize("in_account", [False, True], ids=["flat", "in an account"])
async def test_no_key_is_called_like_a_secret(manager: Manager, new_name: NewName, in_account: bool) -> None:
    """A person who types a secret where a name belongs would have it in every message and in the log."""
    account = new_name("acme")
    await manager.create_account(account, {})
    head = f"{account}/" if in_account else ""
    made = await manager.create_key(head + new_name("ci"), {})
    rotated = await manager.rotate(made.kid, 60_000)
    for secret in (made.secret, rotated.secret):
        assert secret is not None
        with pytest.raises(ConfigError, match="name must not be") as caught:
            await manager.create_key(head + secret, {})
        assert secret not in str(caught.value)
        with pytest.raises(ConfigError, match="name must not be"):
            await manager.set_key((await manager.create_key(head + new_name("ci"), {})).kid, {"name": secret})
    with pytest.raises(ConfigError, match="stands for a secret on standard input"):
        await manager.create_key("-", {})


async def test_each_change_is_logged_once(
    manager: Manager, new_name: NewName, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    name = new_name("ci")
    await manager.create_key(name, {})
    await manager.set_key(name, {"rpm": 1})
    await manager.set_key(name, {"rpm": 1})
    await manager.disable(name)
    await manager.delete_key(name)
    logged = [record for record in caplog.records if getattr(record, "event", "") == "key_changed"]
    assert [record.__dict__["action"] for record in logged] == ["created", "changed", "disabled", "deleted"]
    assert logged[1].getMessage() == f"key {name} changed: rpm 600 -> 1"


async def test_a_damaged_key_hides_no_other(manager: Manager, single_store: str, new_name: NewName) -> None:
    """Neither in a list, which says so, nor where a key without an account is sought by its name."""
    account, name = new_name("acme"), new_name("sound")
    await manager.create_account(account, {})
    good = [await manager.create_key(f"{account}/alice", {}), await manager.create_key(name, {"tpm": 5})]
    bad = [await manager.create_key(f"{account}/bob", {}), await manager.create_key(new_name("flat"), {"tpm": 5})]
    plain = declare(single_store, new_api_key())
    with store_client(single_store) as client:
        client.hset(policy_key(account_tag(account)), f"k:{bad[0].kid}", b"{")
        client.hset(policy_key(bad[1].kid), "account", b"{")
        client.set(limits_key(plain), b"damaged")
    found = await manager.list_keys(limit=1_000_000)
    damaged = {plain, *(each.kid for each in bad)}
    assert {f"sha256:{each}" for each in damaged} <= set(found.damaged)
    listed = {each.digest for each in found.entries}
    assert {f"sha256:{each.kid}" for each in good} <= listed
    assert not {f"sha256:{each}" for each in damaged} & listed
    assert (await manager.find(name)).kid == good[1].kid
    with store_client(single_store) as client:
        client.delete(limits_key(plain), *(policy_key(tag) for tag in (account_tag(account), bad[1].kid)))
