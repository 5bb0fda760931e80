"""Accounts that change while nodes use them: policies, keys that come, go and move, plain keys that become accounts."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import pytest
from accounts_in_store import put_account
from dispatching import dispatching
from node_commands import eventually
from redis import Redis
from store_tools import declare, new_api_key, store_client
from test_accounts import a_key, a_name, decide, minute
from test_accounts_once import ONE, admitted, used
from test_degraded import behind_proxy, local, recovered

from limiter_node.decisions import Need, Outcome
from limiter_node.errors import StoreUnavailable
from limiter_node.key_states import CredentialState
from limiter_node.limiter.admission import Limiter
from limiter_node.limits import Amounts, KeyLimits
from limiter_node.policy import (
    INPUT_TOKENS,
    KEY_SUBJECT,
    REQUESTS,
    AccountPolicy,
    KeyPolicy,
    Limit,
    PolicyWindow,
    Subject,
    window_id,
)
from limiter_node.policy_body import body_of, version_of
from limiter_node.store.embedded.stores import EmbeddedStore
from limiter_node.store.keyspace import (
    declared_key,
    deleted_key,
    limits_key,
    past_key,
    policy_key,
    shared_key,
    slot_of,
    window_key,
)
from limiter_node.store.scripts import load_script
from limiter_node.store.values import pack_limits

HOUR = 3_600_000


@pytest.fixture(params=["embedded_cluster", "embedded_single"])
def store_url(request: pytest.FixtureRequest) -> str:
    return str(request.getfixturevalue(request.param))


def an_account(name: str, limit: int) -> AccountPolicy:
    return AccountPolicy(name, (Subject("", (minute(Limit(REQUESTS, limit)),)),))


def take_out(url: str, account: AccountPolicy, kid: str) -> None:
    """Delete a key from its account on purpose, which leaves a mark; what leads from the key to the account stays."""
    with store_client(url) as client:
        client.set(deleted_key(kid), b"")
        client.hdel(policy_key(account.tag), kid, f"k:{kid}")


# ---- policies --------------------------------------------------------------------------------------------------------


async def test_one_key_with_an_old_policy_holds_up_nobody_in_its_batch(embedded_single: str) -> None:
    name, alice, bob = a_name(), a_key("alice", minute(Limit(REQUESTS, 1))), a_key("bob")
    put_account(embedded_single, an_account(name, 100), [alice, bob])
    async with dispatching(embedded_single) as dispatcher:
        assert await admitted(dispatcher, [alice.kid, bob.kid], 1) == 2
        changed = KeyPolicy(alice.kid, "alice", "", (minute(Limit(REQUESTS, 3)),))
        put_account(embedded_single, an_account(name, 100), [changed, bob])
        number = dispatcher._batches.number
        futures = [dispatcher.admit(each.kid, ONE) for each in (alice, alice, alice, bob, bob)]
        await asyncio.wait(futures[3:])
        assert not any(each.done() for each in futures[:3])
        outcomes = [(await each).outcome for each in futures]
        assert outcomes == [Outcome.ADMITTED] * 2 + [Outcome.REJECTED] + [Outcome.ADMITTED] * 2
        assert dispatcher._batches.number == number + 2
        assert await used(dispatcher, alice.kid) == [Amounts(6, 6, 6), Amounts(3, 3, 3)]


async def test_account_and_key_change_at_once(embedded_single: str) -> None:
    name, alice = a_name(), a_key("alice", minute(Limit(REQUESTS, 1)))
    put_account(embedded_single, an_account(name, 1), [alice])
    async with dispatching(embedded_single) as dispatcher:
        assert await admitted(dispatcher, [alice.kid], 2) == 1
        changed = KeyPolicy(alice.kid, "alice", "", (minute(Limit(REQUESTS, 3)),))
        put_account(embedded_single, an_account(name, 100), [changed])
        assert await admitted(dispatcher, [alice.kid], 4) == 2
        assert await used(dispatcher, alice.kid) == [Amounts(3, 3, 3)] * 2


async def test_settles_of_windows_that_the_policy_no_longer_has(embedded_single: str) -> None:
    name, alice = a_name(), a_key("alice", PolicyWindow(HOUR, (), (Limit(REQUESTS, 10),)))
    put_account(embedded_single, an_account(name, 10), [alice])
    async with dispatching(embedded_single) as dispatcher:
        limiter = Limiter(dispatcher)
        hold = limiter.reservation(alice.kid, await decide(dispatcher, alice.kid, Need(5, 100, 0)))
        put_account(embedded_single, an_account(name, 10), [KeyPolicy(alice.kid, "alice")])
        assert await admitted(dispatcher, [alice.kid], 1) == 1
        hold.settle(7)
        assert await dispatcher.drain(5)
        assert await used(dispatcher, alice.kid) == [Amounts(2, 6, 8)]
        put_account(embedded_single, an_account(name, 10), [alice])
        assert await used(dispatcher, alice.kid) == [Amounts(2, 6, 8), Amounts(1, 5, 7)]


@pytest.mark.parametrize("damaged", [b"", b"{}", b"[]", b"null", b"\xff", b'{"name": 1, "subjects": [{}]}'])
async def test_a_policy_that_cannot_be_read_fails_only_requests_that_need_it(
    embedded_single: str, damaged: bytes
) -> None:
    name, alice, bob, eve = a_name(), a_key("alice"), a_key("bob"), a_key("eve")
    account = an_account(name, 100)
    put_account(embedded_single, account, [alice, bob, eve])
    async with dispatching(embedded_single) as dispatcher:
        assert await admitted(dispatcher, [alice.kid, bob.kid], 1) == 2
        with store_client(embedded_single) as client:
            for kid in (alice.kid, eve.kid):
                client.hset(policy_key(account.tag), mapping={kid: b"another!", f"k:{kid}": damaged})
        futures = [dispatcher.admit(each.kid, ONE) for each in (alice, bob, alice, bob)]
        found = await asyncio.gather(*futures, return_exceptions=True)
        assert [isinstance(each, StoreUnavailable) for each in found] == [True, False, True, False]
        with pytest.raises(StoreUnavailable):
            await dispatcher.find(eve.kid)
        assert dispatcher._queues[alice.kid].account.waiting == 0
        assert await used(dispatcher, bob.kid) == [Amounts(4, 4, 4)]
        put_account(embedded_single, account, [alice, bob, eve])
        assert await admitted(dispatcher, [alice.kid, bob.kid, eve.kid], 1) == 3


async def test_a_window_without_limits_counts_until_it_ends(embedded_single: str) -> None:
    """It is on the path until its end, and no plan keeps it longer."""
    name, alice = a_name(), a_key("alice")
    async with dispatching(embedded_single) as dispatcher:
        put_account(embedded_single, an_account(name, 10), [alice])
        assert await admitted(dispatcher, [alice.kid], 1) == 1
        member = dispatcher._queues[alice.kid]
        ends_ms = member.account.knowledge.now_ms() + 400
        ending = PolicyWindow(60_000, (), (), 0, ends_ms)
        put_account(embedded_single, AccountPolicy(name, (Subject("", (ending,)),)), [alice])
        assert await admitted(dispatcher, [alice.kid], 1) == 1
        assert [each.ends_ms for each in member.plan(ONE.models, ends_ms - 1).windows] == [ends_ms]
        await eventually(lambda: member.account.knowledge.now_ms() >= ends_ms)
        assert not (await decide(dispatcher, alice.kid)).path.plan.windows  # type: ignore[union-attr]


async def test_invented_models_share_plans(embedded_single: str) -> None:
    windows = (minute(Limit(INPUT_TOKENS, 10_000), models=("o3*",)), minute(Limit(REQUESTS, 10_000)))
    account, alice = AccountPolicy(a_name(), (Subject("", windows),)), a_key("alice")
    put_account(embedded_single, account, [alice])
    async with dispatching(embedded_single) as dispatcher:
        plans = {id((await decide(dispatcher, alice.kid, Need(1, 1, 0, (f"o3-{n}",)))).path.plan) for n in range(600)}  # type: ignore[union-attr]
        assert len(plans) == 1
        member = dispatcher._queues[alice.kid]
        assert len(member._plans) + len(member._plans_by_patterns) <= 300


# ---- keys that go and move -------------------------------------------------------------------------------------------


async def test_a_key_that_was_deleted_is_unknown_and_nobody_else(embedded_single: str) -> None:
    account, alice, bob = an_account(a_name(), 100), a_key("alice"), a_key("bob")
    put_account(embedded_single, account, [alice, bob])
    async with dispatching(embedded_single) as dispatcher:
        limiter = Limiter(dispatcher)
        hold = limiter.reservation(alice.kid, await decide(dispatcher, alice.kid, Need(1, 100, 0)))
        assert await admitted(dispatcher, [bob.kid], 1) == 1
        take_out(embedded_single, account, alice.kid)
        futures = [dispatcher.admit(each.kid, ONE) for each in (alice, bob, alice, bob)]
        decisions = await asyncio.gather(*futures)
        assert [each.outcome for each in decisions] == [Outcome.UNKNOWN_KEY, Outcome.ADMITTED] * 2
        assert not dispatcher.knows(alice.kid)
        assert dispatcher.knows(bob.kid)
        hold.settle(5)
        assert await dispatcher.drain(5)
        assert await used(dispatcher, bob.kid) == [Amounts(4, 4, 8)], "settles always apply"
        assert await dispatcher.peek(alice.kid) is CredentialState.UNKNOWN
        assert dispatcher._queues[bob.kid].account.waiting == 0


async def test_reading_the_usage_of_a_key_that_was_deleted(embedded_single: str) -> None:
    account, alice = an_account(a_name(), 100), a_key("alice")
    put_account(embedded_single, account, [alice])
    async with dispatching(embedded_single) as dispatcher:
        assert await admitted(dispatcher, [alice.kid], 1) == 1
        take_out(embedded_single, account, alice.kid)
        assert await dispatcher.peek(alice.kid) is CredentialState.UNKNOWN
        assert not dispatcher.knows(alice.kid)


@pytest.mark.parametrize("asks", ["usage", "requests"])
@pytest.mark.parametrize("to", ["account", "plain"])
async def test_a_key_that_moves_is_looked_for_anew(store_url: str, asks: str, to: str) -> None:
    old, new, alice = an_account(a_name(), 100), an_account(a_name(), 3), a_key("alice")
    put_account(store_url, old, [alice])
    async with dispatching(store_url) as dispatcher:
        limiter = Limiter(dispatcher)
        hold = limiter.reservation(alice.kid, await decide(dispatcher, alice.kid, Need(1, 100, 0)))
        take_out(store_url, old, alice.kid)
        if to == "account":
            put_account(store_url, new, [alice])
        else:
            with store_client(store_url) as client:
                client.delete(limits_key(alice.kid))
            put_plain(store_url, alice.kid, 3)
        if asks == "usage":
            usage = await dispatcher.peek(alice.kid)
            assert usage is not None
            assert (usage.used if usage.path is None else usage.path.used[0]) == Amounts(0, 0, 0)
        decisions = await asyncio.gather(*(dispatcher.admit(alice.kid, ONE) for _ in range(5)))
        assert Counter(each.outcome for each in decisions) == {Outcome.ADMITTED: 3, Outcome.REJECTED: 2}
        hold.settle(7)  # where it was counted
        assert await dispatcher.drain(5)
        usage = await dispatcher.peek(alice.kid)
        assert usage is not None
        assert (usage.used if usage.path is None else usage.path.used[0]) == Amounts(3, 3, 3)
        put_account(store_url, old, [alice])
    async with dispatching(store_url) as other:
        assert (await used(other, alice.kid))[0] == Amounts(1, 1, 7)


def put_plain(url: str, kid: str, rpm: int) -> None:
    with store_client(url) as client:
        client.set(limits_key(kid), pack_limits(KeyLimits(rpm, 1_000_000, 1_000_000, 256, "alice")))


# ---- a plain key becomes an account of its own -----------------------------------------------------------------------


def adopt(url: str, kid: str, limit: int) -> None:
    """Turn a plain key into an account of its own with `limit` requests a minute, and an hour's window."""
    windows = (minute(Limit(REQUESTS, limit)), PolicyWindow(HOUR, (), (Limit(REQUESTS, 1_000_000),)))
    body = body_of(AccountPolicy(key=KeyPolicy(kid, "tester", "", windows)))
    script = load_script("adopt")
    of_key = (limits_key, window_key, past_key, policy_key, shared_key, deleted_key, declared_key)
    keys = [each(kid) for each in of_key]
    with store_client(url) as client:
        plain = client.get(limits_key(kid))
        id_ = window_id(KEY_SUBJECT, windows[0])
        assert client.eval(script.source, len(keys), *keys, kid, version_of(body), body, id_, 0, plain) == 1


