"""Stores that lose what they had counted, and late replies: no limit is admitted twice.

Each node charges again what it had admitted itself, before anything else of the key is decided for it.
"""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from dispatching import dispatching
from node_commands import eventually
from store_tools import Declared, declare, new_api_key, store_client
from test_degraded import BUDGET_MS, ONE, behind_proxy, local, outcomes, recovered, used

from limiter_node.decisions import Need, Outcome
from limiter_node.errors import StoreUnavailable
from limiter_node.limiter.admission import Limiter
from limiter_node.limits import Amounts, KeyLimits
from limiter_node.store.charges import Charge
from limiter_node.store.decisions.dispatcher import Dispatcher
from limiter_node.store.embedded.server import EmbeddedServer
from limiter_node.store.embedded.stores import EmbeddedStore
from limiter_node.store.keyspace import limits_key, past_key, window_key

LIMIT = 10


async def admitted(dispatcher: Dispatcher, kid: str, count: int) -> int:
    """How many of so many requests at once the store admits."""
    return (await outcomes(dispatcher, kid, count))[Outcome.ADMITTED, ""]


def lose_window(url: str, kid: str) -> None:
    with store_client(url) as client:
        client.delete(window_key(kid), past_key(kid))


def snapshot(url: str, kid: str) -> list[bytes | None]:
    """All that is counted of a key, as of one moment."""
    with store_client(url) as client:
        return list(client.pipeline(transaction=True).dump(window_key(kid)).dump(past_key(kid)).execute())


def restore(url: str, kid: str, values: list[bytes | None]) -> None:
    with store_client(url) as client:
        pipeline = client.pipeline(transaction=True).delete(window_key(kid), past_key(kid))
        for key, value in zip((window_key(kid), past_key(kid)), values, strict=True):
            if value is not None:
                pipeline.restore(key, 90_000, value)
        pipeline.execute()


# ---- the store's clock -----------------------------------------------------------------------------------------------


@asynccontextmanager
async def frozen(server: EmbeddedServer) -> AsyncIterator[None]:
    assert server.process is not None
    server.process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        server.process.send_signal(signal.SIGCONT)


async def test_a_batch_that_is_decided_late_does_not_put_the_clock_forward() -> None:
    """The limit is used up, the store stands still for most of a window, answers once, and stands still again."""
    async with EmbeddedStore("single") as store:
        kid = declare(store.url, new_api_key(), rpm=LIMIT)
        async with dispatching(
            store.url, timeout_ms=BUDGET_MS, stall_timeout_s=20, policy=local(1), window_buckets=40
        ) as dispatcher:
            assert await admitted(dispatcher, kid, LIMIT + 1) == LIMIT
            begun_s = time.monotonic()
            async with frozen(store.servers[0]):
                assert (await dispatcher.admit(kid, ONE)).degraded == "local"
                await asyncio.sleep(2.5)
            await eventually(lambda: not dispatcher._batches.in_flight)
            async with frozen(store.servers[0]):
                decisions = await asyncio.gather(*(dispatcher.admit(kid, ONE) for _ in range(5)))
            assert time.monotonic() - begun_s < 3.9, "the machine is too slow for this test"
            assert {decision.outcome for decision in decisions} == {Outcome.REJECTED}
            assert all(decision.time_ms <= time.time() * 1000 + 100 for decision in decisions)


async def test_estimates_of_the_clock_enclose_it(embedded_single: str) -> None:
    kid = declare(embedded_single, new_api_key())
    async with behind_proxy(embedded_single, timeout_ms=20_000, stall_timeout_s=20) as (proxy, dispatcher):
        for proxy.delay_s in (0.0, 0.3):
            await dispatcher.admit(kid, ONE)
            known = dispatcher._queues[kid].knowledge.known()
            now_ms = time.time() * 1000
            assert known is not None
            assert known.now_ms <= now_ms <= known.latest_ms + 1
            assert known.latest_ms - known.now_ms >= proxy.delay_s * 1000


# ---- a window is lost ------------------------------------------------------------------------------------------------


async def test_a_loss_is_noticed_whatever_the_last_request_before_it_was(embedded_single: str) -> None:
    kid = declare(embedded_single, new_api_key(), rpm=LIMIT)
    async with dispatching(embedded_single, policy=local(1)) as dispatcher:
        assert await admitted(dispatcher, kid, 2 * LIMIT) == LIMIT, "the last one of the batch is rejected"
        lose_window(embedded_single, kid)
        assert await admitted(dispatcher, kid, 12) == 0
        assert await used(dispatcher, kid) == Amounts(LIMIT, LIMIT, LIMIT)


