"""What becomes of a node whose store fails: it finds the way back by itself, and leaves nothing counted or running."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
import struct
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from itertools import pairwise
from typing import Any

import pytest
import uvloop
from dispatching import dispatching
from fault_proxy import FaultProxy
from node_commands import eventually
from ports import free_ports
from raw_server import RawServer
from redis import Redis
from store_tools import declare, new_api_key

from limiter_node.credentials import key_id
from limiter_node.decisions import Need, Outcome
from limiter_node.errors import StoreUnavailable
from limiter_node.limiter.admission import Limiter
from limiter_node.limits import Amounts
from limiter_node.store.decisions.dispatcher import Dispatcher
from limiter_node.store.embedded.server import EmbeddedServer
from limiter_node.store.embedded.stores import MASTERS, EmbeddedStore
from limiter_node.store.keyspace import SLOTS, slot_of
from limiter_node.store.url import parse_store_url
from limiter_node.store.wire.store_connection import ServerConnection
from limiter_node.store.wire.topology import Topology

ONE = Need(1, 1, 0)


def connected_to(dispatcher: Dispatcher) -> list[int]:
    """The ports of all masters, if all are known and connected. Looks only: nothing is sent or looked for by it."""
    topology = dispatcher._topology
    masters = topology.masters()
    is_whole = not topology.problem and all(connection.is_open for connection in masters)
    return [connection.port for connection in masters] if is_whole else []


def unsent(dispatcher: Dispatcher) -> int:
    """How many commands wait for a connection."""
    return sum(len(connection._waiting) for connection in dispatcher._topology._connections.values())


def key_of_shard(shard: int) -> str:
    """A new API key whose counters are on that master of an embedded cluster."""
    slots = range(SLOTS * shard // MASTERS, SLOTS * (shard + 1) // MASTERS)
    while True:
        api_key = new_api_key()
        if slot_of(key_id(api_key)) in slots:
            return api_key


@asynccontextmanager
async def lone_master(*slots: int) -> AsyncIterator[tuple[EmbeddedServer, Redis]]:
    """A cluster of one server with this range of slots. Much sooner there than a whole one, but it runs no scripts."""
    config = {
        "cluster-enabled": "yes",
        "cluster-port": str(free_ports(1)[0]),
        "cluster-announce-ip": "127.0.0.1",
    }
    async with EmbeddedStore("single", extra_config=config) as store:
        with Redis(port=store.servers[0].port) as client:
            if slots:
                client.execute_command("CLUSTER ADDSLOTSRANGE", *slots)
            yield store.servers[0], client


# ---- the cluster changes -------------------------------------------------------------------------------------------


async def test_a_failover_is_found_by_idle_busy_and_new_nodes() -> None:
    limit, callers = 300, 4
    async with EmbeddedStore("cluster", replicas=1) as store:
        master = store.servers[0]
        replica = next(server for server in store.servers if server.master_port == master.port)
        kid = declare(store.url, key_of_shard(0), rpm=limit)
        another = declare(store.url, key_of_shard(0))
        answers: Counter[Outcome | None] = Counter()

        async def keep_asking(dispatcher: Dispatcher) -> None:
            while not answers[Outcome.REJECTED]:
                try:
                    answers[(await dispatcher.admit(kid, ONE)).outcome] += 1
                except StoreUnavailable:
                    answers[None] += 1
                await asyncio.sleep(0.01)  # their pace: they must not be at the limit before the end has come

        async with dispatching(store.url) as idle, dispatching(store.url, timeout_ms=250) as busy:
            await eventually(lambda: connected_to(idle))
            streams = [asyncio.create_task(keep_asking(busy)) for _ in range(callers)]
            await eventually(lambda: answers[Outcome.ADMITTED] >= 50)
            with Redis(port=master.port) as client:
                # Nothing that was answered is lost with the master: all of it is in front of this in its stream.
                for _ in range(2):
                    client.set(f"{{{kid}}}", 1)
                assert client.wait(1, 20_000) == 1
            master.kill()
            async with dispatching(store.url) as new:
                for dispatcher in (idle, new):
                    await eventually(lambda found=dispatcher: replica.port in connected_to(found), 40)
                    await dispatcher.check()
                    assert (await dispatcher.admit(another, ONE)).outcome is Outcome.ADMITTED
                async with asyncio.timeout(40):
                    await asyncio.gather(*streams)
            usage = await idle.peek(kid)
    assert answers[None], "the failover was not met"
    assert answers[Outcome.ADMITTED] <= limit
    assert answers[Outcome.ADMITTED] + answers[None] >= limit
    assert usage is not None
    assert usage.used.requests == limit


async def test_slots_that_get_an_owner_after_the_start_are_found_without_traffic() -> None:
    async with lone_master() as (server, client):
        url = f"redis+cluster://127.0.0.1:{server.port}"
        async with dispatching(url) as before_any:
            with pytest.raises(StoreUnavailable, match="no slots"):
                await before_any.check()
            client.execute_command("CLUSTER ADDSLOTSRANGE", 1, SLOTS - 1)
            async with dispatching(url) as before_the_last:
                with pytest.raises(StoreUnavailable, match="1 slots of the cluster have no master"):
                    await before_the_last.check()
                client.execute_command("CLUSTER ADDSLOTS", 0)
                for dispatcher in (before_any, before_the_last):
                    await eventually(lambda found=dispatcher: connected_to(found))
                    await dispatcher.check()


async def test_the_urls_address_finds_a_cluster_that_has_moved_as_a_whole() -> None:
    async with (
        lone_master(0, SLOTS - 1) as (old, _),
        lone_master(0, SLOTS - 1) as (new, _),
        FaultProxy(old.port) as name,
        dispatching(f"redis+cluster://127.0.0.1:{name.port}") as dispatcher,
    ):
        await eventually(lambda: connected_to(dispatcher) == [old.port])
        name.target_port = new.port
        old.kill()
        await eventually(lambda: connected_to(dispatcher) == [new.port])
        await dispatcher.check()


async def test_a_shard_that_hangs_does_not_fill_the_node() -> None:
    max_waiting = 50
    async with EmbeddedStore("cluster") as store:
        frozen = declare(store.url, key_of_shard(0))
        healthy = declare(store.url, key_of_shard(1))
        async with dispatching(store.url, max_waiting=max_waiting) as dispatcher:
            for kid in (frozen, healthy):
                await dispatcher.admit(kid, ONE)
            process = store.servers[0].process
            assert process is not None
            process.send_signal(signal.SIGSTOP)
            try:
                stuck = dispatcher.admit(frozen, ONE)
                for _ in range(10):
                    decisions = await asyncio.gather(*(dispatcher.admit(healthy, ONE) for _ in range(20)))
                    assert {decision.outcome for decision in decisions} == {Outcome.ADMITTED}
                assert not stuck.done()
            finally:
                process.send_signal(signal.SIGCONT)
            assert (await stuck).outcome is Outcome.ADMITTED


# ---- the connection ------------------------------------------------------------------------------------------------


class Pong(asyncio.Protocol):
    """A server that is well."""

    def __init__(self) -> None:
        self.is_closed = False

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_closed = True

    def data_received(self, data: bytes) -> None:
        self.transport.write(b"+PONG\r\n" * data.count(b"PING"))


@pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_a_server_that_hangs_up_at_once_is_tried_until_it_serves(
    new_loop: Callable[[], asyncio.AbstractEventLoop],
) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        count, resets, accepted = 8, 24, 0
        serving = []

        def accept() -> None:
            nonlocal accepted
            try:
                peer, _ = listening.accept()
            except BlockingIOError:
                return
            accepted += 1
            peer.setblocking(False)
            if accepted <= resets:
                hang_up(peer, turns=accepted % 4)
            else:
                serving.append(loop.create_task(loop.connect_accepted_socket(Pong, peer)))

        def hang_up(peer: socket.socket, turns: int) -> None:
            """Before, while and after the client learns that it is connected."""
            if turns:
                loop.call_soon(hang_up, peer, turns - 1)
            else:
                peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                peer.close()

        with socket.create_server(("127.0.0.1", 0), backlog=count) as listening:
            listening.setblocking(False)
            loop.add_reader(listening, accept)
            connections = [ServerConnection(*listening.getsockname()) for _ in range(count)]
            try:
                async with asyncio.timeout(20):
                    await asyncio.gather(*(connection.ping() for connection in connections))
                assert accepted == resets + count
            finally:
                loop.remove_reader(listening)
                for connection in connections:
                    await connection.close()
                served = await asyncio.gather(*serving)
                await eventually(lambda: all(server.is_closed for _, server in served))

    loop = new_loop()
    try:
        loop.run_until_complete(main())
    finally:
        loop.close()


class Unsent:
    """A command that notes what is done with it."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def to_wire(self) -> bytes:
        self.calls.append("wire")
        return b"*1\r\n$4\r\nPING\r\n"

    def on_reply(self, reply: object) -> None:
        self.calls.append("replied")

    def on_lost(self) -> None:
        self.calls.append("lost")


