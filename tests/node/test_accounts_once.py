"""Accounts under faults: each request and each token is counted once, in each window of its path."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from accounts_in_store import put_account
from dispatching import dispatching
from node_commands import eventually
from store_tools import store_client
from test_accounts import DAY, a_key, a_name, decide, minute
from test_degraded import behind_proxy, local, recovered

from limiter_node.decisions import Need, Outcome
from limiter_node.errors import StoreUnavailable
from limiter_node.key_states import CredentialState
from limiter_node.limiter.admission import Limiter
from limiter_node.limiter.policies import policy
from limiter_node.limits import Amounts
from limiter_node.policy import OUTPUT_TOKENS, REQUESTS, AccountPolicy, KeyPolicy, Limit, PolicyWindow, Subject
from limiter_node.store.decisions.dispatcher import Dispatcher
from limiter_node.store.decisions.redeclare_accounts import AccountRedeclarer
from limiter_node.store.keyspace import member_key, policy_key, shared_key

ONE = Need(1, 1, 0, ("gpt-4o",))
HOUR = 3_600_000


async def used(dispatcher: Dispatcher, kid: str) -> list[Amounts]:
    """What counts in each window of the key's path, by the store."""
    usage = await dispatcher.peek(kid)
    assert usage is not None
    assert not usage.degraded
    assert usage.path is not None
    return list(usage.path.used)


def an_account(url: str, *keys: KeyPolicy, limit: int = 1_000_000) -> AccountPolicy:
    """An account with the windows of a minute and of a day, its keys' own come after them."""
    windows = (minute(Limit(REQUESTS, limit)), PolicyWindow(DAY, (), (Limit(REQUESTS, limit),)))
    account = AccountPolicy(a_name(), (Subject("", windows),))
    put_account(url, account, keys)
    return account


async def admitted(dispatcher: Dispatcher, kids: list[str], count: int, need: Need = ONE) -> int:
    """How many requests of each of these keys the store or a policy admits, all at once."""
    decisions = await asyncio.gather(*(decide(dispatcher, kid, need) for kid in kids for _ in range(count)))
    return sum(each.outcome is Outcome.ADMITTED for each in decisions)


# ---- replies that are lost or make no sense --------------------------------------------------------------------------


async def test_a_batch_whose_reply_was_lost_is_answered_from_the_record(embedded_single: str) -> None:
    alice, bob = a_key("alice", minute(Limit(REQUESTS, 3))), a_key("bob")
    account = an_account(embedded_single, alice, bob, limit=5)
    async with behind_proxy(embedded_single, timeout_ms=20_000) as (proxy, dispatcher):
        assert await admitted(dispatcher, [alice.kid, bob.kid], 1) == 2
        proxy.swallowed.clear()
        proxy.pass_replies = False
        asked = [asyncio.ensure_future(decide(dispatcher, each.kid)) for each in (alice, bob) for _ in range(3)]
        await proxy.swallowed.wait()
        proxy.pass_replies = True
        proxy.reset_all()
        decisions = await asyncio.gather(*asked)
        assert sum(each.outcome is Outcome.ADMITTED for each in decisions) == 3
        rejected = {
            each.path.plan.windows[each.path.exceeded].subject
            for each in decisions
            if each.path and each.dimension >= 0
        }
        assert rejected <= {account.name, f"{account.name}/alice"}
        assert (await used(dispatcher, bob.kid))[:2] == [Amounts(5, 5, 5)] * 2


@pytest.mark.parametrize(
    "garbage", [b"\0", b"\0" * 16, b"\1" * 43, b"\4", b"\3\3", b"\7", b"", 0, None, [b"\0"], "+63"]
)
async def test_a_reply_that_makes_no_sense_is_asked_for_again(embedded_single: str, garbage: Any) -> None:
    alice = a_key("alice")
    an_account(embedded_single, alice)
    async with dispatching(embedded_single) as dispatcher:
        assert await admitted(dispatcher, [alice.kid], 1) == 1
        owner = dispatcher._path_replies
        taken, original = [], owner.on_batch_reply

        def replace(batch: Any, reply: Any) -> None:
            taken.append(reply)
            original(batch, reply if len(taken) > 1 else reply + bytes(63) if garbage == "+63" else garbage)

        owner.on_batch_reply = replace  # type: ignore[method-assign]
        assert (await dispatcher.admit(alice.kid, ONE)).outcome is Outcome.ADMITTED
        assert len(taken) == 2
        assert dispatcher.state().errors["unreadable"] == 1
        assert await used(dispatcher, alice.kid) == [Amounts(2, 2, 2)] * 2


