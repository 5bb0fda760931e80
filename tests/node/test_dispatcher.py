"""The dispatcher against real stores: pairing, coalescing, exactly-once, redirections, failures."""

from __future__ import annotations

import asyncio
import shutil
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import pytest
from dispatching import dispatching
from fault_proxy import FaultProxy
from raw_server import RawServer
from redis import Redis
from store_tools import declare, new_api_key, raw_counters, store_client

from limiter_node.credentials import key_id
from limiter_node.decisions import Need, Outcome
from limiter_node.errors import Overloaded, StoreUnavailable
from limiter_node.limiter.admission import Limiter
from limiter_node.limits import MAX_BATCH, Amounts
from limiter_node.store.embedded.stores import EmbeddedStore
from limiter_node.store.keyspace import limits_key, past_key, window_key
from limiter_node.store.url import parse_store_url

SERVERS = [None, *(["redis-server"] if shutil.which("redis-server") else [])]


async def until(condition: Any, timeout_s: float = 20) -> None:
    """Wait for a condition that something else makes true."""
    async with asyncio.timeout(timeout_s):
        while not condition():
            await asyncio.sleep(0.005)


@pytest.fixture(params=["embedded_cluster", "embedded_single", "system_cluster"])
def store_url(request: pytest.FixtureRequest) -> str:
    return str(request.getfixturevalue(request.param))


async def test_decisions_reach_the_requests_that_asked(store_url: str) -> None:
    kid = declare(store_url, new_api_key(), rpm=3, input_tpm=100, output_tpm=1000, name="alice")
    async with dispatching(store_url) as dispatcher:
        decisions = await asyncio.gather(*(dispatcher.admit(kid, Need(10 + i, 20, 0)) for i in range(5)))
        assert [d.outcome for d in decisions] == [Outcome.ADMITTED] * 3 + [Outcome.REJECTED] * 2
        assert [d.need for d in decisions] == [Amounts(1, 10 + i, 20) for i in range(5)]
        # Usage is told as after each decision, not as after the batch that they all went in.
        assert [d.used for d in decisions] == [
            Amounts(1, 10, 20),
            Amounts(2, 21, 40),
            Amounts(3, 33, 60),
            Amounts(3, 33, 60),
            Amounts(3, 33, 60),
        ]
        assert {d.limits for d in decisions} == {Amounts(3, 100, 1000)}
        assert [d.name for d in decisions] == ["", "", "", "alice", "alice"]
        assert decisions[3].dimension == 0
        assert 60_000 < decisions[3].retry_after_ms <= 60_100
        too_large = await dispatcher.admit(kid, Need(101, 1, 0))
        assert (too_large.outcome, too_large.dimension) == (Outcome.NEVER_FITS, 1)
        unknown = await dispatcher.admit(key_id(new_api_key()), Need(1, 1, 0))
        assert unknown.outcome is Outcome.UNKNOWN_KEY


async def test_a_key_has_one_batch_in_flight_and_the_rest_joins_the_next(store_url: str) -> None:
    kid = declare(store_url, new_api_key())
    async with dispatching(store_url) as dispatcher:
        await dispatcher.admit(kid, Need(1, 1, 0))
        sizes = dispatcher._batches._batch_sizes
        before = sizes.batches
        first = [dispatcher.admit(kid, Need(1, 1, 0)) for _ in range(10)]
        await asyncio.sleep(0)  # they leave in this turn of the loop: one batch
        assert sizes.batches == before + 1
        later = [dispatcher.admit(kid, Need(1, 1, 0)) for _ in range(MAX_BATCH + 1)]
        await asyncio.gather(*first, *later)
        assert sizes.batches == before + 3, "what came meanwhile goes in one bounded batch and the rest in another"
        usage = await dispatcher.peek(kid)
        assert usage is not None
        assert usage.used.requests == 1 + 10 + MAX_BATCH + 1


