"""Nodes and commands that meet nodes of another storage format: they end, and say why."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from node_commands import StartCommand, ask, eventually
from ports import free_port, free_ports
from redis import Redis
from stores import running_store

from limiter_node.credentials import key_id
from limiter_node.store.keyspace import FORMAT_KEY, NODES_KEY, limits_key
from limiter_node.store.url import parse_store_url

WHY = (
    "nodes of storage format 2 use this store, but this node uses format 1: stop those nodes first, or give this node "
    "another store"
)


class SharedStore:
    """A store that nodes of format 2 use, or will."""

    def __init__(self, url: str, client: Redis) -> None:
        self.url, self.client = url, client

    def become_format_2(self) -> None:
        """A node of format 2 is there, and nobody else: as if the store had been another one so far."""
        seconds, _ = self.client.time()
        with self.client.pipeline() as pipeline:
            pipeline.flushall()
            # As far ahead as an announcement counts, so that nobody has to repeat it.
            pipeline.hset(NODES_KEY, "newer", (seconds + 4) * 1000)
            pipeline.set(FORMAT_KEY, 2)
            pipeline.execute()


@pytest.fixture
def shared_store() -> Iterator[SharedStore]:
    with running_store("single") as store:
        host, port = parse_store_url(store.url).endpoints[0]
        with Redis(host, port) as client:
            yield SharedStore(store.url, client)


async def test_a_node_refuses_at_start(limiter_node: StartCommand, shared_store: SharedStore, keys_file: Path) -> None:
    shared_store.become_format_2()
    command = await limiter_node("serve", "--port", free_port(), "--store", shared_store.url, "--keys", keys_file)
    assert await command.ended() == 1
    assert await command.errors() == f"error: {WHY}\n"
    assert not shared_store.client.exists(limits_key(key_id("sk-alice"))), "no key was loaded"


async def test_up_says_why_it_does_not_start(
    limiter_node: StartCommand, shared_store: SharedStore, keys_file: Path
) -> None:
    shared_store.become_format_2()
    command = await limiter_node("up", "--port", free_ports(2)[0], "--store", shared_store.url, "--keys", keys_file)
    assert await command.ended() == 1
    assert await command.errors() == f"error: {WHY}\n"


@pytest.mark.parametrize("arguments", ["load keys.toml", "create new", "set old --rpm 1", "delete old --yes"])
async def test_commands_change_no_key(
    limiter_node: StartCommand, shared_store: SharedStore, keys_file: Path, arguments: str
) -> None:
    shared_store.become_format_2()
    shared_store.client.set(limits_key(key_id("sk-old")), b"of format 2")
    words = arguments.replace("keys.toml", str(keys_file)).split()
    started = await limiter_node("keys", *words, "--store", shared_store.url)
    assert await started.ended() == 1
    assert await started.errors() == f"error: {WHY}\n"
    assert shared_store.client.keys("*limits") == [limits_key(key_id("sk-old")).encode()]


async def test_a_node_that_finds_out_at_run_time_ends(limiter_node: StartCommand, shared_store: SharedStore) -> None:
    command = await limiter_node("serve", "--port", free_port(), "--store", shared_store.url)
    await command.line(r"node \S+ ready \S+")
    await eventually(lambda: shared_store.client.get(FORMAT_KEY) == b"1")
    shared_store.become_format_2()
    assert await command.ended() == 1
    lines = (await command.errors()).splitlines()
    assert len([line for line in lines if " ERROR " in line and WHY in line]) == 1
    assert lines[-1] == f"error: {WHY}"
    assert shared_store.client.hkeys(NODES_KEY) == [b"newer"]


async def test_up_says_why_a_node_ended(limiter_node: StartCommand, shared_store: SharedStore, keys_file: Path) -> None:
    command = await limiter_node(
        "up", "--nodes", 1, "--port", free_port(), "--store", shared_store.url, "--keys", keys_file
    )
    url = (await command.line(r"node 1 ready (\S+)"))[1]
    await command.line("ready")
    assert (await ask(url, "sk-alice"))[0] == 200
    await eventually(lambda: shared_store.client.get(FORMAT_KEY) == b"1")
    shared_store.become_format_2()
    assert command.process.stderr is not None
    async for line in command.process.stderr:
        if line.decode().rstrip().endswith(f"node 1 ended ({WHY}): restart in 0.2 s"):
            break
    else:
        pytest.fail("up has ended")
    # When the others have left, the node is started again and stays.
    shared_store.client.delete(NODES_KEY, FORMAT_KEY)
    async for line in command.process.stderr:
        if b"node 1 is ready again" in line:
            break
    assert shared_store.client.get(FORMAT_KEY) in (b"1", None)
    assert await command.stop() == 0