async def test_a_request_that_touches_no_window_is_asked_once(embedded_single: str) -> None:
    account, alice = (
        AccountPolicy(a_name(), (Subject("", (minute(Limit(REQUESTS, 1), models=("o3*",)),)),)),
        a_key("alice"),
    )
    put_account(embedded_single, account, [alice])
    async with dispatching(embedded_single) as dispatcher:
        limiter = Limiter(dispatcher)
        for _ in range(3):
            decision = await decide(dispatcher, alice.kid, Need(5, 5, 0, ("gpt-4o",)))
            assert decision.outcome is Outcome.ADMITTED
            limiter.reservation(alice.kid, decision).settle(1)
        assert await dispatcher.drain(5)
        assert dispatcher.state().errors["failed"] == dispatcher.state().errors.get("unreadable", 0) == 0


async def test_callers_that_leave_give_their_tokens_back(embedded_single: str) -> None:
    alice = a_key("alice")
    an_account(embedded_single, alice)
    async with behind_proxy(embedded_single, timeout_ms=20_000) as (proxy, dispatcher):
        assert await admitted(dispatcher, [alice.kid], 1) == 1
        proxy.swallowed.clear()
        proxy.pass_replies = False
        asked = [dispatcher.admit(alice.kid, Need(10, 10, 0)) for _ in range(3)]
        await proxy.swallowed.wait()
        unsent = dispatcher.admit(alice.kid, Need(10, 10, 0))
        for each in (*asked[:2], unsent):
            each.cancel()
        proxy.pass_replies = True
        proxy.reset_all()
        assert (await asked[2]).outcome is Outcome.ADMITTED
        assert await dispatcher.drain(20)
        assert await used(dispatcher, alice.kid) == [Amounts(4, 11, 11)] * 2
        account = dispatcher._queues[alice.kid].sender
        assert account.waiting == 0


# ---- the store is away -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lost", ["pass_requests", "pass_replies"])
async def test_a_node_goes_on_within_its_shares_and_all_is_counted_once(embedded_single: str, lost: str) -> None:
    alice = a_key("alice", minute(Limit(REQUESTS, 12)))
    bob = a_key("bob", PolicyWindow(HOUR, (), (Limit(REQUESTS, 9),)))
    an_account(embedded_single, alice, bob, limit=30)
    async with behind_proxy(embedded_single, policy=local(2)) as (proxy, dispatcher):
        assert await admitted(dispatcher, [alice.kid, bob.kid], 1) == 2
        setattr(proxy, lost, False)
        # Alice: a share of 6, one of it used. Bob: half of the 8 that were left.
        assert await admitted(dispatcher, [alice.kid], 10) == 5
        assert await admitted(dispatcher, [bob.kid], 10) == 4
        refused = await dispatcher.admit(bob.kid, ONE)
        assert refused.path is not None
        assert (refused.degraded, refused.path.plan.windows[refused.path.exceeded].per) == ("local", "1h")
        assert refused.path.used[-1].requests == 9, "nothing is left for its callers here"
        usage = await dispatcher.peek(alice.kid)
        assert usage is not None
        assert usage.path is not None
        # Of shares of 15, 15 and 6 it has admitted 2 + 9, 9 since the store told 2, and all.
        assert [each.requests for each in usage.path.used] == [26, 25, 12]
        assert await admitted(dispatcher, [alice.kid, bob.kid], 1, Need(0, 0, 0)) == 0
        setattr(proxy, lost, True)
        await recovered(dispatcher)
        assert await used(dispatcher, alice.kid) == [Amounts(11, 11, 11)] * 2 + [Amounts(6, 6, 6)]
        assert await used(dispatcher, bob.kid) == [Amounts(11, 11, 11)] * 2 + [Amounts(5, 5, 5)]
        assert await admitted(dispatcher, [bob.kid], 5) == 4