async def test_settles_ride_along_and_make_room_first(store_url: str) -> None:
    kid = declare(store_url, new_api_key(), output_tpm=100)
    async with dispatching(store_url) as dispatcher:
        limiter = Limiter(dispatcher)
        first = await limiter.admit(kid, Need(10, 100, 0))
        reservation = limiter.reservation(kid, first)
        assert (await limiter.admit(kid, Need(10, 1, 0))).outcome is Outcome.REJECTED
        reservation.settle(30)
        reservation.settle(0)  # a second settle does nothing
        second = await limiter.admit(kid, Need(10, 70, 0))
        assert second.outcome is Outcome.ADMITTED
        assert second.used == Amounts(2, 20, 100)
        limiter.reservation(kid, second).refund()
        assert await dispatcher.drain(10)
        usage = await dispatcher.peek(kid)
        assert usage is not None
        assert usage.used == Amounts(2, 10, 30), "tokens come back, the request doesn't"


async def test_the_default_reservation_is_the_keys(store_url: str) -> None:
    kid = declare(store_url, new_api_key(), output_reserve=40)
    async with dispatching(store_url) as dispatcher:
        decision = await dispatcher.admit(kid, Need(1, 0, 3))
        assert decision.need.output_tokens == 120
        assert decision.used.output_tokens == 120


async def test_rejected_requests_leave_every_byte_as_it_was(store_url: str) -> None:
    kid = declare(store_url, new_api_key(), rpm=2, input_tpm=50, output_tpm=60)
    async with dispatching(store_url) as dispatcher:
        await asyncio.gather(*(dispatcher.admit(kid, Need(10, 10, 0)) for _ in range(2)))
        before = raw_counters(store_url, kid)
        for need in (Need(1, 1, 0), Need(40, 1, 0), Need(1, 55, 0), Need(51, 1, 0), Need(1, 61, 0)):
            decisions = await asyncio.gather(*(dispatcher.admit(kid, need) for _ in range(20)))
            assert all(d.outcome in (Outcome.REJECTED, Outcome.NEVER_FITS) for d in decisions)
        assert raw_counters(store_url, kid) == before


async def test_a_limit_change_counts_from_the_next_decision_on(store_url: str) -> None:
    api_key = new_api_key()
    kid = declare(store_url, api_key, rpm=2)
    async with dispatching(store_url) as dispatcher:
        outcomes = [(await dispatcher.admit(kid, Need(1, 1, 0))).outcome for _ in range(3)]
        assert outcomes == [Outcome.ADMITTED, Outcome.ADMITTED, Outcome.REJECTED]
        declare(store_url, api_key, rpm=3)
        third = await dispatcher.admit(kid, Need(1, 1, 0))
        assert (third.outcome, third.used.requests) == (Outcome.ADMITTED, 3)
        declare(store_url, api_key, rpm=1)
        fourth = await dispatcher.admit(kid, Need(1, 1, 0))
        assert (fourth.outcome, fourth.limits.requests, fourth.used.requests) == (Outcome.REJECTED, 1, 3)


async def test_a_short_window_slides_in_real_time(store_url: str) -> None:
    kid = declare(store_url, new_api_key(), rpm=5)
    async with dispatching(store_url, window_buckets=5) as dispatcher:
        times = []
        while len(times) < 25:
            decision = await dispatcher.admit(kid, Need(1, 1, 0))
            if decision.outcome is Outcome.ADMITTED:
                times.append(decision.time_ms)
            else:
                assert 0 < decision.retry_after_ms <= 600
                await asyncio.sleep(decision.retry_after_ms / 1000)
        spans = [later - earlier for earlier, later in zip(times, times[5:], strict=False)]
        assert min(spans) >= 500, "six in a window of 500 ms"


async def test_a_script_flush_is_healed_without_an_error(store_url: str) -> None:
    kid = declare(store_url, new_api_key())
    async with dispatching(store_url) as dispatcher:
        for _ in range(5):
            with store_client(store_url) as client:
                client.script_flush()
            decisions = await asyncio.gather(*(dispatcher.admit(kid, Need(1, 1, 0)) for _ in range(20)))
            assert {d.outcome for d in decisions} == {Outcome.ADMITTED}
            assert await dispatcher.peek(kid) is not None
        usage = await dispatcher.peek(kid)
        assert usage is not None
        assert usage.used.requests == 100