@pytest.mark.parametrize("to_ping", [b"+PONG", b"-NOAUTH Authentication required."])
async def test_a_refused_login_is_tried_again_ever_later(to_ping: bytes, caplog: pytest.LogCaptureFixture) -> None:
    loop = asyncio.get_running_loop()
    times: list[float] = []

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        times.append(loop.time())
        await reader.readuntil(b"PING\r\n")
        writer.write(b"-WRONGPASS invalid username-password pair\r\n" + to_ping + b"\r\n")  # in one packet
        await reader.read()

    async with RawServer(refuse) as server:
        command = Unsent()
        connection = ServerConnection("127.0.0.1", server.port, handshake=(("AUTH", "secret"),))
        connection.send([command])
        await eventually(lambda: len(times) == 6)
        told = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
        await connection.close()
    assert command.calls == ["lost"], "the connection was taken for open"
    pauses = [later - earlier for earlier, later in pairwise(times)]
    for pause, least in zip(pauses, (0.02, 0.04, 0.08, 0.16, 0.32), strict=True):
        assert pause > 0.99 * least
    assert 5 <= len(told) <= 6, "once per attempt"
    assert all("WRONGPASS" in line and "secret" not in line for line in told)


async def test_a_login_that_may_not_name_its_connection_decides(embedded_single: str) -> None:
    host, port = parse_store_url(embedded_single).endpoints[0]
    kid = declare(embedded_single, new_api_key())
    with Redis(host, port) as client:
        client.execute_command("ACL SETUSER", "nameless", "on", ">pw", "~*", "+@all", "-client|setname")
        topology = Topology(parse_store_url(f"redis://nameless:pw@{host}:{port}"), client_name="limiter-1")
        dispatcher = Dispatcher(topology, timeout_ms=20_000)
        await dispatcher.start()
        try:
            assert (await dispatcher.admit(kid, ONE)).outcome is Outcome.ADMITTED
        finally:
            await dispatcher.close()
            client.execute_command("ACL DELUSER", "nameless")


