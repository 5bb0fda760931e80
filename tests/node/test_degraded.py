"""Shards that don't decide: what a policy decides meanwhile, what nobody else notices, and that all is counted once."""

from __future__ import annotations

import asyncio
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from dispatching import dispatching
from fault_proxy import FaultProxy
from node_commands import eventually
from redis import Redis
from store_tools import Declared, declare, new_api_key, raw_counters, store_client

from limiter_node.credentials import key_id
from limiter_node.decisions import Decision, Need, Outcome
from limiter_node.errors import ConfigError, StoreUnavailable
from limiter_node.limiter.admission import Limiter
from limiter_node.limiter.policies import policy
from limiter_node.limits import Amounts, KeyLimits
from limiter_node.store.admin.store_admin import administering
from limiter_node.store.decisions.dispatcher import Dispatcher
from limiter_node.store.embedded.stores import EmbeddedStore
from limiter_node.store.keyspace import limits_key, past_key, window_key
from limiter_node.store.url import parse_store_url

ONE = Need(1, 1, 0)
BUDGET_MS = 300
"""More than a busy machine takes for what the store answers; each silence takes a test as long."""


def local(nodes: int) -> Callable[[Any], Any]:
    """Policy `local` in a fleet of that many nodes."""
    return lambda _: policy("local", lambda: nodes)


def port_of(url: str) -> int:
    return parse_store_url(url).endpoints[0][1]


@asynccontextmanager
async def behind_proxy(url: str, **options: Any) -> AsyncIterator[tuple[FaultProxy, Dispatcher]]:
    async with (
        FaultProxy(port_of(url)) as proxy,
        dispatching(
            f"redis://127.0.0.1:{proxy.port}", **{"timeout_ms": BUDGET_MS, "stall_timeout_s": 0.6, **options}
        ) as dispatcher,
    ):
        yield proxy, dispatcher


def owner_port(dispatcher: Dispatcher, kid: str) -> int:
    owner = dispatcher._topology.owner(dispatcher._queues[kid].target.slot)
    assert owner is not None
    return owner.port


async def outcomes(dispatcher: Dispatcher, kid: str, count: int, need: Need = ONE) -> Counter[tuple[Outcome, str]]:
    decisions = await asyncio.gather(*(dispatcher.admit(kid, need) for _ in range(count)))
    return Counter((decision.outcome, decision.degraded) for decision in decisions)


async def recovered(dispatcher: Dispatcher) -> None:
    await eventually(lambda: not dispatcher.outage.is_on)
    assert await dispatcher.drain(20)


async def used(dispatcher: Dispatcher, kid: str) -> Amounts:
    """The usage by the store, however long that takes: the node's budget for a read is short here."""
    async with asyncio.timeout(20):
        while True:
            try:
                usage = await dispatcher.peek(kid)
            except StoreUnavailable:
                continue
            break
    assert usage is not None
    assert not usage.degraded
    return usage.used


@pytest.mark.parametrize("lost", ["pass_requests", "pass_replies"])
async def test_a_node_goes_on_within_its_share_and_everything_is_counted_once(embedded_single: str, lost: str) -> None:
    """Whether the store has decided the batch whose reply was lost or never got it."""
    kid = declare(embedded_single, new_api_key(), rpm=20)
    async with behind_proxy(embedded_single, policy=local(2)) as (proxy, dispatcher):
        assert await outcomes(dispatcher, kid, 3) == {(Outcome.ADMITTED, ""): 3}
        setattr(proxy, lost, False)
        assert await outcomes(dispatcher, kid, 5) == {(Outcome.ADMITTED, "local"): 5}
        # Three and five of a share of ten: no matter who decided them.
        assert await outcomes(dispatcher, kid, 6) == {(Outcome.ADMITTED, "local"): 2, (Outcome.REJECTED, "local"): 4}
        decision = await dispatcher.admit(kid, ONE)
        assert (decision.dimension, decision.limits.requests, decision.used.requests) == (0, 20, 20)
        assert 58_000 < decision.retry_after_ms <= 61_000
        setattr(proxy, lost, True)
        await recovered(dispatcher)
        assert await used(dispatcher, kid) == Amounts(10, 10, 10)
        assert await outcomes(dispatcher, kid, 11) == {(Outcome.ADMITTED, ""): 10, (Outcome.REJECTED, ""): 1}


