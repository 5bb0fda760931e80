"""Revoked credentials, disabled and deleted keys whose store goes away, comes back empty, or with older policies."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest
from accounts_in_store import put_account
from dispatching import dispatching
from node_commands import eventually
from store_tools import Declared, declare, new_api_key, store_client
from test_accounts import a_key, a_name, minute
from test_credentials import ONE, Kept, a_credential, admit, ask, changed, store_ms, two_credentials
from test_degraded import behind_proxy, local, recovered

from limiter_node.credentials import key_id
from limiter_node.decisions import Need, Outcome
from limiter_node.declarations import AccountKey
from limiter_node.errors import StoreUnavailable
from limiter_node.key_states import Credential, CredentialState
from limiter_node.limiter.admission import Limiter
from limiter_node.limits import KeyLimits
from limiter_node.policy import REQUESTS, AccountPolicy, KeyPolicy, Limit, Subject
from limiter_node.policy_body import tombstone_of
from limiter_node.store.accounts.member import Member
from limiter_node.store.decisions import key_exists
from limiter_node.store.decisions.dispatcher import Dispatcher
from limiter_node.store.embedded.stores import EmbeddedStore
from limiter_node.store.keyspace import declared_key, deleted_key, limits_key, policy_key
from limiter_node.store.values import PlainRecord, pack_limits, unpack_record


def an_account(name: str = "", revision: int = 0) -> AccountPolicy:
    return AccountPolicy(name or a_name(), (Subject("", (minute(Limit(REQUESTS, 100_000)),)),), revision=revision)


def alice_with(**changes: Any) -> KeyPolicy:
    return replace(two_credentials(a_key("alice", minute(Limit(REQUESTS, 1_000)))), **changes)


def forget_all(url: str) -> None:
    with store_client(url) as client:
        client.flushall()


def value_at(url: str, cid: str) -> dict[bytes, bytes]:
    with store_client(url) as client:
        return dict(client.hgetall(limits_key(cid)))


def mark_of(url: str, cid: str) -> bytes | None:
    with store_client(url) as client:
        found = client.get(deleted_key(cid))
    assert found is None or isinstance(found, bytes)
    return found


# ---- the store is away ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["of an account", "flat"])
async def test_35_what_the_node_was_told_before_the_store_went_away_counts(embedded_single: str, kind: str) -> None:
    """A node can't know a change that it wasn't told: it decides the key as before, until the store is back."""
    account = an_account() if kind == "of an account" else None
    first, second, others = Kept(embedded_single, alice_with(), account), alice_with(), alice_with()
    known, unknown = Kept(embedded_single, second, account and an_account()), Kept(embedded_single, others, None)
    async with behind_proxy(embedded_single, policy=local(1)) as (proxy, node):
        for kept in (first, known, unknown):
            for each in kept.key.all_credentials:
                assert await ask(node, each.digest) is Outcome.ADMITTED
        first.put(changed(first.key, 0, is_revoked=True))
        known.put(replace(known.key, is_disabled=True))
        revoked, good = (each.digest for each in first.key.all_credentials)
        disabled = known.key.all_credentials[1].digest
        assert await ask(node, revoked) is Outcome.REVOKED_KEY
        assert await ask(node, disabled) is Outcome.DISABLED_KEY
        proxy.pass_requests = False
        unknown.put(replace(unknown.key, is_disabled=True))
        for _ in range(2):
            assert (await node.admit(unknown.key.kid, ONE)).degraded == "local"
            for cid, outcome in ((revoked, Outcome.REVOKED_KEY), (disabled, Outcome.DISABLED_KEY)):
                assert await ask(node, cid) is outcome, "before its body"
                assert await admit(node, cid) is outcome, "after its body"
            assert await node.peek(revoked) is CredentialState.REVOKED
            assert await admit(node, good) is Outcome.ADMITTED
        counts = node.state().degraded
        assert counts["admitted"] == 4
        assert counts["refused"] >= 4
        assert "rejected" not in counts
        proxy.pass_requests = True
        await recovered(node)
        assert await ask(node, unknown.key.kid) is Outcome.DISABLED_KEY
        first.put(changed(first.key, 0, is_revoked=False))
        assert await ask(node, revoked) is Outcome.ADMITTED


async def test_a_credential_ends_also_while_the_store_is_away(embedded_single: str) -> None:
    kept = Kept(embedded_single, alice_with(), an_account())
    ends_ms = store_ms(embedded_single) + 1_500
    kept.put(changed(kept.key, 1, ends_ms=ends_ms))
    first, second = (each.digest for each in kept.key.all_credentials)
    async with behind_proxy(embedded_single, policy=local(1)) as (proxy, node):
        assert [await ask(node, cid) for cid in (first, second)] == [Outcome.ADMITTED] * 2
        proxy.pass_requests = False
        assert await admit(node, first) is Outcome.ADMITTED
        await eventually(lambda: store_ms(embedded_single) >= ends_ms)
        assert await admit(node, second) is Outcome.EXPIRED_KEY
        assert await ask(node, second) is Outcome.EXPIRED_KEY
        assert await admit(node, first) is Outcome.ADMITTED
        proxy.pass_requests = True
        await recovered(node)
        assert await ask(node, second) is Outcome.EXPIRED_KEY


async def test_a_key_that_a_node_has_not_met_is_nothing_it_says_without_the_store(embedded_single: str) -> None:
    kept = Kept(embedded_single, alice_with(is_disabled=True), an_account())
    async with behind_proxy(embedded_single, policy=local(1)) as (proxy, node):
        proxy.pass_requests = False
        with pytest.raises(StoreUnavailable):
            await node.find(kept.key.kid)


# ---- the store has lost all ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["of an account", "flat"])
async def test_29_a_flushed_store_gets_states_and_credentials_back(kind: str) -> None:
    async with EmbeddedStore("cluster") as store:
        kept = Kept(store.url, alice_with(), an_account() if kind == "of an account" else None)
        kept.put(changed(replace(kept.key, revision=3), 0, is_revoked=True))
        revoked, good = (each.digest for each in kept.key.all_credentials)
        async with dispatching(store.url) as node, dispatching(store.url) as other:
            assert await ask(node, revoked) is Outcome.REVOKED_KEY
            assert await ask(node, good) is Outcome.ADMITTED
            forget_all(store.url)
            assert await ask(node, revoked) is Outcome.REVOKED_KEY, "asked of first"
            await eventually(lambda: bool(value_at(store.url, good)))
            assert await ask(other, good) is Outcome.ADMITTED, "by the way that the other credential has brought back"
            assert await ask(other, revoked) is Outcome.REVOKED_KEY
            tag = kept.tag
            assert value_at(store.url, good) == {b"tag": tag.encode(), b"kid": kept.key.kid.encode()}
            assert value_at(store.url, revoked) == {b"account": tag.encode()}


async def test_the_ways_of_all_credentials_are_checked(embedded_cluster: str) -> None:
    kept = Kept(embedded_cluster, alice_with(), an_account())
    first, second = (each.digest for each in kept.key.all_credentials)
    async with dispatching(embedded_cluster) as node, dispatching(embedded_cluster) as other:
        assert await ask(node, first) is Outcome.ADMITTED
        with store_client(embedded_cluster) as client:
            client.delete(limits_key(second))
        assert await ask(other, second) is Outcome.UNKNOWN_KEY
        member = node._queues[first]
        assert isinstance(member, Member)
        member.check_pointer_s = 0.0
        assert await ask(node, first) is Outcome.ADMITTED
        await eventually(lambda: bool(value_at(embedded_cluster, second)))
        assert await ask(other, second) is Outcome.ADMITTED


async def test_a_further_credential_of_a_key_in_the_file_is_found_after_a_loss() -> None:
    account, alice = an_account(), alice_with()
    file = Declared(accounts=[account], members=[AccountKey(account, alice)])
    async with EmbeddedStore("single") as store, dispatching(store.url, declared=file) as node:
        for each in reversed(alice.all_credentials):
            assert await ask(node, each.digest) is Outcome.ADMITTED


# ---- the store has older policies -----------------------------------------------------------------------------------


@pytest.mark.parametrize("asks_first", [ask, admit], ids=["a look", "a request"])
@pytest.mark.parametrize("kind", ["of an account", "flat"])
async def test_the_higher_revision_wins(embedded_single: str, kind: str, asks_first: Any) -> None:
    """A store that comes back with an older state, or with what a node told it that knew no better."""
    name = a_name()
    account = an_account(name, 5) if kind == "of an account" else None
    kept = Kept(embedded_single, alice_with(revision=7), account)
    before = kept.key
    first, second = (each.digest for each in before.all_credentials)
    async with dispatching(embedded_single) as node, dispatching(embedded_single) as stale:
        assert [await ask(stale, cid) for cid in (first, second)] == [Outcome.ADMITTED] * 2
        kept.put(changed(replace(before, revision=8), 0, is_revoked=True))
        assert await ask(node, first) is Outcome.REVOKED_KEY
        assert await ask(node, second) is Outcome.ADMITTED
        now = kept.fields()
        kept.put(before)
        if account is not None:
            put_account(embedded_single, replace(account, revision=4, show="own"), [before])
        assert await asks_first(node, second) is Outcome.ADMITTED
        assert kept.fields() == now, "declared over the older ones"
        assert await ask(node, first) is Outcome.REVOKED_KEY
        assert await ask(stale, first) is Outcome.REVOKED_KEY
        assert node.state().losses["keys"] == (1 if account is None else 2)
        if account is not None:
            assert node._queues[second].member.account.policy.show == "path"


async def test_two_nodes_declare_over_an_older_policy_at_once(embedded_single: str) -> None:
    kept = Kept(embedded_single, alice_with(revision=7), an_account())
    before, cid = kept.key, kept.key.all_credentials[1].digest
    async with dispatching(embedded_single) as one, dispatching(embedded_single) as two:
        kept.put(replace(before, revision=8, weight=3))
        for node in (one, two):
            assert await ask(node, cid) is Outcome.ADMITTED
        kept.put(before)
        found = await asyncio.gather(*(admit(node, cid) for node in (one, two) for _ in range(20)))
        assert set(found) == {Outcome.ADMITTED}
        stored = kept.stored()
        assert (stored.weight, stored.revision) == (3, 8)


async def test_a_later_policy_than_the_node_knows_is_learnt(embedded_single: str) -> None:
    kept = Kept(embedded_single, alice_with(revision=7), an_account())
    async with dispatching(embedded_single) as node:
        assert await ask(node, kept.key.kid) is Outcome.ADMITTED
        for revision in (7, 8, 20):
            kept.put(replace(kept.key, revision=revision, is_disabled=not kept.key.is_disabled))
            outcome = Outcome.DISABLED_KEY if kept.key.is_disabled else Outcome.ADMITTED
            assert await ask(node, kept.key.kid) is outcome


async def test_a_policy_of_an_earlier_version_counts_where_it_could_write_it(embedded_single: str) -> None:
    """It keeps no revision. It can't write a key that has credentials or a state, so the store is a former one."""
    plain = Kept(embedded_single, a_key("bob", minute(Limit(REQUESTS, 5))), an_account())
    kept = Kept(embedded_single, alice_with(), an_account())
    async with dispatching(embedded_single) as node:
        plain.put(replace(plain.key, revision=4))
        kept.put(replace(kept.key, revision=4, is_disabled=True))
        assert await ask(node, plain.key.kid) is Outcome.ADMITTED
        assert await ask(node, kept.key.kid) is Outcome.DISABLED_KEY
        plain.put(replace(plain.key, revision=0, windows=(minute(Limit(REQUESTS, 1)),)))
        kept.put(replace(kept.key, revision=0, is_disabled=False, credentials=()))
        assert await ask(node, plain.key.kid) is Outcome.REJECTED
        assert await ask(node, kept.key.kid) is Outcome.DISABLED_KEY
        assert kept.stored().is_disabled


