"""Accounts, keys of accounts and pointers that the store has lost: nodes declare them again, never for long a 401."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from accounts_in_store import put_account
from dispatching import dispatching
from node_commands import eventually
from store_tools import Declared, new_api_key, store_client
from test_degraded import behind_proxy, local

from limiter_node.credentials import key_id
from limiter_node.decisions import Need, Outcome
from limiter_node.declarations import AccountKey, Declarations
from limiter_node.key_states import Credential, CredentialState
from limiter_node.keysfile.watching import KeysFile
from limiter_node.limits import KeyLimits
from limiter_node.policy import REQUESTS, AccountPolicy, KeyPolicy, Limit, PolicyWindow, Subject
from limiter_node.policy_body import body_of, read_account, read_key, version_of
from limiter_node.store.accounts import member as account_member
from limiter_node.store.accounts.member import FurtherCredential, Member
from limiter_node.store.admin.store_admin import administering
from limiter_node.store.decisions import declared_file, path_replies
from limiter_node.store.decisions.dispatcher import Dispatcher
from limiter_node.store.embedded.stores import EmbeddedStore
from limiter_node.store.keyspace import ACCOUNT_FIELD, deleted_key, limits_key, policy_key
from limiter_node.store.url import parse_store_url

MINUTE, DAY = 60_000, 86_400_000
ONE = Need(1, 1, 0, ("gpt-4o",))


def window(amount: int, per_ms: int = MINUTE) -> PolicyWindow:
    return PolicyWindow(per_ms, (), (Limit(REQUESTS, amount),))


def an_account(name: str, *windows: PolicyWindow) -> AccountPolicy:
    return AccountPolicy(name, (Subject("", windows), Subject("research", (window(1_000),))))


def a_name() -> str:
    return new_api_key().replace("sk-", "acme-")


def a_key(name: str, *windows: PolicyWindow, team: str = "") -> KeyPolicy:
    return KeyPolicy(key_id(new_api_key()), name, team, windows)


async def ask(dispatcher: Dispatcher, kid: str) -> Outcome:
    """Decide one request as the node's HTTP side does."""
    if not dispatcher.knows(kid) and await dispatcher.find(kid) is not CredentialState.VALID:
        return Outcome.UNKNOWN_KEY
    return (await dispatcher.admit(kid, ONE)).outcome


async def outcomes(dispatcher: Dispatcher, kid: str, count: int) -> Counter[Outcome]:
    return Counter(await asyncio.gather(*(ask(dispatcher, kid) for _ in range(count))))


async def used(dispatcher: Dispatcher, kid: str) -> list[int]:
    usage = await dispatcher.peek(kid)
    assert usage is not None
    assert usage.path is not None
    return [each.requests for each in usage.path.used]


def lose_all(url: str) -> None:
    with store_client(url) as client:
        client.flushall()


def stored(url: str, tag: str, field: str) -> bytes | None:
    with store_client(url) as client:
        value = client.hget(policy_key(tag), field)
    assert value is None or isinstance(value, bytes)
    return value


def pointer(url: str, kid: str) -> bytes | None:
    with store_client(url) as client:
        value = client.hget(limits_key(kid), ACCOUNT_FIELD)
    assert value is None or isinstance(value, bytes)
    return value


def lose_key(url: str, tag: str, *kids: str) -> None:
    """Lose keys' policies, and the ways to them."""
    with store_client(url) as client:
        for kid in kids:
            client.hdel(policy_key(tag), kid, f"k:{kid}")
            client.delete(limits_key(kid))


def file_of(account: AccountPolicy, keys: Sequence[KeyPolicy]) -> Declared:
    return Declared(accounts=[account], members=[AccountKey(account, key) for key in keys])


def fields_of(account: AccountPolicy) -> dict[str, bytes]:
    return {"version": version_of(body_of(account)), "account": body_of(account)}


def look_again(dispatcher: Dispatcher) -> None:
    """Let the next missing key read the file again."""
    dispatcher._declared._fresh_until_s = 0.0