@pytest.mark.parametrize("lost", ["pass_requests", "pass_replies"])
async def test_what_is_not_produced_comes_back_whoever_admitted_and_whenever_it_ends(
    embedded_single: str, lost: str
) -> None:
    kid = declare(embedded_single, new_api_key())
    async with behind_proxy(embedded_single, policy=local(1)) as (proxy, dispatcher):
        limiter = Limiter(dispatcher)

        async def admitted() -> Any:
            return limiter.reservation(kid, await limiter.admit(kid, Need(10, 100, 0)))

        before = [await admitted() for _ in range(2)]
        setattr(proxy, lost, False)
        under_way = await asyncio.gather(*(admitted() for _ in range(2)))  # in the batch that is lost
        never_sent = [await admitted() for _ in range(2)]
        for early, _ in (before, under_way, never_sent):
            early.settle(7)  # during the outage
        setattr(proxy, lost, True)
        await recovered(dispatcher)
        for _, late in (before, under_way, never_sent):
            late.settle(3)
        assert await dispatcher.drain(20)
        assert await used(dispatcher, kid) == Amounts(6, 60, 30)


async def test_closed_refuses_at_once_and_open_admits_all(embedded_single: str) -> None:
    kid = declare(embedded_single, new_api_key(), rpm=3)
    async with (
        FaultProxy(port_of(embedded_single)) as proxy,
        dispatching(f"redis://127.0.0.1:{proxy.port}", timeout_ms=BUDGET_MS) as closed,
        dispatching(
            f"redis://127.0.0.1:{proxy.port}", timeout_ms=BUDGET_MS, policy=lambda _: policy("open", lambda: 0)
        ) as opened,
    ):
        for dispatcher in (closed, opened):
            await dispatcher.admit(kid, ONE)
        proxy.pass_requests = False
        with pytest.raises(StoreUnavailable):
            await closed.admit(kid, ONE)
        refused = closed.admit(kid, ONE)
        assert refused.done(), "nobody waits once it is known"
        assert isinstance(refused.exception(), StoreUnavailable)
        assert not closed.decides_alone()
        assert await outcomes(opened, kid, 10) == {(Outcome.ADMITTED, "open"): 10}
        assert opened.decides_alone()
        proxy.pass_requests = True
        proxy.reset_all()
        await recovered(opened)
        await recovered(closed)
        assert (await used(opened, kid)).requests == 12
        assert await outcomes(opened, kid, 1) == {(Outcome.REJECTED, ""): 1}


async def test_a_key_that_the_node_has_never_seen_is_refused(embedded_single: str) -> None:
    known, unknown = (declare(embedded_single, new_api_key()) for _ in range(2))
    async with behind_proxy(embedded_single, policy=local(1)) as (proxy, dispatcher):
        await dispatcher.admit(known, ONE)
        proxy.pass_requests = False
        assert await outcomes(dispatcher, known, 1) == {(Outcome.ADMITTED, "local"): 1}
        refused = dispatcher.admit(unknown, ONE)
        assert isinstance(refused.exception(), StoreUnavailable)
        assert unknown not in dispatcher._queues, "made-up keys must not fill the node"
        with pytest.raises(StoreUnavailable):
            await dispatcher.peek(unknown)


async def test_usage_is_told_from_what_the_node_knows(embedded_single: str) -> None:
    kid = declare(embedded_single, new_api_key(), rpm=20, input_tpm=1_000, output_tpm=1_000)
    async with behind_proxy(embedded_single, policy=local(2)) as (proxy, dispatcher):
        await dispatcher.admit(kid, Need(5, 6, 0))
        proxy.pass_requests = False
        await dispatcher.admit(kid, Need(5, 6, 0))
        usage = await dispatcher.peek(kid)
        assert usage is not None
        assert (usage.degraded, usage.limits) == ("local", Amounts(20, 1_000, 1_000))
        # Its share is half; of that, two requests are used. What is left is what it would still admit.
        assert usage.used == Amounts(20 - 8, 1_000 - 490, 1_000 - 488)


async def test_a_need_of_nothing_fits_where_more_than_the_share_is_used(embedded_single: str) -> None:
    kid = declare(embedded_single, new_api_key(), input_tpm=1_000, output_tpm=100)
    async with behind_proxy(embedded_single, policy=local(2)) as (proxy, dispatcher):
        await dispatcher.admit(kid, Need(1, 80, 0))
        proxy.pass_requests = False
        assert await outcomes(dispatcher, kid, 2, Need(1, 0, 0)) == {(Outcome.ADMITTED, "local"): 2}
        assert await outcomes(dispatcher, kid, 1, ONE) == {(Outcome.REJECTED, "local"): 1}