# ---- what is counted, and what is left -----------------------------------------------------------------------------


@pytest.mark.parametrize("window_buckets", [5, 600])
async def test_an_outage_leaves_nothing_of_the_requests_that_it_failed(
    embedded_single: str, free_port: int, window_buckets: int
) -> None:
    """But for one that may have run: it is asked about until the store has answered, and given back then."""
    _, port = parse_store_url(embedded_single).endpoints[0]
    kid, another = (declare(embedded_single, new_api_key()) for _ in range(2))
    async with (
        FaultProxy(port) as proxy,
        dispatching(f"redis://127.0.0.1:{proxy.port}", timeout_ms=50, window_buckets=window_buckets) as dispatcher,
    ):
        await eventually(lambda: connected_to(dispatcher))
        proxy.pass_requests = False
        lost = dispatcher.admit(kid, ONE)
        await proxy.swallowed.wait()
        proxy.pass_requests = True
        proxy.target_port = free_port
        proxy.reset_all()
        await eventually(lambda: not connected_to(dispatcher))
        unknown = [key_id(new_api_key()) for _ in range(100)]
        answers = await asyncio.gather(
            lost,
            *(dispatcher.admit(each, ONE) for each in (kid, another, *unknown)),
            *(dispatcher.peek(kid) for _ in range(100)),
            return_exceptions=True,
        )
        assert {type(answer) for answer in answers} == {StoreUnavailable}
        await eventually(lambda: (dispatcher._batches.in_flight, unsent(dispatcher)) == (1, 1))
        proxy.target_port = port
        await eventually(lambda: connected_to(dispatcher) and not dispatcher.outage.is_on)
        assert await dispatcher.drain(20)
        usages = [await dispatcher.peek(each) for each in (kid, another)]
        assert [usage and usage.used for usage in usages] == [Amounts(0, 0, 0), Amounts(0, 0, 0)]