# ---- everything is lost ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["single", "cluster"])
async def test_a_flushed_store_gets_accounts_and_keys_back_with_what_was_admitted(kind: str) -> None:
    """Also under requests: nobody gets a 401, and no window of the path is admitted twice."""
    account = an_account(a_name(), window(20), window(50, DAY))
    alice, bob = a_key("alice", window(12), team="research"), a_key("bob")
    async with EmbeddedStore(kind) as store:
        put_account(store.url, account, [alice, bob])
        async with dispatching(store.url) as dispatcher:
            assert await outcomes(dispatcher, alice.kid, 5) == {Outcome.ADMITTED: 5}
            assert await outcomes(dispatcher, bob.kid, 3) == {Outcome.ADMITTED: 3}
            for _ in range(2):
                with store_client(store.url) as client:
                    client.flushall()
                assert await ask(dispatcher, bob.kid) is not Outcome.UNKNOWN_KEY
                assert await used(dispatcher, alice.kid) != [0, 0, 0, 0]
            assert await used(dispatcher, alice.kid) == [10, 10, 5, 5], "account 1m, account 1d, team, key"
            flood = asyncio.gather(outcomes(dispatcher, alice.kid, 20), outcomes(dispatcher, bob.kid, 20))
            await asyncio.sleep(0)
            with store_client(store.url) as client:
                client.flushall()
            of_alice, of_bob = await flood
            assert set(of_alice) | set(of_bob) <= {Outcome.ADMITTED, Outcome.REJECTED}
            await outcomes(dispatcher, alice.kid, 20), await outcomes(dispatcher, bob.kid, 20)
            assert (await used(dispatcher, alice.kid))[:2] == [20, 20]
            assert dispatcher.state().losses["keys"] >= 6
            assert stored(store.url, account.tag, "account") == body_of(account)
            assert stored(store.url, account.tag, f"k:{alice.kid}") == body_of(alice)
            assert pointer(store.url, bob.kid) == account.tag.encode()


async def test_two_nodes_declare_at_once_and_charge_all_that_each_had_admitted() -> None:
    account = an_account(a_name(), window(30))
    keys = [a_key(f"k{n}", window(20), team="research") for n in range(4)]
    async with EmbeddedStore("single") as store:
        put_account(store.url, account, keys)
        async with dispatching(store.url) as one, dispatching(store.url) as two:
            for node in (one, two):
                for key in keys:
                    assert await outcomes(node, key.kid, 2) == {Outcome.ADMITTED: 2}
            lose_all(store.url)
            decided = await asyncio.gather(*(ask(node, key.kid) for key in keys for node in (one, two)))
            assert Outcome.UNKNOWN_KEY not in decided
            admitted = 16 + decided.count(Outcome.ADMITTED)
            assert await used(one, keys[0].kid) == [admitted, admitted, 6]
            assert (await outcomes(one, keys[0].kid, 40))[Outcome.ADMITTED] == min(30 - admitted, 14)


async def test_a_node_that_knows_nothing_declares_by_the_keys_file() -> None:
    account = an_account(a_name(), window(5))
    alice, flat = a_key("alice", window(3)), a_key("flat", window(2))
    file = file_of(account, [alice])
    file.members[flat.kid] = AccountKey(AccountPolicy(key=flat), flat)
    async with EmbeddedStore("single") as store, dispatching(store.url, declared=file) as dispatcher:
        assert await outcomes(dispatcher, alice.kid, 5) == {Outcome.ADMITTED: 3, Outcome.REJECTED: 2}
        assert await outcomes(dispatcher, flat.kid, 5) == {Outcome.ADMITTED: 2, Outcome.REJECTED: 3}
        assert await ask(dispatcher, key_id(new_api_key())) is Outcome.UNKNOWN_KEY
        body = stored(store.url, account.tag, "account")
        assert body is not None
        assert read_account(body).subjects[0].windows[0].since_ms > 0, "by the store's clock"
        assert dispatcher._redeclared.counts == {"file": 3}