async def test_settles_reach_every_window_whoever_admitted_and_whenever_it_ends(embedded_single: str) -> None:
    alice = a_key("alice", PolicyWindow(HOUR, (), (Limit(OUTPUT_TOKENS, 1_000_000),)))
    an_account(embedded_single, alice)
    async with behind_proxy(embedded_single, policy=local(1)) as (proxy, dispatcher):
        limiter = Limiter(dispatcher)
        assert await limiter.find(alice.kid) is None

        async def hold() -> Any:
            return limiter.reservation(alice.kid, await limiter.admit(alice.kid, Need(10, 100, 0)))

        before = [await hold() for _ in range(4)]
        proxy.pass_replies = False
        under_way = await asyncio.gather(*(hold() for _ in range(4)))
        never_sent = [await hold() for _ in range(4)]
        for early, refunded, _, _ in (before, under_way, never_sent):
            early.settle(7)
            refunded.refund()
        proxy.pass_replies = True
        await recovered(dispatcher)
        for _, _, late, overrun in (before, under_way, never_sent):
            late.settle(3)
            overrun.settle(130, 15)
        assert await dispatcher.drain(20)
        assert await used(dispatcher, alice.kid) == [Amounts(12, 3 * (10 + 0 + 10 + 15), 3 * (7 + 0 + 3 + 130))] * 3


async def test_a_long_window_that_the_store_has_not_told_admits_nothing(embedded_single: str) -> None:
    alice = a_key("alice", PolicyWindow(HOUR, (), (Limit(REQUESTS, 100),)))
    bob = a_key("bob")
    account = AccountPolicy(a_name(), (Subject("", (minute(Limit(REQUESTS, 100)),)),))
    put_account(embedded_single, account, [alice, bob])
    async with behind_proxy(embedded_single, policy=local(1)) as (proxy, dispatcher):
        assert await dispatcher.find(alice.kid) is CredentialState.VALID
        assert await dispatcher.find(bob.kid) is CredentialState.VALID
        proxy.pass_requests = False
        with pytest.raises(StoreUnavailable):
            await dispatcher.admit(alice.kid, ONE)
        assert (await dispatcher.admit(bob.kid, ONE)).degraded == "local", "a minute needs no word of the store"
        usage = await dispatcher.peek(bob.kid, ("gpt-4o",))
        assert usage is not None
        assert usage.path is not None
        assert (usage.degraded, usage.path.used) == ("local", (Amounts(1, 1, 1),))


async def test_closed_refuses_and_open_admits_all(embedded_single: str) -> None:
    alice = a_key("alice", PolicyWindow(HOUR, (), (Limit(REQUESTS, 2),)))
    an_account(embedded_single, alice)
    async with behind_proxy(embedded_single) as (proxy, dispatcher):
        assert await admitted(dispatcher, [alice.kid], 1) == 1
        proxy.pass_requests = False
        with pytest.raises(StoreUnavailable):
            await dispatcher.admit(alice.kid, ONE)
    async with behind_proxy(embedded_single, policy=lambda _: policy("open", lambda: 0)) as (proxy, dispatcher):
        assert await dispatcher.find(alice.kid) is CredentialState.VALID
        proxy.pass_requests = False
        assert await admitted(dispatcher, [alice.kid], 9) == 9
        proxy.pass_requests = True
        await recovered(dispatcher)
        assert await used(dispatcher, alice.kid) == [Amounts(10, 10, 10)] * 3


async def test_charges_join_by_path_and_all_leave_before_the_next_request(embedded_single: str) -> None:
    """More keys than a batch has windows; they ask by turns, for two models."""
    keys = [a_key(f"k{n}", minute(Limit(REQUESTS, 1_000))) for n in range(70)]
    windows = (minute(Limit(REQUESTS, 280)), minute(Limit(REQUESTS, 1_000), models=("o3*",)))
    put_account(embedded_single, AccountPolicy(a_name(), (Subject("", windows),)), keys)
    async with behind_proxy(embedded_single, policy=local(1)) as (proxy, dispatcher):
        for each in keys:
            assert await dispatcher.find(each.kid) is CredentialState.VALID
        proxy.pass_requests = False
        await asyncio.gather(dispatcher.admit(keys[0].kid, ONE))
        needs = [Need(1, 1, 0, (model,)) for model in ("gpt-4o", "o3")]
        for _ in range(2):
            for each in keys:
                for need in needs:
                    assert dispatcher.admit(each.kid, need).done()
        charges = dispatcher._queues[keys[0].kid].sender.charges
        ticks = {each.bucket for each in charges}
        assert len(charges) <= len(keys) * 2 * len(ticks)
        proxy.pass_requests = True
        await eventually(lambda: not dispatcher.outage.is_on)
        # All of the account's limit is in charges that aren't sent yet.
        assert (await dispatcher.admit(keys[-1].kid, ONE)).outcome is Outcome.REJECTED
        await recovered(dispatcher)
        assert (await used(dispatcher, keys[0].kid))[0] == Amounts(280, 280, 280)


