"""From listening to ready: a node listens whatever its store does, and says that it is ready when it can decide."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import pytest
from dispatching import dispatching
from fault_proxy import FaultProxy
from node_commands import Command, StartCommand, ask, eventually, listening, readiness
from ports import free_ports
from store_tools import store_client

from limiter_node.credentials import key_id
from limiter_node.declarations import Declarations
from limiter_node.errors import StoreUnavailable
from limiter_node.limiter.admission import Limiter
from limiter_node.start import Start
from limiter_node.store.admin.preparation import Preparation
from limiter_node.store.admin.store_admin import administering
from limiter_node.store.embedded.stores import EmbeddedStore, Mode
from limiter_node.store.outage.probe import probe_target
from limiter_node.store.scripts import load_script
from limiter_node.store.url import parse_store_url

EVICTING = {"maxmemory-policy": "allkeys-lru"}
DROPS = "has maxmemory-policy allkeys-lru, which drops counters"


class Unready:
    """A started node whose store doesn't decide: what it has said so far, and what it says next."""

    def __init__(self, command: Command, url: str) -> None:
        assert command.process.stdout is not None
        self.command, self.url = command, url
        self._line = asyncio.create_task(command.process.stdout.readline())

    def has_said_that_it_is_ready(self) -> bool:
        return self._line.done()

    async def becomes_ready(self) -> None:
        assert await self._next_line() == f"node me ready {self.url}\n"
        assert await readiness(self.url) == (200, "")

    async def ends_unready(self) -> int:
        """Its exit code; it has never said that it is ready."""
        code = await self.command.ended()
        assert await self._next_line() == ""
        return code

    async def _next_line(self) -> str:
        async with asyncio.timeout(20):
            return (await self._line).decode()


async def start_unready(limiter_node: StartCommand, port: int, store: str, *arguments: object) -> Unready:
    options: Sequence[object] = ("--node-id", "me", "--log-level", "warning", *arguments)
    command = await limiter_node("serve", "--port", port, "--store", store, *options)
    node = Unready(command, f"http://127.0.0.1:{port}")
    await listening(node.url)
    return node


def warnings(errors: str) -> list[str]:
    """The lines on stderr from the word WARNING on."""
    return ["WARNING" + line.partition("WARNING")[2] for line in errors.splitlines()]


@pytest.mark.parametrize("mode", ["single", "cluster"])
async def test_a_store_that_comes_late(limiter_node: StartCommand, keys_file: Path, free_port: int, mode: Mode) -> None:
    store_port, *_ = free_ports(3)
    scheme = "redis" if mode == "single" else "redis+cluster"
    store_url = f"{scheme}://127.0.0.1:{store_port}"
    node = await start_unready(limiter_node, free_port, store_url, "--keys", keys_file)
    status, why = await readiness(node.url)
    assert status == 503
    assert f"cannot reach the store at {store_url}: is it running and reachable?" in why
    assert (await ask(node.url, "sk-alice"))[0] == 503
    assert not node.has_said_that_it_is_ready()
    async with EmbeddedStore(mode, port=store_port) as store:
        await node.becomes_ready()
        async with administering(parse_store_url(store.url)) as admin:
            limits = await admin.get(key_id("sk-alice"))
        assert limits is not None
        assert (limits.rpm, limits.name) == (50, "alice")
        assert await ask(node.url, "sk-alice") == (200, "me")
        assert await node.command.stop() == 0
    told = [line for line in warnings(await node.command.errors()) if "ready" in line]
    assert len(told) == 2
    not_ready = "WARNING not ready, /readyz returns 503 until each shard of the store decides: cannot reach"
    assert told[0].startswith(not_ready)
    assert told[1].startswith("WARNING ready after ")