async def test_a_plain_key_becomes_an_account_under_load(embedded_single: str) -> None:
    """On two nodes, with requests that wait and are under way: the limit of the minute holds through it."""
    kid = declare(embedded_single, new_api_key(), rpm=300)
    async with dispatching(embedded_single) as one, dispatching(embedded_single) as two:
        decisions: list[Any] = []

        async def ask(dispatcher: Any) -> None:
            for _ in range(60):
                decisions.extend(await asyncio.gather(*(dispatcher.admit(kid, ONE) for _ in range(5))))

        asking = [asyncio.create_task(ask(each)) for each in (one, two)]
        await eventually(lambda: len(decisions) >= 100)
        adopt(embedded_single, kid, 300)
        await asyncio.gather(*asking)
        outcomes = Counter(each.outcome for each in decisions)
        assert outcomes == {Outcome.ADMITTED: 300, Outcome.REJECTED: 300}
        assert {each.path is None for each in decisions} == {True, False}
        by_account = sum(each.path is not None and each.outcome is Outcome.ADMITTED for each in decisions)
        assert await used(one, kid) == [Amounts(300, 300, 300), Amounts(by_account, by_account, by_account)]


async def test_what_a_plain_key_held_ends_in_its_account(embedded_single: str) -> None:
    """Reservations, those whose end waits to be sent, and charges of an outage during which it became an account."""
    kid = declare(embedded_single, new_api_key(), rpm=1_000)
    async with behind_proxy(embedded_single, policy=local(1)) as (proxy, dispatcher):
        limiter = Limiter(dispatcher)

        async def hold() -> Any:
            return limiter.reservation(kid, await limiter.admit(kid, Need(10, 100, 0)))

        before = [await hold() for _ in range(3)]
        proxy.pass_requests = False
        under_way = await asyncio.gather(*(hold() for _ in range(3)))
        never_sent = [await hold() for _ in range(3)]
        for early, _, _ in (before, under_way, never_sent):
            early.settle(7)
        adopt(embedded_single, kid, 1_000)
        proxy.pass_requests = True
        await recovered(dispatcher)
        for _, late, overrun in (before, under_way, never_sent):
            late.settle(3)
            overrun.settle(130, 15)
        assert await dispatcher.drain(20)
        assert await used(dispatcher, kid) == [Amounts(9, 3 * 35, 3 * 140), Amounts(0, 0, 0)]


