"""Paths while the store is away: what a node admits, what callers are told of it, and what becomes of the charges."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from typing import Any

import orjson
import pytest
from accounts_in_store import put_account
from dispatching import dispatching
from node_commands import eventually
from redis import Redis
from store_tools import declare, new_api_key
from test_accounts import a_key, a_name, decide, minute
from test_accounts_once import HOUR, ONE, admitted, used
from test_degraded import BUDGET_MS, behind_proxy, local, recovered

from limiter_node.decisions import Decision, Need, Outcome, Usage
from limiter_node.errors import StoreUnavailable
from limiter_node.http.responses.path_headers import PathHeaders
from limiter_node.http.responses.rate_limits_body import rate_limits
from limiter_node.key_states import CredentialState
from limiter_node.limiter.admission import Limiter
from limiter_node.limiter.policies import policy
from limiter_node.limits import Amounts
from limiter_node.policy import (
    AUDIT,
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
from limiter_node.store import unsent_charges
from limiter_node.store.accounts import batch_making
from limiter_node.store.decisions.dispatcher import Dispatcher
from limiter_node.store.embedded.stores import EmbeddedStore

MINUTE = 60_000


def hour(*limits: Limit) -> PolicyWindow:
    return PolicyWindow(HOUR, (), limits)


def put(url: str, keys: list[KeyPolicy], *windows: PolicyWindow, teams: tuple[Subject, ...] = ()) -> AccountPolicy:
    """An account with these windows, teams and keys."""
    account = AccountPolicy(a_name(), (Subject("", windows), *teams))
    put_account(url, account, keys)
    return account


async def known_usage(dispatcher: Dispatcher, kid: str) -> Usage:
    """The usage that the node tells by itself."""
    usage = await dispatcher.peek(kid)
    assert isinstance(usage, Usage)
    assert usage.degraded
    return usage


def left_in_headers(decision: Decision) -> dict[str, int]:
    """What `RateLimit` says is left of each limit, by unit and length."""
    [line] = re.findall("RateLimit: (.*)\r\n", PathHeaders().lines(decision))
    return {name: int(left) for name, left in re.findall(r'"[^"]* ([a-z_]+/\w+)";r=(\d+)', line)}


def left_in_body(usage: Usage) -> dict[str, int]:
    """The same by ``GET /v1/rate_limits``."""
    body = orjson.loads(rate_limits(usage, MINUTE, ""))
    return {f"{each['unit']}/{each['window']}": each["remaining"] for each in body["limits_on_path"]}


# ---- what is admitted, and what callers are told of it ---------------------------------------------------------------


@pytest.mark.parametrize(("per", "tokens_left", "input_left"), [("1m", 40, 35), ("1h", 45, 37)])
async def test_a_limit_of_tokens_is_shared_out_and_callers_are_told_what_is_left(
    embedded_single: str, per: str, tokens_left: int, input_left: int
) -> None:
    """Half of it less what the node has used; in a longer window, half of what was left."""
    per_ms = {"1m": MINUTE, "1h": HOUR}[per]
    alice = a_key("alice", PolicyWindow(per_ms, (), (Limit(INPUT_TOKENS, 80), Limit(TOKENS, 100))))
    put(embedded_single, [alice])
    async with behind_proxy(embedded_single, policy=local(2)) as (proxy, dispatcher):
        assert (await decide(dispatcher, alice.kid, Need(5, 5, 0))).outcome is Outcome.ADMITTED
        proxy.pass_requests = False
        too_much = await dispatcher.admit(alice.kid, Need(0, tokens_left + 1, 0))
        told = {f"input_tokens/{per}": input_left, f"tokens/{per}": tokens_left}
        assert (too_much.outcome, too_much.dimension, too_much.degraded) == (Outcome.REJECTED, TOKENS, "local")
        assert left_in_headers(too_much) == told
        assert left_in_body(await known_usage(dispatcher, alice.kid)) == told
        last = await dispatcher.admit(alice.kid, Need(3, tokens_left - 3, 0))
        assert last.outcome is Outcome.ADMITTED
        assert left_in_headers(last) == {f"input_tokens/{per}": input_left - 3, f"tokens/{per}": 0}
        rejected = await dispatcher.admit(alice.kid, Need(0, 1, 0))
        assert (rejected.outcome, rejected.dimension) == (Outcome.REJECTED, TOKENS)
        # Its own tokens leave its window in a minute; when those of others do, it can't know.
        assert 55_000 < rejected.retry_after_ms < 62_000 if per == "1m" else rejected.retry_after_ms == 1_000
        assert min(each.input_tokens for each in rejected.path.reset_ms) > 55_000 if rejected.path else False
        proxy.pass_requests = True
        await recovered(dispatcher)
        assert await used(dispatcher, alice.kid) == [Amounts(2, 8, 2 + tokens_left)]


async def test_a_request_that_one_window_rejects_is_in_no_other(embedded_single: str) -> None:
    alice = a_key("alice", hour(Limit(REQUESTS, 3)), team="team")
    bob = a_key("bob", team="team")
    teams = (Subject("team", (minute(Limit(REQUESTS, 20)), hour(Limit(REQUESTS, 20)))),)
    put(embedded_single, [alice, bob], minute(Limit(REQUESTS, 30)), hour(Limit(REQUESTS, 30)), teams=teams)
    async with behind_proxy(embedded_single, policy=local(1)) as (proxy, dispatcher):
        assert await admitted(dispatcher, [alice.kid, bob.kid], 1) == 2
        proxy.pass_requests = False
        assert await admitted(dispatcher, [alice.kid], 50) == 2
        path = (await known_usage(dispatcher, bob.kid)).path
        assert path is not None
        assert [each.requests for each in path.used] == [4, 4, 4, 4]
        assert await admitted(dispatcher, [bob.kid], 50) == 16
        proxy.pass_requests = True
        await recovered(dispatcher)
        assert await used(dispatcher, alice.kid) == [Amounts(20, 20, 20)] * 4 + [Amounts(3, 3, 3)]


async def test_audited_limits_reject_nothing_and_need_no_word_of_the_store(embedded_single: str) -> None:
    """Nor are they shared out: they name what the node knows to be beyond them."""
    spied = Limit(REQUESTS, 2, AUDIT, "spied")
    alice = a_key("alice", PolicyWindow(HOUR, (), (Limit(REQUESTS, 0, AUDIT),)), PolicyWindow(MINUTE, (), (spied,)))
    bob = a_key("bob")
    put(embedded_single, [alice, bob], minute(Limit(TOKENS, 100), Limit(INPUT_TOKENS, 90, AUDIT, "of input")))
    async with behind_proxy(embedded_single, policy=local(2)) as (proxy, dispatcher):
        assert await admitted(dispatcher, [bob.kid], 1) == 1
        assert await dispatcher.find(alice.kid) is CredentialState.VALID
        proxy.pass_requests = False
        decisions = [await dispatcher.admit(alice.kid, ONE) for _ in range(4)]
        assert {each.outcome for each in decisions} == {Outcome.ADMITTED}
        lines = [PathHeaders().lines(each) for each in decisions]
        assert ["spied" in each for each in lines] == [False, False, True, True]
        assert not any("of input" in each for each in lines)


async def test_the_share_follows_the_number_of_nodes(embedded_single: str) -> None:
    """Also during an outage, in which this node hears of it by another shard."""
    fleet = [4]
    alice, bob = a_key("alice", minute(Limit(REQUESTS, 12))), a_key("bob", hour(Limit(REQUESTS, 12)))
    put(embedded_single, [alice, bob], minute(Limit(REQUESTS, 1_000)))
    async with behind_proxy(embedded_single, policy=lambda _: policy("local", lambda: fleet[0])) as (proxy, dispatcher):
        assert await admitted(dispatcher, [alice.kid, bob.kid], 1) == 2
        proxy.pass_requests = False
        # Alice has used 1 of 12 ÷ N; of bob's hour 11 were left.
        for fleet[0], share in ((4, 2), (2, 3), (3, 0), (1, 6)):
            for each in (alice, bob):
                assert await admitted(dispatcher, [each.kid], 13) == share
        fleet[0] = 0
        with pytest.raises(StoreUnavailable):
            await dispatcher.admit(alice.kid, ONE)


async def test_what_is_given_back_alone_is_there_again_and_an_overrun_is_not(embedded_single: str) -> None:
    alice = a_key("alice", hour(Limit(OUTPUT_TOKENS, 200)))
    put(embedded_single, [alice])
    async with behind_proxy(embedded_single, policy=local(1)) as (proxy, dispatcher):
        limiter = Limiter(dispatcher)
        assert await limiter.find(alice.kid) is None

        async def hold(output_tokens: int) -> Any:
            return limiter.reservation(alice.kid, await limiter.admit(alice.kid, Need(0, output_tokens, 0)))

        async def fits(output_tokens: int) -> bool:
            return (await limiter.admit(alice.kid, Need(0, output_tokens, 0))).outcome is Outcome.ADMITTED

        before = await hold(50)
        proxy.pass_requests = False
        alone, cut_short = await hold(100), await hold(50)
        assert not await fits(1)
        alone.settle(30)
        assert not await fits(71)
        before.settle(80)  # 30 beyond
        assert not await fits(41)
        cut_short.settle(60)  # 10 beyond
        assert not await fits(31)
        assert await fits(30)
        proxy.pass_requests = True
        await recovered(dispatcher)
        assert (await used(dispatcher, alice.kid))[0].output_tokens == 200


# ---- charges ---------------------------------------------------------------------------------------------------------


async def test_what_the_store_has_been_told_counts_once_in_the_next_outage(
    embedded_single: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second outage begins when some of the first one's charges have been delivered."""
    monkeypatch.setattr(batch_making, "MAX_BATCH", 1)
    alice, bob = a_key("alice"), a_key("bob")
    put(embedded_single, [alice, bob], hour(Limit(REQUESTS, 20)))
    async with behind_proxy(embedded_single, policy=local(1)) as (proxy, dispatcher):
        assert await admitted(dispatcher, [alice.kid, bob.kid], 1) == 2
        proxy.pass_requests = False
        assert await admitted(dispatcher, [alice.kid], 3) == 3
        assert await admitted(dispatcher, [bob.kid], 4) == 4
        owner = dispatcher._path_replies
        original: Callable[..., None] = owner.on_batch_reply
        delivered = asyncio.Event()

        def on_reply(batch: Any, reply: bytes) -> None:
            original(batch, reply)
            if batch.charges and not delivered.is_set():
                proxy.pass_requests = False
                delivered.set()

        owner.on_batch_reply = on_reply  # type: ignore[method-assign]
        proxy.reset_all()
        proxy.pass_requests = True
        await delivered.wait()
        assert dispatcher._queues[bob.kid].sender.in_flight is not None
        assert await admitted(dispatcher, [alice.kid], 20) == 20 - 2 - 3 - 4
        proxy.reset_all()
        proxy.pass_requests = True
        await recovered(dispatcher)
        assert await used(dispatcher, alice.kid) == [Amounts(20, 20, 20)]
        assert dispatcher.state().unsent_charges == 0