@pytest.mark.parametrize("has_keys", [False, True])
async def test_a_node_serves_healthy_shards_and_is_ready_with_the_last_one(
    limiter_node: StartCommand, keys_file: Path, free_port: int, has_keys: bool
) -> None:
    async with EmbeddedStore("cluster") as store:
        async with administering(parse_store_url(store.url)) as admin:
            owner = admin._masters.owner(f"{{{key_id('sk-alice')}}}")
            healthy = owner.connection_pool.connection_kwargs["port"]
        away = next(server for server in store.servers if server.port != healthy)
        # So that the cluster's remaining shards go on.
        for server in store.servers:
            with store_client(f"redis://127.0.0.1:{server.port}") as client:
                client.config_set("cluster-require-full-coverage", "no")
        away.kill()
        arguments = ("--keys", keys_file) if has_keys else ("--keys-file", keys_file)
        node = await start_unready(limiter_node, free_port, store.url, *arguments)

        async def serves() -> bool:
            return await ask(node.url, "sk-alice") == (200, "me")

        await eventually(serves)
        status, why = await readiness(node.url)
        assert (status, bool(why)) == (503, True)
        assert not node.has_said_that_it_is_ready()
        away.start()
        await node.becomes_ready()
        assert await node.command.stop() == 0


async def test_a_store_that_takes_connections_and_answers_nothing(
    limiter_node: StartCommand, embedded_single: str, free_port: int
) -> None:
    ((_, store_port),) = parse_store_url(embedded_single).endpoints
    async with FaultProxy(store_port) as proxy:
        proxy.pass_replies = False
        node = await start_unready(limiter_node, free_port, f"redis://127.0.0.1:{proxy.port}")
        await proxy.swallowed.wait()
        status, why = await readiness(node.url)
        assert (status, why) == (503, f"redis://127.0.0.1:{proxy.port} does not reply: is it running?")
        assert not node.has_said_that_it_is_ready()
        proxy.pass_replies = True
        proxy.reset_all()
        await node.becomes_ready()
        assert await node.command.stop() == 0


async def test_a_store_that_answers_and_does_not_decide(limiter_node: StartCommand, free_port: int) -> None:
    async with EmbeddedStore("single") as store:
        with store_client(store.url) as client:
            client.config_set("maxmemory", "1")
            node = await start_unready(limiter_node, free_port, store.url)

            async def says_why() -> bool:
                status, why = await readiness(node.url)
                assert status == 503
                return why.startswith(f"store 127.0.0.1:{store.servers[0].port} has not decided yet: OOM ")

            await eventually(says_why)
            assert not node.has_said_that_it_is_ready()
            client.config_set("maxmemory", "0")
            await node.becomes_ready()
        assert await node.command.stop() == 0


async def test_a_node_is_stopped_before_it_is_ready(
    limiter_node: StartCommand, embedded_single: str, free_port: int, keys_file: Path
) -> None:
    """With a store that is away, and with one that hangs."""
    (nothing,) = free_ports(1)
    node = await start_unready(limiter_node, free_port, f"redis://127.0.0.1:{nothing}", "--keys", keys_file)
    node.command.process.terminate()
    assert await node.ends_unready() == 0
    ((_, store_port),) = parse_store_url(embedded_single).endpoints
    async with FaultProxy(store_port) as proxy:
        proxy.pass_requests = False
        node = await start_unready(limiter_node, free_port, f"redis://127.0.0.1:{proxy.port}", "--keys", keys_file)
        node.command.process.terminate()
        assert await node.ends_unready() == 0


async def test_a_node_is_stopped_before_it_listens(limiter_node: StartCommand, embedded_single: str) -> None:
    """While it asks a store that hangs for the first time."""
    ((_, store_port),) = parse_store_url(embedded_single).endpoints
    async with FaultProxy(store_port) as proxy:
        proxy.pass_requests = False
        command = await limiter_node("serve", "--port", free_ports(1)[0], "--store", f"redis://127.0.0.1:{proxy.port}")
        async with asyncio.timeout(20):
            await proxy.swallowed.wait()
        assert await command.stop() == 0
        assert "serves on port" not in await command.errors()