# ---- a slot on the move ----------------------------------------------------------------------------------------------


async def test_keys_that_nobody_has_used_are_decided_while_their_slot_moves() -> None:
    """The script names hashes that don't exist: the server refuses it, and the policy decides."""
    account = an_account(a_name(), 40)
    keys = [a_key(f"k{n}", minute(Limit(REQUESTS, 20))) for n in range(4)]
    async with EmbeddedStore("cluster") as store:
        put_account(store.url, account, keys)
        names, clients = [], {server.port: Redis(port=server.port) for server in store.servers}
        try:
            async with dispatching(store.url, timeout_ms=100, policy=local(2)) as dispatcher:
                assert await admitted(dispatcher, [keys[0].kid], 4) == 4
                assert await dispatcher.find(keys[1].kid) is CredentialState.VALID
                with store_client(store.url) as client:
                    source = client.get_node_from_key(policy_key(account.tag)).port
                target = next(port for port in clients if port != source)
                slot = slot_of(account.tag)
                ids = {port: each.execute_command("CLUSTER", "MYID").decode() for port, each in clients.items()}
                clients[target].execute_command("CLUSTER", "SETSLOT", slot, "IMPORTING", ids[source])
                clients[source].execute_command("CLUSTER", "SETSLOT", slot, "MIGRATING", ids[target])
                names = clients[source].execute_command("CLUSTER", "GETKEYSINSLOT", slot, 100)
                assert len(names) == 3
                for moved, name in enumerate((None, *names)):
                    if name is not None:
                        clients[source].execute_command("MIGRATE", "127.0.0.1", target, name, 0, 5_000)
                    decisions = await asyncio.gather(
                        *(decide(dispatcher, each.kid) for each in (keys[0], keys[1], keys[2 + moved % 2]))
                    )
                    assert all(each.outcome is Outcome.ADMITTED for each in decisions)
                for port in (target, source):
                    clients[port].execute_command("CLUSTER", "SETSLOT", slot, "NODE", ids[target])
                assert await dispatcher.drain(20)
                assert (await used(dispatcher, keys[0].kid))[0] == Amounts(16, 16, 16)
                assert dispatcher.outage.shards.openings == 0, "no shard is to blame"
        finally:
            for each in clients.values():
                each.close()