async def test_a_name_that_another_key_has_by_now_holds_up_no_policy(embedded_single: str) -> None:
    account = an_account()
    kept = Kept(embedded_single, alice_with(revision=2), account)
    async with dispatching(embedded_single) as node:
        assert await ask(node, kept.key.kid) is Outcome.ADMITTED
        other = replace(a_key("alice"), revision=1)
        put_account(embedded_single, account, [replace(kept.key, name="former", revision=1), other])
        with store_client(embedded_single) as client:
            client.hset(policy_key(account.tag), "n:alice", other.kid)
        assert await ask(node, kept.key.kid) is Outcome.ADMITTED
        assert kept.stored().revision == 2
        with store_client(embedded_single) as client:
            assert client.hget(policy_key(account.tag), "n:alice") == other.kid.encode()


# ---- marks -----------------------------------------------------------------------------------------------------------


def take_out(url: str, kept: Kept, mark: bool = True) -> None:
    """Delete a key as commands do: marks, then the policy, of which something is kept, then the ways to it."""
    with store_client(url) as client:
        for each in kept.key.all_credentials if mark else ():
            client.set(deleted_key(each.digest), ("revoked:" if each.is_revoked else "") + kept.key.kid)
        client.hdel(policy_key(kept.tag), kept.key.kid, f"k:{kept.key.kid}")
        client.hset(policy_key(kept.tag), f"x:{kept.key.kid}", tombstone_of(kept.key))
        for each in kept.key.all_credentials if mark else ():
            client.delete(limits_key(each.digest))