async def test_a_store_that_must_not_be_used_is_refused_in_one_line(limiter_node: StartCommand) -> None:
    async with EmbeddedStore("single", extra_config=EVICTING) as store:
        command = await limiter_node("serve", "--port", free_ports(1)[0], "--store", store.url)
        assert await command.ended() == 2
    errors = await command.errors()
    assert errors.startswith("error: ")
    assert DROPS in errors
    assert errors.count("\n") == 1


async def test_a_store_that_must_not_be_used_is_refused_when_it_comes_late(
    limiter_node: StartCommand, free_port: int
) -> None:
    (store_port,) = free_ports(1)
    node = await start_unready(limiter_node, free_port, f"redis://127.0.0.1:{store_port}", "--drain-delay", 600)
    async with EmbeddedStore("single", port=store_port, extra_config=EVICTING):
        assert await node.ends_unready() == 2
    errors = (await node.command.errors()).splitlines()
    assert errors[-1].startswith("error: ")
    assert DROPS in errors[-1]


async def test_a_slot_that_changes_hands_does_not_keep_a_node_from_being_ready() -> None:
    """The probe's key doesn't exist, so that a shard refers it to the slot's next owner; another slot decides."""
    async with EmbeddedStore("cluster") as store, dispatching(store.url) as dispatcher:
        topology = dispatcher._topology
        first = topology.masters()[0]
        slot = probe_target(topology, first, load_script("decide")).slot
        other = next(server for server in store.servers if server.port != first.port)
        with (
            store_client(f"redis://127.0.0.1:{first.port}") as source,
            store_client(f"redis://127.0.0.1:{other.port}") as destination,
        ):
            source.execute_command("CLUSTER SETSLOT", slot, "MIGRATING", destination.execute_command("CLUSTER MYID"))

        async def decided() -> str:
            try:
                await dispatcher.require_decisions()
            except StoreUnavailable as error:
                return str(error)
            return ""

        reasons: list[str] = []

        async def is_done() -> bool:
            reasons.append(await decided())
            return not reasons[-1]

        await eventually(is_done)
        assert any(f"has not decided yet: ASK {slot}" in reason for reason in reasons)


async def test_a_first_decision_counts_however_late_it_comes(embedded_single: str) -> None:
    ((_, store_port),) = parse_store_url(embedded_single).endpoints
    async with (
        FaultProxy(store_port) as proxy,
        dispatching(f"redis://127.0.0.1:{proxy.port}", timeout_ms=10) as dispatcher,
    ):
        await eventually(lambda: dispatcher._topology.masters()[0].is_open)
        proxy.delay_s = 0.3
        with pytest.raises(StoreUnavailable, match=f"store 127.0.0.1:{proxy.port} has not decided yet$"):
            await dispatcher.require_decisions()

        async def has_decided() -> bool:
            with suppress(StoreUnavailable):
                await dispatcher.require_decisions()
                return True
            return False

        await eventually(has_decided)


async def test_a_start_that_takes_long_is_told_once_and_so_is_its_end(
    embedded_single: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("limiter_node.start._PATIENCE_S", 0.0)
    ((_, store_port),) = parse_store_url(embedded_single).endpoints
    async with FaultProxy(store_port) as proxy, dispatching(f"redis://127.0.0.1:{proxy.port}") as dispatcher:
        proxy.pass_requests = False
        start = Start(Preparation(parse_store_url(embedded_single), Declarations()))
        completing = asyncio.create_task(start.complete(Limiter(dispatcher)))
        await eventually(lambda: f"store 127.0.0.1:{proxy.port}" in start.problem)
        assert not completing.done()
        proxy.pass_requests = True
        proxy.reset_all()
        await completing
    assert start.problem == ""
    told = [record for record in caplog.records if record.name == "limiter_node.start"]
    assert [record.__dict__["event"] for record in told] == ["node_not_ready", "node_ready"]