async def test_a_flat_key_with_other_limits_comes_back_with_its_windows() -> None:
    flat = a_key("flat", window(4), window(6, DAY))
    async with EmbeddedStore("single") as store:
        put_account(store.url, AccountPolicy(key=flat))
        async with dispatching(store.url) as dispatcher:
            assert await outcomes(dispatcher, flat.kid, 3) == {Outcome.ADMITTED: 3}
            lose_all(store.url)
            assert await outcomes(dispatcher, flat.kid, 3) == {Outcome.ADMITTED: 1, Outcome.REJECTED: 2}
            assert await used(dispatcher, flat.kid) == [4, 4]
            assert dispatcher.state().losses == {"counts": 1, "keys": 1}


# ---- one thing is lost ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("told_by", ["a request", "a look at its usage"])
async def test_a_lost_key_of_an_account_is_declared_again(url: str, told_by: str) -> None:
    account, alice, bob = an_account(a_name(), window(9)), a_key("alice", window(3)), a_key("bob")
    put_account(url, account, [alice, bob])
    async with dispatching(url) as dispatcher, dispatching(url) as other:
        for kid in (alice.kid, bob.kid):
            assert await ask(dispatcher, kid) is Outcome.ADMITTED
        lose_key(url, account.tag, alice.kid)
        assert await ask(other, alice.kid) is Outcome.UNKNOWN_KEY, "it has never known the key"
        if told_by == "a request":
            assert set(await asyncio.gather(ask(dispatcher, bob.kid), ask(dispatcher, alice.kid))) == {Outcome.ADMITTED}
            left = 1
        else:
            assert await used(dispatcher, alice.kid) == [2, 1]
            left = 2
        assert stored(url, account.tag, f"k:{alice.kid}") == body_of(alice)
        assert await outcomes(other, alice.kid, 3) == {Outcome.ADMITTED: left, Outcome.REJECTED: 3 - left}