async def test_what_was_admitted_alone_still_counts_while_its_charges_wait(embedded_single: str) -> None:
    """A long window is not admitted twice if the store goes away again before it has all charges."""
    alice = a_key("alice", PolicyWindow(HOUR, (), (Limit(REQUESTS, 10),)))
    an_account(embedded_single, alice)
    async with behind_proxy(embedded_single, policy=local(1)) as (proxy, dispatcher):
        assert await admitted(dispatcher, [alice.kid], 1) == 1
        proxy.pass_requests = False
        assert await admitted(dispatcher, [alice.kid], 20) == 9
        knowledge = dispatcher._queues[alice.kid].account.knowledge
        hour = knowledge._windows[alice.kid, dispatcher._queues[alice.kid].whole_plan().windows[-1].id]
        assert (hour.told, hour.since_told) == (Amounts(1, 1, 1), [9, 9, 9])
        proxy.pass_requests = True
        await recovered(dispatcher)
        assert (await dispatcher.admit(alice.kid, ONE)).outcome is Outcome.REJECTED
        assert (hour.told, hour.since_told) == (Amounts(10, 10, 10), [0, 0, 0])


# ---- the store has lost something ------------------------------------------------------------------------------------


def everything(account: AccountPolicy, *keys: KeyPolicy) -> list[str]:
    return [shared_key(account.tag), *(member_key(account.tag, each.kid) for each in keys)]


@pytest.mark.parametrize("lost", ["all", "rolled back"])
async def test_lost_counts_are_charged_again_in_each_window(embedded_single: str, lost: str) -> None:
    alice = a_key("alice", minute(Limit(REQUESTS, 10)))
    bob = a_key("bob", PolicyWindow(HOUR, (), (Limit(REQUESTS, 10),)))
    account = an_account(embedded_single, alice, bob, limit=100)
    names = everything(account, alice, bob)
    async with dispatching(embedded_single) as dispatcher:
        limiter = Limiter(dispatcher)
        held = limiter.reservation(alice.kid, await decide(dispatcher, alice.kid, Need(10, 100, 0)))
        assert await admitted(dispatcher, [alice.kid, bob.kid], 3) == 6
        with store_client(embedded_single) as client:
            values = [client.dump(each) for each in names]
        overrun = limiter.reservation(bob.kid, await decide(dispatcher, bob.kid, Need(10, 100, 0)))
        settled = limiter.reservation(bob.kid, await decide(dispatcher, bob.kid, Need(10, 100, 0)))
        settled.settle(40)
        assert await dispatcher.drain(5)
        with store_client(embedded_single) as client:
            client.delete(*names)
            for each, value in zip(names, values, strict=True):
                if lost == "rolled back":
                    client.restore(each, 900_000, value)
        assert await admitted(dispatcher, [alice.kid, bob.kid], 1) == 2
        held.settle(50)
        overrun.settle(120)
        assert await dispatcher.drain(5)
        assert dispatcher.state().losses["counts"] == 1
        exact = [Amounts(11, 38, 218), Amounts(11, 38, 218), Amounts(5, 14, 54), Amounts(6, 24, 164)]
        counted = [*await used(dispatcher, alice.kid), (await used(dispatcher, bob.kid))[-1]]
        if lost == "all":
            assert counted == exact
        # What an older snapshot still has of a cell is charged once more: a sixtieth of each window, on the safe side.
        kept = [Amounts(7, 16, 106), Amounts(7, 16, 106), Amounts(4, 13, 103), Amounts(3, 3, 3)]
        for found, least, more in zip(counted, exact, kept, strict=True):
            assert all(each <= n <= each + m for n, each, m in zip(found, least, more, strict=True))
        queue = dispatcher._queues[alice.kid].account
        assert not queue.settles
        assert queue.forget_recharges(), "a day's window counts them still"