async def test_a_batch_that_never_runs_leaves_its_charges_and_settles(caplog: pytest.LogCaptureFixture) -> None:
    """The store refuses for longer than calls are retried; what it has to count is of a window that lasts longer."""
    async with (
        EmbeddedStore("single") as store,
        dispatching(store.url, timeout_ms=BUDGET_MS, policy=local(1)) as dispatcher,
    ):
        dispatcher._router._give_up_s = 0.5
        alice = a_key("alice")
        put(store.url, [alice], hour(Limit(OUTPUT_TOKENS, 10_000)))
        limiter = Limiter(dispatcher)
        holds = [
            limiter.reservation(alice.kid, await decide(dispatcher, alice.kid, Need(10, 100, 0))) for _ in range(2)
        ]
        account = dispatcher._queues[alice.kid].sender
        with Redis(port=store.servers[0].port) as client:
            client.config_set("maxmemory", 1)
            holds[0].settle(40)
            holds[1].settle(150)
            alone = [await limiter.admit(alice.kid, Need(10, 100, 0)) for _ in range(3)]
            assert {each.degraded for each in alone} == {"local"}
            given_up = account.in_flight
            assert given_up is not None
            await eventually(lambda: account.in_flight is not given_up)
            client.config_set("maxmemory", 0)
        await recovered(dispatcher)
        assert await used(dispatcher, alice.kid) == [Amounts(5, 50, 40 + 150 + 300)]
    assert not any(record.__dict__.get("event") == "settles_lost" for record in caplog.records)