async def test_a_lost_pointer_is_mended_by_a_node_that_knows_the_key(
    embedded_cluster: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(account_member, "CHECK_POINTER_EVERY_S", 0.0)
    monkeypatch.setattr(path_replies, "CHECK_POINTER_EVERY_S", 0.0)
    account, alice = an_account(a_name()), a_key("alice")
    put_account(embedded_cluster, account, [alice])
    async with dispatching(embedded_cluster) as dispatcher, dispatching(embedded_cluster) as other:
        assert await ask(dispatcher, alice.kid) is Outcome.ADMITTED
        with store_client(embedded_cluster) as client:
            client.delete(limits_key(alice.kid))
        assert await ask(other, alice.kid) is Outcome.UNKNOWN_KEY
        member = dispatcher._queues[alice.kid]
        assert isinstance(member, Member)
        member.check_pointer_s = 0.0
        assert await ask(dispatcher, alice.kid) is Outcome.ADMITTED
        await eventually(lambda: pointer(embedded_cluster, alice.kid) == account.tag.encode())
        assert await ask(other, alice.kid) is Outcome.ADMITTED
        assert dispatcher.state().losses["keys"] == 1


@pytest.mark.parametrize("lost", ["a deletion", "the seal of a move"])
async def test_54_a_key_that_a_failover_brings_back_is_left_for_where_its_pointer_leads(
    lost: str, embedded_cluster: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The account's shard has lost that the key was taken out; the shard of the key's digest knows it."""
    monkeypatch.setattr(account_member, "CHECK_POINTER_EVERY_S", 0.0)
    monkeypatch.setattr(path_replies, "CHECK_POINTER_EVERY_S", 0.0)
    account, target, alice = an_account(a_name()), an_account(a_name()), a_key("alice")
    further = key_id(new_api_key())
    alice = replace(alice, credentials=(Credential(alice.kid), Credential(further)))
    put_account(embedded_cluster, account, [alice])
    put_account(embedded_cluster, target, [])
    async with administering(parse_store_url(embedded_cluster)) as admin, dispatching(embedded_cluster) as dispatcher:
        for cid in (alice.kid, further):
            assert await ask(dispatcher, cid) is Outcome.ADMITTED
        with store_client(embedded_cluster) as client:
            before = client.hgetall(policy_key(account.tag))
            if lost == "a deletion":
                assert await admin.delete(alice.kid)
            else:
                assert await admin.mover.move(alice.kid, account.tag, target.tag)
            client.delete(policy_key(account.tag))
            client.hset(policy_key(account.tag), mapping=before)

        async def is_left(cid: str) -> bool:
            outcome = await ask(dispatcher, cid)
            asker = dispatcher._queues[cid]
            if lost == "a deletion":
                return outcome is Outcome.UNKNOWN_KEY
            assert isinstance(asker, Member | FurtherCredential)
            return outcome is Outcome.ADMITTED and asker.member.account.kid == target.tag

        for cid in (alice.kid, further):
            await eventually(lambda cid=cid: is_left(cid))


async def test_a_key_whose_deletion_stopped_after_the_marks_works_on(
    embedded_cluster: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(account_member, "CHECK_POINTER_EVERY_S", 0.0)
    monkeypatch.setattr(path_replies, "CHECK_POINTER_EVERY_S", 0.0)
    account, alice = an_account(a_name()), a_key("alice")
    put_account(embedded_cluster, account, [alice])
    async with administering(parse_store_url(embedded_cluster)) as admin, dispatching(embedded_cluster) as dispatcher:
        await admin.pointers.mark(alice.kid, [alice.kid])
        for _ in range(20):
            assert await ask(dispatcher, alice.kid) is Outcome.ADMITTED


async def test_a_pointer_that_leads_to_an_account_without_the_key_is_mended_by_the_file(embedded_cluster: str) -> None:
    """As after the return of an old snapshot of the key's shard alone."""
    account, stale, alice = an_account(a_name()), an_account(a_name()), a_key("alice")
    put_account(embedded_cluster, stale, [alice])
    put_account(embedded_cluster, stale)
    with store_client(embedded_cluster) as client:
        client.hdel(policy_key(stale.tag), alice.kid, f"k:{alice.kid}")
    async with dispatching(embedded_cluster, declared=file_of(account, [alice])) as dispatcher:
        assert await ask(dispatcher, alice.kid) is Outcome.ADMITTED
        assert pointer(embedded_cluster, alice.kid) == account.tag.encode()


# ---- within the budget of a decision --------------------------------------------------------------------------------


class Stuck(Declared):
    """A keys file on a disk that doesn't answer from some time on, until it is let go."""

    is_stuck = False

    def __init__(self) -> None:
        super().__init__()
        self.let_go = threading.Event()

    def declarations(self) -> Declarations:
        if self.is_stuck:
            self.let_go.wait(10)
        return super().declarations()


@pytest.mark.parametrize("lost", ["the account", "the key"])
async def test_a_policy_decides_while_it_is_unknown_what_to_declare(lost: str, embedded_single: str) -> None:
    account, alice = an_account(a_name(), window(9)), a_key("alice")
    put_account(embedded_single, account, [alice])
    file = Stuck()
    async with dispatching(embedded_single, policy=local(1), declared=file) as dispatcher:
        assert await ask(dispatcher, alice.kid) is Outcome.ADMITTED
        await eventually(lambda: dispatcher._declared._reading is None)
        file.is_stuck = True
        look_again(dispatcher)
        with store_client(embedded_single) as client:
            client.delete(limits_key(alice.kid))
            if lost == "the account":
                client.delete(policy_key(account.tag))
            else:
                client.hdel(policy_key(account.tag), alice.kid, f"k:{alice.kid}")
        try:
            decision = await dispatcher.admit(alice.kid, ONE)
            assert (decision.outcome, decision.degraded) == (Outcome.ADMITTED, "local")
            assert stored(embedded_single, account.tag, alice.kid) is None
        finally:
            file.is_stuck = False
            file.let_go.set()
        await eventually(lambda: dispatcher._declared._reading is None)
        decision = await dispatcher.admit(alice.kid, ONE)
        assert (decision.outcome, decision.degraded) == (Outcome.ADMITTED, "")
        assert await dispatcher.drain(5)
        assert await used(dispatcher, alice.kid) == [3]


@pytest.mark.parametrize("lost", ["the account", "the key"])
async def test_a_store_that_stops_answering_meanwhile_costs_no_more_than_the_budget(
    lost: str, embedded_single: str
) -> None:
    account, alice = an_account(a_name(), window(9)), a_key("alice")
    put_account(embedded_single, account, [alice])
    async with behind_proxy(embedded_single, policy=local(1)) as (proxy, dispatcher):
        assert await ask(dispatcher, alice.kid) is Outcome.ADMITTED
        redeclarer = dispatcher._account_redeclarer
        declare = redeclarer._declare

        async def stop_first(tag: str, field: str, body: bytes, revision: int) -> Any:
            proxy.pass_requests = False
            return await declare(tag, field, body, revision)

        redeclarer._declare = stop_first  # type: ignore[method-assign]
        with store_client(embedded_single) as client:
            client.delete(policy_key(account.tag))
            if lost == "the key":
                client.hset(policy_key(account.tag), mapping=fields_of(account))
        async with asyncio.timeout(3):
            decision = await dispatcher.admit(alice.kid, ONE)
        assert (decision.outcome, decision.degraded) == (Outcome.ADMITTED, "local")
        redeclarer._declare = declare  # type: ignore[method-assign]
        proxy.pass_requests = True
        proxy.reset_all()
        await eventually(lambda: not dispatcher.outage.is_on)
        assert await dispatcher.drain(20)
        decision = await dispatcher.admit(alice.kid, ONE)
        assert (decision.outcome, decision.degraded) == (Outcome.ADMITTED, "")
        assert await dispatcher.drain(20)
        assert await used(dispatcher, alice.kid) == [3]


# ---- what must not come back ----------------------------------------------------------------------------------------


async def test_a_deleted_key_of_an_account_stays_deleted() -> None:
    account, alice, bob = an_account(a_name(), window(9)), a_key("alice"), a_key("bob")
    flat = a_key("flat", window(4, DAY))
    file = file_of(account, [alice, bob])
    file.members[flat.kid] = AccountKey(AccountPolicy(key=flat), flat)
    async with EmbeddedStore("single") as store, administering(parse_store_url(store.url)) as admin:
        await admin.apply(file.declarations())
        async with dispatching(store.url, declared=file) as dispatcher, dispatching(store.url) as other:
            for node in (dispatcher, other):
                for kid in (alice.kid, bob.kid, flat.kid):
                    assert await ask(node, kid) is Outcome.ADMITTED
            for kid in (alice.kid, flat.kid):
                await admin.delete(kid)
            for node in (dispatcher, other):
                for _ in range(2):
                    for kid in (alice.kid, flat.kid):
                        assert await ask(node, kid) is Outcome.UNKNOWN_KEY
                        assert await node.peek(kid) is CredentialState.UNKNOWN
            lose_all(store.url)  # the marks, too
            for node in (dispatcher, other):
                assert await ask(node, bob.kid) is Outcome.ADMITTED
                for _ in range(2):
                    for kid in (alice.kid, flat.kid):
                        assert await ask(node, kid) is Outcome.UNKNOWN_KEY, "the store had told so"
            assert stored(store.url, account.tag, alice.kid) is None
            assert stored(store.url, flat.kid, "version") is None


@pytest.mark.parametrize("kind", ["of an account", "flat"])
async def test_a_key_that_is_just_being_deleted_is_not_taken_for_lost(
    kind: str, embedded_cluster: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A request finds it missing between two steps of the deletion."""
    key = a_key("alice", window(9, DAY))
    account = an_account(a_name()) if kind == "of an account" else AccountPolicy(key=key)
    put_account(embedded_cluster, account, [key] if kind == "of an account" else [])
    async with administering(parse_store_url(embedded_cluster)) as admin, dispatching(embedded_cluster) as dispatcher:
        assert await ask(dispatcher, key.kid) is Outcome.ADMITTED
        policies = admin.policies
        delete, told = policies.delete_version, []

        async def delete_and_ask(*what: Any) -> bool:
            is_deleted = await delete(*what)
            told.append(await ask(dispatcher, key.kid))
            return bool(is_deleted)

        monkeypatch.setattr(policies, "delete_version", delete_and_ask)
        await admin.delete(key.kid)
        assert [*told, await ask(dispatcher, key.kid)] == [Outcome.UNKNOWN_KEY] * 2
        assert stored(embedded_cluster, account.tag, key.kid if account.key is None else "version") is None


async def test_a_deleted_key_with_settles_under_way_keeps_nobody_busy(embedded_single: str) -> None:
    flat = a_key("flat", window(4, DAY))
    put_account(embedded_single, AccountPolicy(key=flat))
    async with administering(parse_store_url(embedded_single)) as admin, dispatching(embedded_single) as dispatcher:
        assert await dispatcher.find(flat.kid) is CredentialState.VALID
        decision = await dispatcher.admit(flat.kid, Need(1, 9, 0, ()))
        await admin.delete(flat.kid)
        dispatcher.give_back(flat.kid, decision.receipt, 0, 4)
        dispatcher.give_back(flat.kid, decision.receipt, 0, -4)
        assert await dispatcher.drain(5)
        assert await ask(dispatcher, flat.kid) is Outcome.UNKNOWN_KEY
        assert await dispatcher.drain(5)


async def test_a_key_that_was_revoked_in_the_file_does_not_come_back() -> None:
    account, alice, bob = an_account(a_name(), window(9)), a_key("alice"), a_key("bob")
    file = file_of(account, [alice, bob])
    async with EmbeddedStore("single") as store, administering(parse_store_url(store.url)) as admin:
        await admin.apply(file.declarations())
        async with dispatching(store.url, declared=file) as dispatcher:
            for kid in (alice.kid, bob.kid):
                assert await ask(dispatcher, kid) is Outcome.ADMITTED
            del file.members[alice.kid]
            look_again(dispatcher)
            lose_all(store.url)
            for _ in range(2):
                assert await ask(dispatcher, alice.kid) is Outcome.UNKNOWN_KEY
                assert await ask(dispatcher, bob.kid) is Outcome.ADMITTED
            assert stored(store.url, account.tag, alice.kid) is None


@pytest.mark.parametrize("to", ["another account", "its own account", "plain"])
async def test_a_key_that_moves_is_not_brought_back_to_its_former_account(to: str, embedded_cluster: str) -> None:
    """The loader takes it out between two steps of its own; the node finds it missing just then."""
    account, target, alice = an_account(a_name()), an_account(a_name()), a_key("alice", window(1_000_000, DAY))
    file = {
        "another account": Declarations({}, {target.name: target}, {alice.kid: AccountKey(target, alice)}),
        "its own account": Declarations({}, {}, {alice.kid: AccountKey(AccountPolicy(key=alice), alice)}),
        "plain": Declarations({alice.kid: KeyLimits()}),
    }[to]
    async with administering(parse_store_url(embedded_cluster)) as admin:
        await admin.apply(Declarations({}, {account.name: account}, {alice.kid: AccountKey(account, alice)}))
        async with dispatching(embedded_cluster) as one, dispatching(embedded_cluster) as two:
            for node in (one, two):
                assert await ask(node, alice.kid) is Outcome.ADMITTED
            is_loaded = False

            async def keep_asking(node: Dispatcher) -> None:
                while not is_loaded:
                    await ask(node, alice.kid)

            asking = [asyncio.ensure_future(keep_asking(node)) for node in (one, two) for _ in range(3)]
            await admin.apply(file)
            is_loaded = True
            await asyncio.gather(*asking)
            for node in (one, two):
                assert await ask(node, alice.kid) is not Outcome.UNKNOWN_KEY
            assert stored(embedded_cluster, account.tag, alice.kid) is None
            with store_client(embedded_cluster) as client:
                assert not client.exists(deleted_key(alice.kid))


@pytest.mark.parametrize("meanwhile", ["deleted", "moved"])
async def test_a_key_that_is_taken_out_while_it_is_declared_is_taken_out_again(
    meanwhile: str, embedded_cluster: str
) -> None:
    account, target, alice = an_account(a_name()), an_account(a_name()), a_key("alice")
    put_account(embedded_cluster, account, [alice])
    async with administering(parse_store_url(embedded_cluster)) as admin, dispatching(embedded_cluster) as dispatcher:
        assert await ask(dispatcher, alice.kid) is Outcome.ADMITTED
        lose_key(embedded_cluster, account.tag, alice.kid)
        redeclarer = dispatcher._account_redeclarer
        declare = redeclarer._declare

        async def take_out_first(tag: str, field: str, body: bytes, revision: int) -> Any:
            if field == alice.kid:
                if meanwhile == "deleted":
                    await admin.delete(alice.kid)
                else:
                    moved = Declarations({}, {target.name: target}, {alice.kid: AccountKey(target, alice)})
                    await admin.apply(moved)
            return await declare(tag, field, body, revision)

        redeclarer._declare = take_out_first  # type: ignore[method-assign]
        expected = Outcome.UNKNOWN_KEY if meanwhile == "deleted" else Outcome.ADMITTED
        assert await ask(dispatcher, alice.kid) is expected
        assert stored(embedded_cluster, account.tag, alice.kid) is None


# ---- which word counts ----------------------------------------------------------------------------------------------


async def test_the_file_counts_where_it_changed_later_and_the_store_where_it_told_later(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """By key and by account, each for itself."""
    monkeypatch.setattr(declared_file, "_FILE_FIRST_S", 0.0)
    account = an_account(a_name(), window(50))
    alice, bob, carol = a_key("alice", window(3)), a_key("bob", window(3)), a_key("carol", window(3))
    file = file_of(account, [alice, bob, carol])
    async with EmbeddedStore("single") as store, administering(parse_store_url(store.url)) as admin:
        await admin.apply(file.declarations())
        changed_by_hand = KeyPolicy(bob.kid, "bob", "", (window(7),))
        put_account(store.url, account, [changed_by_hand])
        async with dispatching(store.url, declared=file) as dispatcher:
            for kid in (alice.kid, bob.kid, carol.kid):
                assert await ask(dispatcher, kid) is Outcome.ADMITTED
            changed = KeyPolicy(alice.kid, "alice", "research", (window(5),))
            file.members[alice.kid] = AccountKey(account, changed)
            look_again(dispatcher)
            await dispatcher._declared.read()
            for kid in (bob.kid, carol.kid):  # replies about the account that say nothing of alice
                assert await ask(dispatcher, kid) is Outcome.ADMITTED
            lose_all(store.url)
            for kid, limit, team in ((bob.kid, 7, ""), (carol.kid, 3, ""), (alice.kid, 5, "research")):
                assert await ask(dispatcher, kid) is Outcome.ADMITTED
                body = stored(store.url, account.tag, f"k:{kid}")
                assert body is not None
                found = read_key(body)
                assert (found.windows[0].limits[0].amount, found.team) == (limit, team)
            assert dispatcher._redeclared.counts == {"store": 3, "file": 1}


async def test_a_changed_account_is_declared_over_what_the_node_was_told() -> None:
    account, alice = an_account(a_name(), window(5), window(100, DAY)), a_key("alice")
    file = file_of(account, [alice])
    async with EmbeddedStore("single") as store, administering(parse_store_url(store.url)) as admin:
        await admin.apply(file.declarations())
        before = stored(store.url, account.tag, "account")
        assert before is not None
        async with dispatching(store.url, declared=file) as dispatcher:
            assert await outcomes(dispatcher, alice.kid, 3) == {Outcome.ADMITTED: 3}
            lowered = an_account(account.name, window(4))
            file.accounts[account.name] = lowered
            file.members[alice.kid] = AccountKey(lowered, alice)
            look_again(dispatcher)
            lose_all(store.url)
            assert await outcomes(dispatcher, alice.kid, 3) == {Outcome.ADMITTED: 1, Outcome.REJECTED: 2}
            after = stored(store.url, account.tag, "account")
            assert after is not None
            minute, day = read_account(after).subjects[0].windows
            assert minute.since_ms == read_account(before).subjects[0].windows[0].since_ms
            assert (day.limits, day.until_ms > 0) == ((), True), "it goes on counting, as if the file had been loaded"


@pytest.mark.parametrize("to", ["another account", "plain"])
async def test_a_key_that_the_file_has_moved_is_declared_there(to: str) -> None:
    account, target, alice = an_account(a_name()), an_account(a_name()), a_key("alice")
    file = file_of(account, [alice])
    async with EmbeddedStore("single") as store, administering(parse_store_url(store.url)) as admin:
        await admin.apply(file.declarations())
        async with dispatching(store.url, declared=file) as dispatcher:
            assert await ask(dispatcher, alice.kid) is Outcome.ADMITTED
            del file.members[alice.kid]
            if to == "plain":
                file.keys[alice.kid] = KeyLimits(rpm=1)
            else:
                file.accounts[target.name] = target
                file.members[alice.kid] = AccountKey(target, alice)
            look_again(dispatcher)
            lose_all(store.url)
            assert await ask(dispatcher, alice.kid) is Outcome.ADMITTED
            if to == "plain":
                assert await admin.get(alice.kid) == KeyLimits(rpm=1)
            else:
                assert pointer(store.url, alice.kid) == target.tag.encode()
            assert stored(store.url, account.tag, alice.kid) is None


@pytest.mark.parametrize("asked_by", ["a request", "a look at its usage"])
async def test_a_plain_key_that_the_file_has_in_an_account_by_now_is_declared_there(asked_by: str) -> None:
    account, alice = an_account(a_name()), a_key("alice")
    file = Declared({alice.kid: KeyLimits(rpm=9)})
    async with EmbeddedStore("single") as store, administering(parse_store_url(store.url)) as admin:
        await admin.apply(file.declarations())
        async with dispatching(store.url, declared=file) as dispatcher:
            assert await ask(dispatcher, alice.kid) is Outcome.ADMITTED
            file.keys.clear()
            file.accounts[account.name] = account
            file.members[alice.kid] = AccountKey(account, alice)
            look_again(dispatcher)
            lose_all(store.url)
            if asked_by == "a request":
                assert await ask(dispatcher, alice.kid) is Outcome.ADMITTED
            else:
                assert await dispatcher.peek(alice.kid) is not None
            assert pointer(store.url, alice.kid) == account.tag.encode()


async def test_a_key_made_plain_in_the_store_stays_plain_after_a_loss() -> None:
    """The file, which is older, has it in an account."""
    account, alice = an_account(a_name()), a_key("alice")
    file = file_of(account, [alice])
    async with EmbeddedStore("single") as store, administering(parse_store_url(store.url)) as admin:
        await admin.put_limits(alice.kid, KeyLimits(rpm=3))
        async with dispatching(store.url, declared=file) as dispatcher:
            assert await ask(dispatcher, alice.kid) is Outcome.ADMITTED
            lose_all(store.url)
            assert await ask(dispatcher, alice.kid) is Outcome.ADMITTED
            assert await admin.get(alice.kid) == KeyLimits(rpm=3)


def test_a_keys_file_knows_when_accounts_and_their_keys_changed(tmp_path: Path) -> None:
    path = tmp_path / "keys.toml"
    text = '[accounts.acme]\nrpm = {rpm}\n[keys.sk-a]\naccount = "acme"\nrpm = {of_a}\n[keys.sk-b]\ntpm = 5\n'
    path.write_text(text.format(rpm=10, of_a=1))
    file, a, b = KeysFile(path), key_id("sk-a"), key_id("sk-b")
    file.declarations()
    first = {name: file._changed_s.get(name) for name in ("@acme", a, b)}
    assert first == dict.fromkeys(first)
    assert all(file.was_declared(name) for name in first)
    file._path.write_text(text.format(rpm=20, of_a=1))
    file.declarations()
    assert set(file._changed_s) == {"@acme"}
    file._path.write_text(text.format(rpm=20, of_a=2))
    file.declarations()
    assert set(file._changed_s) == {"@acme", a}