@pytest.mark.parametrize("asked_between", [0, 3])
async def test_a_loss_is_noticed_again_after_it_was_healed(embedded_single: str, asked_between: int) -> None:
    kid = declare(embedded_single, new_api_key(), rpm=LIMIT)
    async with dispatching(embedded_single, policy=local(1)) as dispatcher:
        assert await admitted(dispatcher, kid, 12) == LIMIT
        for _ in range(3):
            lose_window(embedded_single, kid)
            assert await admitted(dispatcher, kid, 12) == 0
            for _ in range(asked_between):
                assert await admitted(dispatcher, kid, 1) == 0
        assert await used(dispatcher, kid) == Amounts(LIMIT, LIMIT, LIMIT)


@pytest.mark.parametrize("policy", [None, local(1)], ids=["closed", "local"])
async def test_a_loss_right_after_the_only_reply_was_lost_is_noticed(embedded_single: str, policy: Any) -> None:
    """All that the node knows of the key comes from the record."""
    kid = declare(embedded_single, new_api_key(), rpm=LIMIT)
    options = {} if policy is None else {"policy": policy}
    async with behind_proxy(embedded_single, timeout_ms=20_000, **options) as (proxy, dispatcher):
        proxy.pass_replies = False
        waiting = asyncio.ensure_future(admitted(dispatcher, kid, 2 * LIMIT))
        await proxy.swallowed.wait()
        proxy.pass_replies = True
        proxy.reset_all()
        assert await waiting == LIMIT
        lose_window(embedded_single, kid)
        assert await admitted(dispatcher, kid, 12) == 0


async def test_what_is_given_back_after_a_loss_is_given_back_where_it_counts_then(embedded_single: str) -> None:
    kid = declare(embedded_single, new_api_key())
    async with dispatching(embedded_single, policy=local(1)) as dispatcher:
        limiter = Limiter(dispatcher)

        async def ask() -> Any:
            return limiter.reservation(kid, await limiter.admit(kid, Need(10, 100, 0)))

        early, late, later = await ask(), await ask(), await ask()
        early.settle(40)
        lose_window(embedded_single, kid)
        late.settle(30)  # on its way when the loss is noticed
        assert await dispatcher.drain(20)
        assert await used(dispatcher, kid) == Amounts(3, 30, 170)
        later.settle(20)
        assert await dispatcher.drain(20)
        assert await used(dispatcher, kid) == Amounts(3, 30, 90)
        lose_window(embedded_single, kid)
        after = await ask()
        after.refund()
        assert await dispatcher.drain(20)
        assert await used(dispatcher, kid) == Amounts(4, 30, 90)


async def test_what_was_admitted_without_the_store_is_counted_once_through_losses(embedded_single: str) -> None:
    """Whether the store was told of it before the loss or not."""
    kid = declare(embedded_single, new_api_key())
    async with behind_proxy(embedded_single, policy=local(1)) as (proxy, dispatcher):
        limiter = Limiter(dispatcher)
        held = [limiter.reservation(kid, await limiter.admit(kid, Need(10, 100, 0)))]
        for outage in range(2):
            proxy.pass_requests = False
            held += [limiter.reservation(kid, await limiter.admit(kid, Need(10, 100, 0))) for _ in range(3)]
            lose_window(embedded_single, kid)
            proxy.pass_requests = True
            await recovered(dispatcher)
            count = 1 + 3 * (outage + 1)
            assert await used(dispatcher, kid) == Amounts(count, 10 * count, 100 * count)
        lose_window(embedded_single, kid)
        for reservation in held:
            reservation.settle(7)
        assert await dispatcher.drain(20)
        assert await used(dispatcher, kid) == Amounts(7, 70, 49)


async def test_a_server_that_comes_back_empty_admits_no_limit_again() -> None:
    async with EmbeddedStore("single") as store:
        kid = declare(store.url, new_api_key(), rpm=LIMIT)
        file = Declared({kid: KeyLimits(rpm=LIMIT)})
        async with dispatching(store.url, timeout_ms=BUDGET_MS, policy=local(1), declared=file) as dispatcher:
            assert await admitted(dispatcher, kid, 12) == LIMIT
            for _ in range(2):
                store.servers[0].kill()
                assert not (await outcomes(dispatcher, kid, 3))[Outcome.ADMITTED, "local"]
                store.servers[0].start()
                await recovered(dispatcher)
                assert await admitted(dispatcher, kid, 12) == 0
            assert await used(dispatcher, kid) == Amounts(LIMIT, LIMIT, LIMIT)