@pytest.mark.parametrize("change", ["another length", "other team", "deleted"])
async def test_charges_go_to_the_windows_of_their_admission_whatever_has_changed(
    embedded_single: str, change: str
) -> None:
    alice, bob = a_key("alice", hour(Limit(REQUESTS, 100)), team="a"), a_key("bob", team="a")
    a, b = Subject("a", (minute(Limit(REQUESTS, 50)), hour(Limit(REQUESTS, 50)))), Subject("b", ())
    account = put(embedded_single, [alice, bob], hour(Limit(REQUESTS, 200)), teams=(a, b))
    async with behind_proxy(embedded_single, policy=local(1)) as (proxy, dispatcher):
        assert await admitted(dispatcher, [alice.kid, bob.kid], 1) == 2
        proxy.pass_requests = False
        assert await admitted(dispatcher, [alice.kid], 8) == 8
        subjects = account.subjects
        keys = [alice, bob]
        if change == "another length":
            two_hours = PolicyWindow(2 * HOUR, (), (Limit(REQUESTS, 50),))
            subjects = (subjects[0], Subject("a", (minute(Limit(REQUESTS, 50)), two_hours)), b)
        elif change == "other team":
            keys = [KeyPolicy(alice.kid, "alice", "b", alice.windows), bob]
        else:
            keys = [bob]
        with_changes = AccountPolicy(account.name, subjects)
        put_account(embedded_single, with_changes, keys)
        if change == "deleted":
            with Redis.from_url(embedded_single) as client:
                client.hdel(f"rl:{{{account.tag}}}:policy", alice.kid, f"k:{alice.kid}")
        proxy.pass_requests = True
        await recovered(dispatcher)
        assert await admitted(dispatcher, [bob.kid], 1) == 1
        # Bob's path: the account's hour, the team's minute and the team's longer window.
        longer = 1 if change == "another length" else 11
        assert [each.requests for each in await used(dispatcher, bob.kid)] == [11, 11, longer]
        if change != "deleted":
            assert (await used(dispatcher, alice.kid))[-1].requests == 9