async def test_a_request_larger_than_any_share_waits_for_the_store(embedded_single: str) -> None:
    kid = declare(embedded_single, new_api_key(), output_tpm=100)
    async with behind_proxy(embedded_single, policy=local(2)) as (proxy, dispatcher):
        await dispatcher.admit(kid, ONE)
        proxy.pass_requests = False
        too_much = await dispatcher.admit(kid, Need(1, 60, 0))
        assert (too_much.outcome, too_much.dimension, too_much.retry_after_ms) == (Outcome.REJECTED, 2, 1_000)
        never = await dispatcher.admit(kid, Need(1, 101, 0))
        assert (never.outcome, never.dimension) == (Outcome.NEVER_FITS, 2)


async def test_of_limits_that_can_never_fit_the_smallest_is_named(embedded_single: str) -> None:
    kid = declare(embedded_single, new_api_key(), input_tpm=50, output_tpm=40)
    async with behind_proxy(embedded_single, policy=local(2)) as (proxy, dispatcher):
        await dispatcher.admit(kid, ONE)
        proxy.pass_requests = False
        for need, dimension in ((Need(51, 41, 0), 2), (Need(51, 0, 0), 1), (Need(0, 41, 0), 2)):
            never = await dispatcher.admit(kid, need)
            assert (never.outcome, never.dimension) == (Outcome.NEVER_FITS, dimension)


async def test_a_frozen_shard_is_cut_off_and_the_others_notice_nothing(caplog: pytest.LogCaptureFixture) -> None:
    async with (
        EmbeddedStore("cluster") as store,
        dispatching(store.url, timeout_ms=BUDGET_MS, policy=local(1)) as dispatcher,
    ):
        kids = [declare(store.url, new_api_key()) for _ in range(30)]
        for kid in kids:
            await dispatcher.admit(kid, ONE)
        process = store.servers[0].process
        assert process is not None
        frozen = [kid for kid in kids if owner_port(dispatcher, kid) == store.servers[0].port]
        healthy = [kid for kid in kids if kid not in frozen]
        assert frozen
        process.send_signal(signal.SIGSTOP)
        try:
            for _ in range(3):
                decisions = await asyncio.gather(*(dispatcher.admit(kid, ONE) for kid in kids))
                degraded = {kid for kid, decision in zip(kids, decisions, strict=True) if decision.degraded}
                assert degraded == set(frozen)
            assert all(dispatcher.admit(kid, ONE).done() for kid in frozen)
            with pytest.raises(StoreUnavailable, match=str(store.servers[0].port)):
                await dispatcher.check()
            assert await dispatcher.peek(healthy[0]) is not None
        finally:
            process.send_signal(signal.SIGCONT)
        await recovered(dispatcher)
        await dispatcher.check()
        assert {(await used(dispatcher, kid)).requests for kid in frozen} == {5}
        assert {(await used(dispatcher, kid)).requests for kid in healthy} == {4}
        assert dispatcher.outage.shards.openings == 1
    told = [record.message for record in caplog.records if record.name == "limiter_node.store.outage.shards"]
    assert len(told) == 2, "a line per transition"
    assert "policy local decides" in told[0]
    assert f"{4 * len(frozen)} admitted" in told[1]


async def test_a_shard_that_is_slow_is_not_waited_for(embedded_single: str) -> None:
    kid = declare(embedded_single, new_api_key())
    async with behind_proxy(embedded_single, policy=local(1), stall_timeout_s=5) as (proxy, dispatcher):
        await dispatcher.admit(kid, ONE)
        proxy.delay_s = 2.5 * BUDGET_MS / 1000
        assert await outcomes(dispatcher, kid, 1) == {(Outcome.ADMITTED, "local"): 1}
        batches = dispatcher._batches._batch_sizes.batches
        await eventually(lambda: not dispatcher._batches.in_flight)  # its reply has come, too late
        assert dispatcher.outage.is_on, "an answer is no reason to ask again; one in time is"
        assert dispatcher.admit(kid, ONE).done()
        assert dispatcher._batches._batch_sizes.batches == batches
        proxy.delay_s = 0
        await recovered(dispatcher)
        assert (await used(dispatcher, kid)).requests == 3