# ---- a store goes back to what it was --------------------------------------------------------------------------------


async def test_a_store_restored_from_a_snapshot_is_charged_what_it_misses(embedded_single: str) -> None:
    kid = declare(embedded_single, new_api_key(), rpm=LIMIT)
    async with dispatching(embedded_single, policy=local(1)) as dispatcher:
        assert await admitted(dispatcher, kid, 2) == 2
        before = snapshot(embedded_single, kid)
        await asyncio.sleep(1.1)  # what the snapshot has is in another cell of the node's own window then
        assert await admitted(dispatcher, kid, 8) == 8
        for _ in range(2):
            restore(embedded_single, kid, before)
            assert await admitted(dispatcher, kid, 8) == 0
            assert await used(dispatcher, kid) == Amounts(LIMIT, LIMIT, LIMIT), (
                "what the snapshot has isn't charged again"
            )


async def test_what_was_produced_beyond_a_reservation_outlives_a_snapshot(embedded_single: str) -> None:
    kid = declare(embedded_single, new_api_key())
    async with dispatching(embedded_single, policy=local(1)) as dispatcher:
        limiter = Limiter(dispatcher)
        reservation = limiter.reservation(kid, await limiter.admit(kid, Need(10, 20, 0)))
        before = snapshot(embedded_single, kid)
        reservation.settle(50)
        assert await dispatcher.drain(20)
        restore(embedded_single, kid, before)
        await limiter.admit(kid, ONE)
        assert (await used(dispatcher, kid)).output_tokens >= 51


async def test_a_snapshot_older_than_the_charges_of_a_loss(embedded_single: str) -> None:
    kid = declare(embedded_single, new_api_key(), rpm=LIMIT)
    async with dispatching(embedded_single, policy=local(1)) as dispatcher:
        assert await admitted(dispatcher, kid, 4) == 4
        before = snapshot(embedded_single, kid)
        lose_window(embedded_single, kid)
        assert await admitted(dispatcher, kid, 12) == LIMIT - 4
        restore(embedded_single, kid, before)
        assert await admitted(dispatcher, kid, 12) == 0


async def test_a_failover_that_loses_the_last_writes_loses_no_admission() -> None:
    """Replication stands still while the limit is used up; then the master dies and its replica takes over."""
    async with EmbeddedStore("cluster", replicas=1) as store:
        kid = declare(store.url, new_api_key(), rpm=LIMIT)
        async with dispatching(store.url, timeout_ms=20_000, policy=local(1)) as dispatcher:
            assert await admitted(dispatcher, kid, 1) == 1
            owner = dispatcher._topology.owner(dispatcher._queues[kid].target.slot)
            assert owner is not None
            master = next(server for server in store.servers if server.port == owner.port)
            replica = next(server for server in store.servers if server.master_port == master.port)
            with store_client(store.url) as client:
                assert client.get_node_from_key(window_key(kid)).redis_connection.wait(1, 20_000) == 1
            async with frozen(replica):
                assert await admitted(dispatcher, kid, 12) == LIMIT - 1
                master.kill()
            decisions = await asyncio.gather(*(dispatcher.admit(kid, ONE) for _ in range(12)))
            assert {decision.outcome for decision in decisions} == {Outcome.REJECTED}
            assert await used(dispatcher, kid) == Amounts(LIMIT, LIMIT, LIMIT)


# ---- several nodes ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("nodes", [2, 3])
async def test_a_loss_admits_at_most_a_limit_of_what_other_nodes_have_not_told_yet(
    embedded_single: str, nodes: int
) -> None:
    """The first to ask had admitted nothing, so that it can't know; from then on each node tells before it asks."""
    kid = declare(embedded_single, new_api_key(), rpm=LIMIT)
    async with (
        dispatching(embedded_single, policy=local(nodes)) as first,
        dispatching(embedded_single, policy=local(nodes)) as second,
        dispatching(embedded_single, policy=local(nodes)) as third,
    ):
        fleet = [first, second, third][:nodes]
        assert await admitted(first, kid, LIMIT) == LIMIT
        lose_window(embedded_single, kid)
        assert await admitted(second, kid, LIMIT) == LIMIT, "what the first one had admitted isn't known there"
        for node in (first, *fleet):
            assert await admitted(node, kid, LIMIT) == 0
        assert (await used(first, kid)).requests == 2 * LIMIT
        # Now that both have told, a further loss brings nobody more than that.
        lose_window(embedded_single, kid)
        for node in fleet[:2]:
            assert await admitted(node, kid, LIMIT) == 0