async def test_what_is_given_back_while_the_store_is_out_of_memory_arrives_later() -> None:
    async with EmbeddedStore("single") as store:
        kid = declare(store.url, new_api_key())
        async with dispatching(store.url) as dispatcher:
            limiter = Limiter(dispatcher)
            reservation = limiter.reservation(kid, await limiter.admit(kid, Need(10, 5_000, 0)))
            with Redis(port=store.servers[0].port) as client:
                client.config_set("maxmemory", 1)
                retries = dispatcher._router.retries
                reservation.settle(100)
                await eventually(lambda: dispatcher._router.retries > retries)
                client.config_set("maxmemory", 0)
            assert await dispatcher.drain(20)
            usage = await dispatcher.peek(kid)
            assert usage is not None
            assert usage.used == Amounts(1, 10, 100)


async def test_a_request_cancelled_in_the_turn_of_its_verdict_is_refunded(embedded_single: str) -> None:
    kid = declare(embedded_single, new_api_key())
    async with dispatching(embedded_single) as dispatcher:
        request = asyncio.create_task(Limiter(dispatcher).admit(kid, Need(10, 100, 0)))
        replies = dispatcher._replies
        resolve = replies.on_batch_reply

        def resolve_and_cancel(*arguments: Any) -> None:
            replies.on_batch_reply = resolve  # type: ignore[method-assign]
            resolve(*arguments)
            request.cancel()

        replies.on_batch_reply = resolve_and_cancel  # type: ignore[method-assign]
        with pytest.raises(asyncio.CancelledError):
            await request
        assert await dispatcher.drain(20)
        usage = await dispatcher.peek(kid)
        assert usage is not None
        assert usage.used == Amounts(1, 0, 0)


async def test_nothing_runs_after_the_end() -> None:
    async with lone_master(0, SLOTS - 1) as (server, _):
        before = asyncio.all_tasks()
        async with dispatching(f"redis+cluster://127.0.0.1:{server.port}") as dispatcher:
            await eventually(lambda: connected_to(dispatcher))
            assert server.process is not None
            server.process.send_signal(signal.SIGSTOP)  # ended with the store, which kills
            decision = dispatcher.admit(key_id("x"), ONE)
            dispatcher.give_back(key_id("y"), 1, 1, 1)
            await eventually(lambda: dispatcher._batches.in_flight == 2)
            assert not await dispatcher.drain(0.01)
        assert asyncio.all_tasks() == before
        with pytest.raises(StoreUnavailable):
            await decision