async def test_a_node_that_stood_still_itself_does_not_blame_the_store(embedded_single: str) -> None:
    kid = declare(embedded_single, new_api_key())
    async with dispatching(embedded_single, timeout_ms=BUDGET_MS, policy=local(1)) as dispatcher:
        await dispatcher.admit(kid, ONE)
        for _ in range(3):
            verdict = dispatcher.admit(kid, ONE)
            await asyncio.sleep(0)  # it is sent
            time.sleep(3 * BUDGET_MS / 1000)  # noqa: ASYNC251 - that is the point
            assert not (await verdict).degraded
        assert dispatcher.outage.shards.openings == 0


async def test_without_memory_the_store_does_not_decide_and_holds_nothing_half_written(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with (
        EmbeddedStore("single") as store,
        dispatching(store.url, timeout_ms=BUDGET_MS, policy=local(1)) as dispatcher,
    ):
        kid = declare(store.url, new_api_key())
        await dispatcher.admit(kid, ONE)
        with Redis(port=store.servers[0].port) as client:
            before = raw_counters(store.url, kid)
            client.config_set("maxmemory", 1)
            assert await outcomes(dispatcher, kid, 3) == {(Outcome.ADMITTED, "local"): 3}
            assert raw_counters(store.url, kid) == before
            client.config_set("maxmemory", 0)
        await recovered(dispatcher)
        assert (await used(dispatcher, kid)).requests == 4
    assert any("OOM" in record.message for record in caplog.records)


async def test_many_charges_go_in_bounded_batches_in_their_buckets(embedded_single: str) -> None:
    """Those that the window has lost by then don't go at all."""
    kid = declare(embedded_single, new_api_key())
    async with behind_proxy(embedded_single, policy=local(1), window_buckets=20) as (proxy, dispatcher):
        await dispatcher.admit(kid, ONE)
        proxy.pass_requests = False
        decided: list[Decision] = [await dispatcher.admit(kid, ONE)]
        while decided[-1].time_ms - decided[0].time_ms < 3_000:
            decided.append(await dispatcher.admit(kid, ONE))
            await asyncio.sleep(0.05)
        proxy.pass_requests = True
        await recovered(dispatcher)
        usage = await dispatcher.peek(kid)
        assert usage is not None
        by_bucket = Counter(decision.time_ms // 100 for decision in decided)
        counted = {bucket.bucket: bucket.requests for bucket in usage.buckets}
        assert counted, "the last second is still in the window"
        # The node's clock is the store's but for a round trip, so a charge may lie one bucket later, never earlier.
        for bucket, requests in counted.items():
            assert requests <= by_bucket[bucket] + by_bucket[bucket - 1]
        newest = max(by_bucket)
        assert sum(counted.values()) >= sum(n for b, n in by_bucket.items() if b > newest - 5)


# ---- the fleet -----------------------------------------------------------------------------------------------------


async def test_nodes_know_how_many_they_are() -> None:
    async with EmbeddedStore("cluster") as store, dispatching(store.url) as first:
        first.fleet.start()
        await eventually(lambda: first.fleet.nodes == 1)
        async with dispatching(store.url) as second, dispatching(store.url) as third:
            for each in (second, third):
                each.fleet.start()
            await eventually(lambda: {each.fleet.nodes for each in (first, second, third)} == {3})
            await second.fleet.leave(10)
            await eventually(lambda: first.fleet.nodes == 2)
            # The third one dies without a word.
            assert third.fleet._timer is not None
            third.fleet._timer.cancel()
            await eventually(lambda: first.fleet.nodes == 1)


@pytest.mark.parametrize(("through_first", "at_most"), [(0, 1.0), (10, 1.5)])
async def test_a_fleet_stays_within_the_limit_or_at_worst_within_twice_it(
    embedded_single: str, through_first: int, at_most: float
) -> None:
    """At worst: one node had used all of the limit just before."""
    limit = 10
    kid = declare(embedded_single, new_api_key(), rpm=limit)
    async with (
        behind_proxy(embedded_single, policy=local(2)) as (proxy, first),
        behind_proxy(embedded_single, policy=local(2)) as (other_proxy, second),
    ):
        await second.peek(kid)
        nodes = [first, second]
        admitted = (await outcomes(first, kid, through_first))[Outcome.ADMITTED, ""]
        if not through_first:
            for node in nodes:
                admitted += (await outcomes(node, kid, 1))[Outcome.ADMITTED, ""]
        else:
            await outcomes(second, kid, 1)  # rejected: but now it knows the key
        proxy.pass_requests = other_proxy.pass_requests = False
        for node in nodes:
            decided = await outcomes(node, kid, 3 * limit)
            assert {degraded for _, degraded in decided} == {"local"}
            admitted += decided[Outcome.ADMITTED, "local"]
        assert admitted == limit * at_most
        proxy.pass_requests = other_proxy.pass_requests = True
        for node in nodes:
            await recovered(node)
        assert (await used(first, kid)).requests == admitted
        assert (await outcomes(first, kid, 1))[Outcome.REJECTED, ""] == 1


# ---- a store that lost its data --------------------------------------------------------------------------------------


async def test_a_store_that_lost_its_data_is_told_what_nodes_had_admitted(
    embedded_single: str, caplog: pytest.LogCaptureFixture
) -> None:
    """By each node for itself, before anything else of the key is decided."""
    api_key = new_api_key()
    kid = declare(embedded_single, api_key, rpm=20)
    limits = KeyLimits(rpm=20)
    async with (
        dispatching(embedded_single, policy=local(2), declared=Declared({kid: limits})) as first,
        dispatching(embedded_single, policy=local(2), declared=Declared({kid: limits})) as second,
    ):
        reservation = Limiter(first).reservation(kid, await first.admit(kid, Need(10, 100, 0)))
        reservation.settle(40)
        await outcomes(first, kid, 6)
        await outcomes(second, kid, 5)
        assert await first.drain(20)
        with store_client(embedded_single) as client:
            client.delete(limits_key(kid), window_key(kid), past_key(kid))
        assert await outcomes(first, kid, 3) == {(Outcome.ADMITTED, ""): 3}
        assert await used(first, kid) == Amounts(10, 19, 49)
        assert await outcomes(second, kid, 9) == {(Outcome.ADMITTED, ""): 5, (Outcome.REJECTED, ""): 4}
        assert await used(first, kid) == Amounts(20, 29, 59)
        assert first._redeclared.counts == {"store": 1}
        assert not second._redeclared.counts, "the key was there again"
    told = [record.message for record in caplog.records]
    assert sum("lost keys" in message for message in told) == 1
    assert sum("lost counts" in message for message in told) == 2


async def test_a_new_node_declares_lost_keys_and_no_others(embedded_single: str) -> None:
    declared, stranger, damaged_file = (key_id(new_api_key()) for _ in range(3))
    file = Declared({declared: KeyLimits(rpm=2)})
    async with dispatching(embedded_single, declared=file) as dispatcher:
        answers = await asyncio.gather(*(dispatcher.admit(kid, ONE) for kid in [declared] * 3 + [stranger] * 2))
        assert [answer.outcome for answer in answers] == [
            *[Outcome.ADMITTED] * 2,
            Outcome.REJECTED,
            *[Outcome.UNKNOWN_KEY] * 2,
        ]
        assert file.reads == 1
    damaged = Declared(error=ConfigError("keys.toml: gone"))
    async with dispatching(embedded_single, declared=damaged) as dispatcher:
        assert (await dispatcher.admit(damaged_file, ONE)).outcome is Outcome.UNKNOWN_KEY


async def test_a_deleted_key_stays_deleted_until_it_is_set_again_and_is_empty_then(embedded_single: str) -> None:
    kid = key_id(new_api_key())
    limits = KeyLimits(rpm=3)
    async with (
        administering(parse_store_url(embedded_single)) as admin,
        dispatching(embedded_single, policy=local(1), declared=Declared({kid: limits})) as dispatcher,
    ):
        await admin.put_limits(kid, limits)
        assert await outcomes(dispatcher, kid, 3) == {(Outcome.ADMITTED, ""): 3}
        assert await admin.delete(kid)
        await admin.put_limits(kid, limits)
        assert await outcomes(dispatcher, kid, 3) == {(Outcome.ADMITTED, ""): 3}, "usage is forgotten with the key"
        assert await admin.delete(kid)
        for _ in range(3):
            assert (await dispatcher.admit(kid, ONE)).outcome is Outcome.UNKNOWN_KEY
        assert await admin.get(kid) is None
        await admin.put_limits(kid, limits)
        assert await outcomes(dispatcher, kid, 4) == {(Outcome.ADMITTED, ""): 3, (Outcome.REJECTED, ""): 1}