async def test_nothing_is_charged_again_where_nothing_was_lost(embedded_single: str) -> None:
    """A new node cleans up while another has been idle: by the longest window in use, not by its own batch's."""
    alice, bob = a_key("alice", PolicyWindow(DAY, (), (Limit(REQUESTS, 10),))), a_key("bob")
    account = AccountPolicy(a_name(), (Subject("", (minute(Limit(REQUESTS, 100)),)),))
    put_account(embedded_single, account, [alice, bob])
    async with dispatching(embedded_single) as dispatcher, dispatching(embedded_single) as other:
        assert await admitted(dispatcher, [alice.kid], 3) == 3
        knowledge = dispatcher._queues[alice.kid].account.knowledge
        with store_client(embedded_single) as client:  # as if a quarter of an hour had passed
            name = dispatcher.incarnation
            record = client.hget(shared_key(account.tag), name)
            time_ms = int.from_bytes(record[8:14], "little") - 900_000
            client.hset(shared_key(account.tag), name, record[:8] + time_ms.to_bytes(6, "little") + record[14:])
        assert knowledge.expected() > 0
        assert await admitted(other, [bob.kid], 1) == 1
        assert await admitted(dispatcher, [alice.kid], 1) == 1
        assert dispatcher.state().losses["counts"] == 0
        assert (await used(dispatcher, alice.kid))[-1] == Amounts(4, 4, 4)


async def test_settles_of_an_account_that_is_gone_are_kept_for_a_while(
    embedded_single: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    alice = a_key("alice")
    account = an_account(embedded_single, alice)
    # The account was revoked: no node declares it again.
    monkeypatch.setattr(AccountRedeclarer, "_account_word", lambda *_: None)
    async with dispatching(embedded_single) as dispatcher:
        limiter = Limiter(dispatcher)
        holds = [
            limiter.reservation(alice.kid, await decide(dispatcher, alice.kid, Need(10, 100, 0))) for _ in range(2)
        ]
        with store_client(embedded_single) as client:
            client.delete(policy_key(account.tag))
        holds[0].settle(5)
        queue = dispatcher._queues[alice.kid].account
        await eventually(lambda: queue.missing_since_s is not None)
        numbers = dispatcher._batches.number
        assert dispatcher.outage.holds(queue), "sent again later, not at once"
        put_account(embedded_single, account, [alice])
        assert await dispatcher.drain(20)
        assert dispatcher._batches.number <= numbers + 3
        assert await used(dispatcher, alice.kid) == [Amounts(2, 20, 105)] * 2
        with store_client(embedded_single) as client:
            client.delete(policy_key(account.tag))
        monkeypatch.setattr("limiter_node.store.decisions.reconciliation._MISSING_S", 0.0)
        holds[1].settle(5)
        assert await dispatcher.drain(20)
        assert not queue.settles
        assert (await decide_anyway(dispatcher, alice.kid)) is Outcome.UNKNOWN_KEY


async def decide_anyway(dispatcher: Dispatcher, kid: str) -> Outcome:
    return (await dispatcher.admit(kid, ONE)).outcome


async def test_stopping_waits_for_settles_and_charges(embedded_single: str) -> None:
    alice = a_key("alice")
    an_account(embedded_single, alice)
    async with behind_proxy(embedded_single, policy=local(1)) as (proxy, dispatcher):
        limiter = Limiter(dispatcher)
        assert await limiter.find(alice.kid) is None
        hold = limiter.reservation(alice.kid, await limiter.admit(alice.kid, Need(10, 100, 0)))
        proxy.pass_requests = False
        assert (await dispatcher.admit(alice.kid, ONE)).degraded == "local"
        hold.settle(5)
        assert not await dispatcher.drain(0.2)
        proxy.pass_requests = True
        assert await dispatcher.drain(20)
        assert await used(dispatcher, alice.kid) == [Amounts(2, 11, 6)] * 2