@pytest.mark.parametrize("binary", SERVERS)
@pytest.mark.parametrize("endpoints", ["ip", "unknown-endpoint", "hostname"])
async def test_a_slot_moves_under_load_and_every_request_counts_once(endpoints: str, binary: str | None) -> None:
    """MOVED, ASK and TRYAGAIN, each met by a stream of requests on the slot that moves.

    Where the servers name no hosts, or have no names to tell, the redirections name ports only.
    """
    async with EmbeddedStore("cluster", binary=binary) as store:
        ports = [server.port for server in store.servers]
        nodes = {port: Redis(port=port) for port in ports}
        try:
            kid = declare(store.url, new_api_key(), rpm=10_000)
            keys = [limits_key(kid), window_key(kid), past_key(kid)]
            slot = nodes[ports[0]].cluster("KEYSLOT", keys[0])
            ids = {port: nodes[port].execute_command("CLUSTER MYID").decode() for port in ports}
            with store_client(store.url) as client:
                source = client.get_node_from_key(keys[0]).port
            target = next(port for port in ports if port != source)
            for node in nodes.values():
                node.config_set("cluster-preferred-endpoint-type", endpoints)
            async with dispatching(store.url) as dispatcher:
                errors: Counter[str] = Counter()
                admitted = 0
                going = True

                async def stream() -> None:
                    nonlocal admitted
                    while going:
                        try:
                            decision = await dispatcher.admit(kid, Need(1, 1, 0))
                            admitted += decision.outcome is Outcome.ADMITTED
                        except StoreUnavailable as error:
                            errors[str(error)] += 1

                async def some_more() -> None:
                    enough = admitted + 200
                    await until(lambda: admitted >= enough)

                def migrate(*moved: str) -> None:
                    nodes[source].execute_command("MIGRATE", "127.0.0.1", target, "", 0, 5000, "KEYS", *moved)

                streams = [asyncio.create_task(stream()) for _ in range(8)]
                await some_more()
                nodes[target].execute_command("CLUSTER SETSLOT", slot, "IMPORTING", ids[source])
                nodes[source].execute_command("CLUSTER SETSLOT", slot, "MIGRATING", ids[target])
                await some_more()  # all keys are still here
                retries = dispatcher._router.retries
                migrate(keys[1])  # some of the keys: TRYAGAIN until the rest has followed
                await until(lambda: dispatcher._router.retries > retries + 2)
                migrate(keys[0], keys[2])  # all of them: ASK
                await some_more()
                for port in (target, source):  # MOVED
                    nodes[port].execute_command("CLUSTER SETSLOT", slot, "NODE", ids[target])
                await some_more()
                going = False
                await asyncio.gather(*streams)
                usage = await dispatcher.peek(kid)
                assert usage is not None
                assert not errors
                assert usage.used.requests == admitted
        finally:
            for client in nodes.values():
                client.close()


@pytest.fixture
async def proxied(embedded_single: str) -> AsyncIterator[tuple[FaultProxy, str]]:
    """A single store, and a relay to it that can break."""
    _, port = parse_store_url(embedded_single).endpoints[0]
    async with FaultProxy(port) as proxy:
        yield proxy, embedded_single


async def test_a_lost_reply_counts_once(proxied: tuple[FaultProxy, str]) -> None:
    proxy, url = proxied
    kid = declare(url, new_api_key(), rpm=3)
    async with dispatching(f"redis://127.0.0.1:{proxy.port}") as dispatcher:
        await dispatcher.admit(kid, Need(1, 1, 0))
        proxy.pass_replies = False
        waiting = asyncio.gather(*(dispatcher.admit(kid, Need(5, 7, 0)) for _ in range(3)))
        await proxy.swallowed.wait()  # decided, and the reply is gone
        proxy.pass_replies = True
        proxy.reset_all()
        decisions = await waiting
        assert [d.outcome for d in decisions] == [Outcome.ADMITTED, Outcome.ADMITTED, Outcome.REJECTED]
        usage = await dispatcher.peek(kid)
        assert usage is not None
        assert usage.used == Amounts(3, 11, 15)


