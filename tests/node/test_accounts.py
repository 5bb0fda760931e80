"""Requests of an account's keys, decided by a dispatcher on a real store: all limits on the path, all or none."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest
from accounts_in_store import put_account
from dispatching import dispatching
from store_tools import new_api_key

from limiter_node.credentials import key_id
from limiter_node.decisions import Decision, Need, Outcome
from limiter_node.key_states import CredentialState
from limiter_node.limiter.admission import Limiter
from limiter_node.policy import (
    INPUT_TOKENS,
    OUTPUT_TOKENS,
    REQUESTS,
    TOKENS,
    AccountPolicy,
    KeyPolicy,
    Limit,
    PolicyWindow,
    Subject,
)
from limiter_node.store.decisions.dispatcher import Dispatcher

MINUTE, DAY = 60_000, 86_400_000
ONE = Need(1, 1, 0, ("gpt-4o",))


@pytest.fixture(params=["embedded_cluster", "embedded_single"])
def store_url(request: pytest.FixtureRequest) -> str:
    return str(request.getfixturevalue(request.param))


def minute(*limits: Limit, models: tuple[str, ...] = ()) -> PolicyWindow:
    return PolicyWindow(MINUTE, models, limits)


def a_name() -> str:
    return new_api_key().replace("sk-", "acme-")


def a_key(name: str, *windows: PolicyWindow, team: str = "") -> KeyPolicy:
    return KeyPolicy(key_id(new_api_key()), name, team, windows)


async def decide(dispatcher: Dispatcher, kid: str, need: Need = ONE) -> Decision:
    if not dispatcher.knows(kid):
        assert await dispatcher.find(kid) is CredentialState.VALID
    return await dispatcher.admit(kid, need)


async def test_the_account_binds_all_its_keys(store_url: str) -> None:
    account = AccountPolicy(a_name(), (Subject("", (minute(Limit(REQUESTS, 5)),)),))
    alice, bob = a_key("alice", minute(Limit(REQUESTS, 3))), a_key("bob")
    put_account(store_url, account, [alice, bob])
    async with dispatching(store_url) as dispatcher:
        decisions = [await decide(dispatcher, alice.kid) for _ in range(4)]
        assert [each.outcome for each in decisions] == [Outcome.ADMITTED] * 3 + [Outcome.REJECTED]
        rejected = decisions[-1]
        assert rejected.path is not None
        assert rejected.path.plan.windows[rejected.path.exceeded].subject == f"{account.name}/alice"
        assert [used.requests for used in rejected.path.used] == [3, 3]
        outcomes = Counter([(await decide(dispatcher, bob.kid)).outcome for _ in range(4)])
        assert outcomes == {Outcome.ADMITTED: 2, Outcome.REJECTED: 2}
        usage = await dispatcher.peek(alice.kid)
        assert usage is not None
        assert usage.path is not None
        assert [used.requests for used in usage.path.used] == [5, 3]


async def test_settles_give_back_in_every_window(store_url: str) -> None:
    account = AccountPolicy(a_name(), (Subject("", (minute(Limit(TOKENS, 1_000)),)),))
    alice = a_key("alice", PolicyWindow(DAY, (), (Limit(OUTPUT_TOKENS, 500),)))
    put_account(store_url, account, [alice])
    async with dispatching(store_url) as dispatcher:
        limiter = Limiter(dispatcher)
        decision = await decide(dispatcher, alice.kid, Need(100, 400, 0))
        reservation = limiter.reservation(alice.kid, decision)
        assert (await decide(dispatcher, alice.kid, Need(0, 101, 0))).outcome is Outcome.REJECTED
        reservation.settle(50)
        await dispatcher.drain(5)
        usage = await dispatcher.peek(alice.kid)
        assert usage is not None
        assert usage.path is not None
        assert list(usage.path.used) == [(1, 100, 50), (1, 100, 50)]


async def test_limits_of_models_hold_for_those_only(store_url: str) -> None:
    account = AccountPolicy(a_name(), (Subject("", (minute(Limit(INPUT_TOKENS, 10), models=("o3*",)),)),))
    alice = a_key("alice")
    put_account(store_url, account, [alice])
    async with dispatching(store_url) as dispatcher:
        assert (await decide(dispatcher, alice.kid, Need(11, 0, 0, ("o3-mini",)))).outcome is Outcome.NEVER_FITS
        assert (await decide(dispatcher, alice.kid, Need(11, 0, 0, ("gpt-4o",)))).outcome is Outcome.ADMITTED
        assert (await decide(dispatcher, alice.kid, Need(11, 0, 0, ("mine", "O3")))).outcome is Outcome.NEVER_FITS


async def test_a_changed_policy_counts_from_the_next_decision(store_url: str) -> None:
    name, alice = a_name(), a_key("alice")
    put_account(store_url, AccountPolicy(name, (Subject("", (minute(Limit(REQUESTS, 2)),)),)), [alice])
    async with dispatching(store_url) as dispatcher, dispatching(store_url) as other:
        for each in (dispatcher, other):
            assert (await decide(each, alice.kid)).outcome is Outcome.ADMITTED
        assert (await decide(dispatcher, alice.kid)).outcome is Outcome.REJECTED
        put_account(store_url, AccountPolicy(name, (Subject("", (minute(Limit(REQUESTS, 3)),)),)), [alice])
        assert (await decide(other, alice.kid)).outcome is Outcome.ADMITTED
        assert (await decide(dispatcher, alice.kid)).outcome is Outcome.REJECTED


@pytest.mark.parametrize("binding", ["account", "team", "key"])
async def test_nodes_that_race_admit_the_limit_exactly(store_url: str, binding: str) -> None:
    limit = {each: 50 if each == binding else 1_000_000 for each in ("account", "team", "key")}
    account = AccountPolicy(
        a_name(),
        (
            Subject("", (minute(Limit(REQUESTS, limit["account"])),)),
            Subject("research", (minute(Limit(REQUESTS, limit["team"])),)),
        ),
    )
    keys = [a_key(f"k{n}", minute(Limit(REQUESTS, limit["key"])), team="research") for n in range(4)]
    put_account(store_url, account, keys)
    async with dispatching(store_url) as one, dispatching(store_url) as two, dispatching(store_url) as three:
        nodes = (one, two, three)
        asked = [decide(nodes[n % 3], keys[n % 4].kid) for n in range(600)]
        decisions = await asyncio.gather(*asked)
        admitted = [each for each in decisions if each.outcome is Outcome.ADMITTED]
        assert len(admitted) == (200 if binding == "key" else 50)
        usage = await one.peek(keys[0].kid)
        assert usage is not None
        assert usage.path is not None
        assert [used.requests for used in usage.path.used][:2] == [len(admitted)] * 2