async def test_a_key_of_which_only_the_limits_are_lost_is_counted_once(embedded_single: str) -> None:
    """Its window is still there: nothing of it is charged again."""
    kid = declare(embedded_single, new_api_key(), rpm=LIMIT)
    async with dispatching(embedded_single, policy=local(1)) as dispatcher:
        assert await admitted(dispatcher, kid, 4) == 4
        with store_client(embedded_single) as client:
            client.delete(limits_key(kid))
        assert await admitted(dispatcher, kid, 12) == LIMIT - 4
        assert await used(dispatcher, kid) == Amounts(LIMIT, LIMIT, LIMIT)


async def test_a_lost_key_is_declared_again_with_what_the_node_was_told(embedded_single: str) -> None:
    """Also where there is no keys file."""
    api_key = new_api_key()
    kid = declare(embedded_single, api_key, rpm=LIMIT, output_reserve=40, name="alice")
    async with dispatching(embedded_single, policy=local(1)) as dispatcher:
        assert await admitted(dispatcher, kid, 4) == 4
        with store_client(embedded_single) as client:
            before = client.get(limits_key(kid))
            client.delete(limits_key(kid), window_key(kid), past_key(kid))
            assert await admitted(dispatcher, kid, 12) == LIMIT - 4
            assert client.get(limits_key(kid)) == before, "name and reserve included"


async def test_a_batch_that_runs_after_its_window_counts_for_nobody() -> None:
    """A server that stood still for longer than a window goes on with what lies in its buffers."""
    async with EmbeddedStore("single") as store:
        kid = declare(store.url, new_api_key(), rpm=LIMIT)
        for policy in (local(1), lambda _: None):
            async with dispatching(store.url, timeout_ms=BUDGET_MS, policy=policy, window_buckets=10) as dispatcher:
                assert await admitted(dispatcher, kid, 1) == 1
                async with frozen(store.servers[0]):
                    answers = await asyncio.gather(
                        *(dispatcher.admit(kid, ONE) for _ in range(3)), return_exceptions=True
                    )
                    assert all(isinstance(each, StoreUnavailable) or each.degraded for each in answers)
                    await asyncio.sleep(1.5)
                await recovered(dispatcher)
                assert await used(dispatcher, kid) == Amounts(0, 0, 0)


async def test_a_late_reply_makes_a_node_forget_nothing_of_what_it_admitted() -> None:
    """The store's clock can have been anywhere between asking and hearing; nothing may leave by the latest of it."""
    async with EmbeddedStore("single") as store:
        kid = declare(store.url, new_api_key(), rpm=LIMIT)
        async with dispatching(
            store.url, timeout_ms=BUDGET_MS, stall_timeout_s=20, policy=local(1), window_buckets=40
        ) as dispatcher:
            assert await admitted(dispatcher, kid, 5) == 5
            begun_s = time.monotonic()
            async with frozen(store.servers[0]):
                decided = await outcomes(dispatcher, kid, 3)
                assert decided == {(Outcome.ADMITTED, "local"): 3}
                await asyncio.sleep(2.5)
            await eventually(lambda: not dispatcher._batches.in_flight)
            async with frozen(store.servers[0]):
                for left in (1, 1, 0, 0):
                    assert (await outcomes(dispatcher, kid, 1))[Outcome.ADMITTED, "local"] == left
            await recovered(dispatcher)
            assert (await used(dispatcher, kid)).requests == LIMIT
            assert await admitted(dispatcher, kid, 3) == 0
            assert time.monotonic() - begun_s < 3.9, "the machine is too slow for this test"


async def test_what_is_given_back_whole_is_not_taken_off_others_after_a_loss(embedded_single: str) -> None:
    """Nothing of its cell is charged anew, since nothing is left of it. But its settle waits, and so does a charge."""
    kid = declare(embedded_single, new_api_key())
    async with dispatching(embedded_single, policy=local(1)) as dispatcher:
        bucket = (await dispatcher.admit(kid, Need(10, 10, 0))).receipt
        assert isinstance(bucket, int)
        queue, owed = dispatcher._queues[kid], Amounts(2, 2, 2)
        lose_window(embedded_single, kid)
        dispatcher._receipts.take_back(queue, bucket, 10, 10, 1)  # its caller had been told otherwise
        queue.knowledge.own.add(bucket * 100, owed, bucket * 100)  # as admitted without the store
        dispatcher._charges.add(queue, Charge(bucket, owed))
        assert await dispatcher.drain(20)
        assert await used(dispatcher, kid) == owed