async def test_a_full_ledger_refuses_requests_of_accounts_and_forgets_nothing(
    embedded_single: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = [a_key(f"k{number}") for number in range(5)]
    put(embedded_single, keys, minute(Limit(REQUESTS, 100)), hour(Limit(REQUESTS, 100)))
    plain = declare(embedded_single, new_api_key(), rpm=100)
    async with behind_proxy(embedded_single, policy=local(1)) as (proxy, dispatcher):
        assert await admitted(dispatcher, [each.kid for each in keys], 1) == 5
        assert (await dispatcher.admit(plain, Need(0, 0, 0))).outcome is Outcome.ADMITTED
        proxy.pass_requests = False
        await admitted(dispatcher, [keys[0].kid], 1)
        await eventually(lambda: dispatcher.outage.is_on)
        monkeypatch.setattr(unsent_charges, "MOST", dispatcher.state().unsent_charges + 3)
        before = dispatcher.state().degraded["refused"]
        counted = refused = 0
        for each in keys * 2:
            try:
                assert (await dispatcher.admit(each.kid, ONE)).outcome is Outcome.ADMITTED
                counted += 1
            except StoreUnavailable:
                refused += 1
        assert counted >= 3
        assert refused >= 5, "a path whose charges could join is refused, too"
        assert dispatcher.state().unsent_charges >= unsent_charges.MOST
        assert dispatcher.state().degraded["refused"] == before + refused
        with pytest.raises(StoreUnavailable, match="wait to be counted"):
            await dispatcher.admit(keys[0].kid, ONE)
        assert (await dispatcher.admit(plain, Need(0, 0, 0))).degraded == "local"
        proxy.pass_requests = True
        await recovered(dispatcher)
        assert [each.requests for each in await used(dispatcher, keys[0].kid)] == [6 + counted] * 2
        assert dispatcher.state().unsent_charges == 0
        assert await admitted(dispatcher, [keys[0].kid], 1) == 1


async def test_requests_that_no_policy_can_decide_are_counted_as_refused(embedded_single: str) -> None:
    alice = a_key("alice", hour(Limit(REQUESTS, 100)))
    put(embedded_single, [alice])
    async with behind_proxy(embedded_single, policy=local(1)) as (proxy, dispatcher):
        assert await dispatcher.find(alice.kid) is CredentialState.VALID
        proxy.pass_requests = False
        for _ in range(2):
            with pytest.raises(StoreUnavailable):
                await dispatcher.admit(alice.kid, ONE)
        assert dispatcher.state().degraded["refused"] == 2


async def test_a_batch_under_way_keeps_nothing_running_after_the_end(embedded_single: str) -> None:
    alice = a_key("alice")
    put(embedded_single, [alice], hour(Limit(OUTPUT_TOKENS, 1_000)))
    async with behind_proxy(embedded_single, policy=local(1)) as (proxy, dispatcher):
        limiter = Limiter(dispatcher)
        hold = limiter.reservation(alice.kid, await decide(dispatcher, alice.kid, Need(10, 100, 0)))
        proxy.pass_requests = False
        hold.settle(5)
        account = dispatcher._queues[alice.kid].sender
        await eventually(lambda: account.in_flight is not None)
        await eventually(lambda: not dispatcher._sweeper.is_running)
        await dispatcher.close()
        await eventually(lambda: account.in_flight is None)
        assert not dispatcher._sweeper.is_running