async def test_a_deleted_key_is_marked_again_where_the_store_has_lost_the_mark(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with EmbeddedStore("single") as store:
        kept = Kept(store.url, alice_with(), an_account())
        kept.put(changed(kept.key, 0, is_revoked=True))
        plain = declare(store.url, new_api_key())
        first, second = (each.digest for each in kept.key.all_credentials)
        async with dispatching(store.url) as node:
            assert await ask(node, first) is Outcome.REVOKED_KEY
            assert [await ask(node, cid) for cid in (second, plain)] == [Outcome.ADMITTED] * 2
            take_out(store.url, kept)
            with store_client(store.url) as client:
                client.set(deleted_key(plain), "")
                client.delete(limits_key(plain))
            assert {await ask(node, cid) for cid in (first, second, plain)} == {Outcome.UNKNOWN_KEY}
            forget_all(store.url)
            assert {await ask(node, cid) for cid in (first, second, plain)} == {Outcome.UNKNOWN_KEY}
            marks = {first: b"revoked:" + kept.key.kid.encode(), second: kept.key.kid.encode(), plain: plain.encode()}
            for cid, mark in marks.items():
                await eventually(lambda cid=cid, mark=mark: mark_of(store.url, cid) == mark)  # type: ignore[misc]
            # A node that starts by a file that still has them leaves them deleted.
            file = Declared({plain: KeyLimits()}, accounts=[an_account()], members=[AccountKey(kept.account, kept.key)])  # type: ignore[arg-type]
            async with dispatching(store.url, declared=file) as starting:
                assert {await ask(starting, cid) for cid in (first, second, plain)} == {Outcome.UNKNOWN_KEY}
            # Marks that were lost once more are left after a while.
            forget_all(store.url)
            assert await ask(node, plain) is Outcome.UNKNOWN_KEY
            assert mark_of(store.url, plain) is None
            monkeypatch.setattr(key_exists, "CHECK_POINTER_EVERY_S", 0.0)
            for queue in node._queues.values():
                queue.knowledge.check_mark_s = 0.0  # type: ignore[union-attr]
            assert await ask(node, plain) is Outcome.UNKNOWN_KEY
            await eventually(lambda: mark_of(store.url, plain) == plain.encode())
            declare_again = declare(store.url, new_api_key())
            assert await ask(node, declare_again) is Outcome.ADMITTED


async def test_a_key_that_its_account_keeps_as_deleted_is_deleted_without_a_mark(embedded_cluster: str) -> None:
    """As after the loss of the credential's shard alone: the account's slot is the truth."""
    kept = Kept(embedded_cluster, alice_with(revision=3), an_account())
    file = Declared(accounts=[kept.account], members=[AccountKey(kept.account, kept.key)])  # type: ignore[list-item, arg-type]
    async with dispatching(embedded_cluster) as node, dispatching(embedded_cluster, declared=file) as other:
        assert await ask(node, kept.key.kid) is Outcome.ADMITTED
        take_out(embedded_cluster, kept, mark=False)
        for each in (node, other):
            assert {await ask(each, one.digest) for one in kept.key.all_credentials} == {Outcome.UNKNOWN_KEY}
        kept.put(replace(kept.key, revision=4))
        for each in (node, other):
            assert {await ask(each, one.digest) for one in kept.key.all_credentials} == {Outcome.ADMITTED}


async def test_a_key_that_the_store_had_deleted_before_the_nodes_word_comes_back(embedded_single: str) -> None:
    """A store with an older state, in which a key is deleted that was made anew since."""
    kept = Kept(embedded_single, alice_with(revision=6), an_account())
    async with dispatching(embedded_single) as node:
        assert await ask(node, kept.key.kid) is Outcome.ADMITTED
        with store_client(embedded_single) as client:
            client.hdel(policy_key(kept.tag), kept.key.kid, f"k:{kept.key.kid}")
            client.hset(policy_key(kept.tag), f"x:{kept.key.kid}", tombstone_of(replace(kept.key, revision=2)))
        assert await ask(node, kept.key.kid) is Outcome.ADMITTED
        assert kept.stored().revision == 6


@pytest.mark.parametrize("has_marks", [True, False])
async def test_the_keys_of_an_account_that_was_deleted_are_unknown(embedded_cluster: str, has_marks: bool) -> None:
    """And not undecided: the account is not taken for lost, also where the credentials' marks are."""
    kept = Kept(embedded_cluster, alice_with(revision=3), an_account(revision=4))
    first, second = (each.digest for each in kept.key.all_credentials)
    async with dispatching(embedded_cluster) as node:
        assert [await ask(node, cid) for cid in (first, second)] == [Outcome.ADMITTED] * 2
        assert kept.account is not None
        with store_client(embedded_cluster) as client:
            for cid in (first, second) if has_marks else ():
                client.set(deleted_key(cid), kept.key.kid)
            client.delete(policy_key(kept.tag))
            client.hset(policy_key(kept.tag), mapping={"x:": tombstone_of(kept.account)})
        outcomes = await asyncio.gather(*(admit(node, cid) for cid in (first, second) for _ in range(3)))
        assert set(outcomes) == {Outcome.UNKNOWN_KEY}
        assert {await ask(node, cid) for cid in (first, second)} == {Outcome.UNKNOWN_KEY}
        assert set(kept.fields()) == {b"x:"}
        kept.put(replace(kept.key, revision=4))
        assert [await ask(node, cid) for cid in (first, second)] == [Outcome.ADMITTED] * 2


# ---- under load ------------------------------------------------------------------------------------------------------


async def test_a_credential_that_is_revoked_under_load_is_admitted_no_more_from_then_on(embedded_single: str) -> None:
    """Nothing that is asked for after the revocation is admitted; nobody with the other credential is refused."""
    kept = Kept(embedded_single, alice_with(windows=(minute(Limit(REQUESTS, 1_000_000)),)), an_account())
    first, second = (each.digest for each in kept.key.all_credentials)
    async with dispatching(embedded_single) as one, dispatching(embedded_single) as two:
        is_revoked = False

        async def load(node: Dispatcher, cid: str, admitted: list[bool]) -> Outcome:
            """Ask until a request is not admitted; note for each admission whether it was asked for too late."""
            for _ in range(3_000):
                was_revoked = is_revoked
                outcome = await ask(node, cid)
                if outcome is not Outcome.ADMITTED:
                    return outcome
                admitted.append(was_revoked)
            return outcome

        of_first: list[bool] = []
        of_second: list[bool] = []
        revoked = [asyncio.create_task(load(node, first, of_first)) for node in (one, two) for _ in range(20)]
        good = [asyncio.create_task(load(node, second, of_second)) for node in (one, two) for _ in range(2)]
        await eventually(lambda: len(of_first) > 500)
        kept.put(changed(kept.key, 0, is_revoked=True))
        is_revoked = True
        assert {await each for each in revoked} == {Outcome.REVOKED_KEY}
        assert not any(of_first), "none after the revocation"
        await eventually(lambda: sum(of_second) > 100)
        for each in good:
            assert not each.done(), "no request with it was refused"
            each.cancel()
        await asyncio.gather(*good, return_exceptions=True)


async def test_settles_of_a_revoked_credential_apply(embedded_single: str) -> None:
    kept = Kept(embedded_single, alice_with(), an_account())
    first, second = (each.digest for each in kept.key.all_credentials)
    async with dispatching(embedded_single) as node:
        limiter = Limiter(node)
        holds = [limiter.reservation(cid, await limiter.admit(cid, Need(1, 100, 0))) for cid in (first, second)]
        kept.put(changed(changed(kept.key, 0, is_revoked=True), 1, is_revoked=True))
        assert {await ask(node, cid) for cid in (first, second)} == {Outcome.REVOKED_KEY}
        for hold in holds:
            hold.settle(7)
        assert await node.drain(5)
        kept.put(changed(kept.key, 0, is_revoked=False))
        usage = await node.peek(first)
        assert not isinstance(usage, CredentialState)
        assert usage.path is not None
        assert {each.output_tokens for each in usage.path.used} == {14}


async def test_a_key_is_one_queue_for_all_its_credentials(embedded_single: str) -> None:
    key = replace(alice_with(), credentials=tuple(a_credential() for _ in range(5)))
    key = replace(key, credentials=(Credential(key.kid), *key.credentials))
    kept = Kept(embedded_single, key, an_account())
    async with dispatching(embedded_single) as node:
        for each in kept.key.all_credentials:
            assert await ask(node, each.digest) is Outcome.ADMITTED
        assert len({id(node._queues[each.digest].member) for each in kept.key.all_credentials}) == 1


# ---- plain keys ------------------------------------------------------------------------------------------------------


def record_of(url: str, kid: str) -> PlainRecord:
    with store_client(url) as client:
        return unpack_record(client.get(declared_key(kid)))


async def test_a_plain_key_comes_back_with_what_the_file_had_declared() -> None:
    """So that a later start of a node by the same file leaves alone what a person has changed since."""
    first, made = KeyLimits(rpm=11, name="of the file"), KeyLimits(rpm=12, name="changed")
    kids = {each: key_id(new_api_key()) for each in ("changed", "never asked for", "of nobody's file")}
    file = Declared({kids["changed"]: first, kids["never asked for"]: first})
    async with EmbeddedStore("single") as store, dispatching(store.url, declared=file) as node:
        for name in ("changed", "of nobody's file"):
            with store_client(store.url) as client:
                client.set(limits_key(kids[name]), pack_limits(made))
            assert await ask(node, kids[name]) is Outcome.ADMITTED
        file.keys[kids["never asked for"]] = KeyLimits(rpm=13)
        forget_all(store.url)
        node._declared._fresh_until_s = 0.0
        for kid in kids.values():
            assert await ask(node, kid) is Outcome.ADMITTED
        with store_client(store.url) as client:
            assert client.get(limits_key(kids["changed"])) == pack_limits(made)
        assert record_of(store.url, kids["changed"]) == PlainRecord(pack_limits(first))
        assert record_of(store.url, kids["never asked for"]) == PlainRecord(pack_limits(KeyLimits(rpm=13)))
        assert record_of(store.url, kids["of nobody's file"]) == PlainRecord()