async def test_a_lost_request_counts_once(proxied: tuple[FaultProxy, str]) -> None:
    proxy, url = proxied
    kid = declare(url, new_api_key())
    async with dispatching(f"redis://127.0.0.1:{proxy.port}") as dispatcher:
        await dispatcher.admit(kid, Need(1, 1, 0))
        proxy.pass_requests = False
        waiting = asyncio.gather(*(dispatcher.admit(kid, Need(5, 7, 0)) for _ in range(3)))
        await proxy.swallowed.wait()
        proxy.pass_requests = True
        proxy.reset_all()
        assert {d.outcome for d in await waiting} == {Outcome.ADMITTED}
        usage = await dispatcher.peek(kid)
        assert usage is not None
        assert usage.used == Amounts(4, 16, 22)


async def test_a_silent_store_is_given_up_and_what_it_admitted_gets_its_tokens_back(
    proxied: tuple[FaultProxy, str],
) -> None:
    proxy, url = proxied
    kid = declare(url, new_api_key())
    async with dispatching(f"redis://127.0.0.1:{proxy.port}", timeout_ms=100, stall_timeout_s=0.3) as dispatcher:
        await dispatcher.admit(kid, Need(1, 1, 0))
        proxy.pass_replies = False
        with pytest.raises(StoreUnavailable):
            await dispatcher.admit(kid, Need(5, 7, 0))
        late = dispatcher.admit(kid, Need(100, 100, 0))  # waits behind the one in flight, is never sent
        with pytest.raises(StoreUnavailable):
            await late
        proxy.pass_replies = True  # the connection is broken as stalled, and made again
        await until(lambda: not dispatcher.outage.is_on)
        assert await dispatcher.drain(20)
        usage = await dispatcher.peek(kid)
        assert usage is not None
        assert usage.used == Amounts(1, 1, 1), "its caller was told that it wasn't admitted: it counts for nothing"
        assert (await dispatcher.admit(kid, Need(1, 1, 0))).outcome is Outcome.ADMITTED


async def test_garbage_breaks_the_connection_not_the_node() -> None:
    async def babble(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(100)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    async with (
        RawServer(babble) as server,
        dispatching(f"redis://127.0.0.1:{server.port}", timeout_ms=200) as dispatcher,
    ):
        with pytest.raises(StoreUnavailable):
            await dispatcher.admit(key_id("x"), Need(1, 1, 0))
        with pytest.raises(StoreUnavailable):
            await dispatcher.check()


async def test_a_store_that_comes_up_late_is_found(free_port: int) -> None:
    async with dispatching(f"redis+cluster://127.0.0.1:{free_port}", timeout_ms=100) as dispatcher:
        with pytest.raises(StoreUnavailable):
            await dispatcher.check()
        with pytest.raises(StoreUnavailable):
            await dispatcher.admit(key_id("x"), Need(1, 1, 0))
        async with EmbeddedStore("cluster", port=free_port) as store:
            kid = declare(store.url, new_api_key())
            decision = None
            async with asyncio.timeout(20):
                while decision is None:
                    try:
                        decision = await dispatcher.admit(kid, Need(1, 1, 0))
                    except StoreUnavailable:
                        continue
            assert decision.outcome is Outcome.ADMITTED
            await dispatcher.check()


async def test_more_waiting_than_allowed_is_refused_at_once(proxied: tuple[FaultProxy, str]) -> None:
    proxy, url = proxied
    kid = declare(url, new_api_key())
    async with dispatching(f"redis://127.0.0.1:{proxy.port}", max_waiting=5) as dispatcher:
        await dispatcher.admit(kid, Need(1, 1, 0))
        proxy.pass_replies = False
        waiting = [dispatcher.admit(kid, Need(1, 1, 0)) for _ in range(5)]
        with pytest.raises(Overloaded):
            dispatcher.admit(kid, Need(1, 1, 0))
        await proxy.swallowed.wait()
        proxy.pass_replies = True
        proxy.reset_all()
        assert {d.outcome for d in await asyncio.gather(*waiting)} == {Outcome.ADMITTED}
        assert (await dispatcher.admit(kid, Need(1, 1, 0))).outcome is Outcome.ADMITTED
