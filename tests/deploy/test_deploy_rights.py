"""deploy/users.conf on real servers: nodes, `keys` and `top` can do all they do with it, and no right is left over."""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import AsyncExitStack, ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientSession
from balancers import DEPLOY
from fleet import Fleet, chat, running_fleet
from own_commands import output_of
from redis import Redis
from redis.exceptions import ResponseError
from stores import running_store

from limiter_node.credentials import key_id
from limiter_node.store.admin.hottest import HottestKeys
from limiter_node.store.embedded.binary import StoreError
from limiter_node.store.embedded.stores import EmbeddedStore
from limiter_node.store.keyspace import declared_key, limits_key, past_key, window_key
from limiter_node.store.url import parse_store_url

SERVERS = [None, *(["redis-server"] if shutil.which("redis-server") else [])]
PASSWORD = "correct horse"
MOVED_KEY = "sk-moved"
ORGANISATION = """
[accounts.acme]
rpm = 1_000
[keys.sk-alice]
name = "alice"
account = "acme"
[keys.sk-own]
tpm = 10_000
"""
KEYS = [MOVED_KEY, *(f"sk-{number}" for number in range(12))]


def users_conf(directory: Path) -> Path:
    """The shipped file, made as it says."""
    command = next(line.removeprefix("#") for line in users_file().splitlines() if "sha256sum" in line)
    made = directory / "users.conf"
    command = command.replace("/etc/valkey/users.conf", str(made))
    environment = {**os.environ, "PASSWORD": PASSWORD}
    subprocess.run(["sh", "-c", command], cwd=DEPLOY, env=environment, check=True)
    assert hashlib.sha256(PASSWORD.encode()).hexdigest() in made.read_text()
    return made


def users_file() -> str:
    return (DEPLOY / "users.conf").read_text()


def allowed() -> set[str]:
    """The commands that the file allows, as the server's statistics name them."""
    (line,) = (line for line in users_file().splitlines() if line.startswith("user "))
    return set(re.findall(r" \+(\S+)", line))


@contextmanager
def clients(store: EmbeddedStore) -> Iterator[list[Redis]]:
    """One of each server, as its administrator."""
    with ExitStack() as stack:
        yield [stack.enter_context(Redis(port=server.port)) for server in store.servers]


def login(store: EmbeddedStore) -> str:
    return store.url.replace("://", "://limiter:correct%20horse@")


@pytest.fixture(params=SERVERS)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[EmbeddedStore]:
    """A cluster whose masters have a replica each."""
    config = {"include": str(users_conf(tmp_path))}
    with running_store("cluster", replicas=1, binary=request.param, extra_config=config) as running:
        yield running


async def limiter_node(*arguments: str) -> str:
    return await asyncio.to_thread(output_of, "limiter-node", *arguments)


def own_process(*arguments: str) -> None:
    """Run a command that waits for signals."""
    subprocess.run([sys.executable, "-m", "limiter_node", *arguments], capture_output=True, timeout=60, check=True)


async def test_nodes_keys_and_top_need_these_rights_and_no_others(store: EmbeddedStore, tmp_path: Path) -> None:
    keys = tmp_path / "keys.toml"
    plain = "".join(f'[keys."{key}"]\nrpm = 1_000\n' for key in KEYS)
    keys.write_text(f"{plain}{ORGANISATION}")
    url = login(store)
    with clients(store) as servers:
        for server in servers:
            server.acl_log_reset()
            server.config_resetstat()
        options = ("--keys", str(keys), "--store", url, "--replica-acks", "1", "--decision-timeout-ms", "20000")
        with running_fleet(tmp_path, *options) as fleet:
            await limiter_node("keys", "load", str(keys), "--store", url)
            digest = f"sha256:{hashlib.sha256(b'sk-new').hexdigest()}"
            await limiter_node("keys", "create", "new", "--digest", digest, "--rpm", "5", "--store", url)
            assert "sk-new" not in await limiter_node("keys", "list", "--store", url), "a listing names no key"
            async with ClientSession() as session, asyncio.timeout(60):
                for key in (*KEYS, "sk-new", "sk-alice", "sk-own"):
                    await ask(session, fleet, key)
                await become_accounts(keys, url)
                await manage(url)
                await limiter_node("keys", "show", MOVED_KEY, "--store", url)
                own_process("top", "--store", url, "--target", fleet.nodes[0], "--once")
                for server in servers:
                    server.execute_command("SCRIPT FLUSH")
                await watch_old_windows(session, fleet, url, KEYS[0])
                await lose(session, fleet, servers, KEYS[2])
                await move(session, fleet, servers, MOVED_KEY)
                await fail_over(session, fleet, servers, KEYS)
            for key in ("sk-new", "sk-alice", "sk-own"):
                await limiter_node("keys", "delete", key, "--yes", "--store", url)
        refused = [entry for server in servers for entry in server.acl_log() if entry["reason"] != "auth"]
        assert [(entry["object"], entry["username"]) for entry in refused] == []
        used = {name.removeprefix("cmdstat_") for server in servers for name in server.info("commandstats")}
        assert allowed() - used == set(), "rights that nothing needs"


async def become_accounts(keys: Path, url: str) -> None:
    """A plain key with usage becomes an account of its own, and one of its own another's; all are shown."""
    later = keys.with_name("later.toml")
    later.write_text(f'{ORGANISATION}account = "acme"\n[keys.sk-new]\ntpm = 10_000\n')
    await limiter_node("keys", "load", str(later), "--store", url)
    assert "acme/alice" in await limiter_node("keys", "list", "--store", url)
    for key in ("sk-new", "sk-alice", "sk-own"):
        assert "requests/1m" in await limiter_node("keys", "show", key, "--store", url)


async def manage(url: str) -> None:
    """An account with a team and keys: made, changed, shown, refused and deleted."""
    for typed in (
        "accounts create globex --rpm 5000",
        "accounts set globex --tpm 10000",
        "teams create globex/research --rpm 1000",
        "keys create globex/carol --team research",
        "keys create plain --rpm 5",
        "keys set plain --rpm 6",
        "keys create brief --rpm 5",
        "keys delete brief --yes",
        "keys set globex/carol --rpm 60",
        "keys rotate globex/carol --grace 24h",
        "keys rotate plain --yes",
        "keys disable globex/carol",
        "keys enable globex/carol",
        "keys expire globex/carol --in 1h",
        "keys list --account globex",
        "limits show globex/carol --model gpt-4o",
        "keys show plain",
        "accounts show globex",
        "accounts list",
        "teams show globex/research",
        "teams list globex",
        "accounts create initech",
        "keys move globex/carol initech",
        "keys move initech/carol globex --team research",
        "accounts delete initech --yes",
        "keys revoke globex/carol --all --yes",
        "keys delete plain --yes",
        "teams delete globex/research --recursive --yes",
        "accounts delete globex --yes",
    ):
        if typed.startswith("keys rotate globex/carol"):
            with pytest.raises(AssertionError, match="account 'globex' has a key 'carol'"):
                await limiter_node("teams", "create", "globex/carol", "--store", url)
        await limiter_node(*typed.split(), "--store", url)


async def ask(session: ClientSession, fleet: Fleet, key: str) -> None:
    """Each node, until it is served: for as long as its shard fails over."""
    for node in fleet.nodes:
        while (await chat(session, node, key, max_tokens=1))[0].status != 200:
            await asyncio.sleep(0.05)


async def watch_old_windows(session: ClientSession, fleet: Fleet, url: str, key: str) -> None:
    """As `top` does where sums hold what has left the window: of a second here, so that there is such a key."""
    address = parse_store_url(url)
    async with AsyncExitStack() as stack:
        masters = [await stack.enter_async_context(address.node_client(*endpoint)) for endpoint in address.endpoints]
        peeks = 0
        while not peeks:
            await ask(session, fleet, key)
            for master in masters:
                survey = HottestKeys(5, window_buckets=10)
                await survey.look(master)
                peeks += survey.peeks


async def lose(session: ClientSession, fleet: Fleet, servers: list[Redis], key: str) -> None:
    """All that the store has of a key, which its nodes then declare and charge again."""
    kid = key_id(key)
    owner = owning(servers, limits_key(kid))
    owner.delete(limits_key(kid), window_key(kid), past_key(kid))
    await ask(session, fleet, key)
    assert owner.exists(limits_key(kid))


async def move(session: ClientSession, fleet: Fleet, servers: list[Redis], key: str) -> None:
    """The key's slot, first half-way: while its data is there and its owner still here, each decision gets an ASK."""
    kid = key_id(key)
    keys = [limits_key(kid), window_key(kid), past_key(kid), declared_key(kid)]
    source = owning(servers, keys[0])
    target = next(server for server in servers[:3] if server is not source)
    slot = source.cluster("KEYSLOT", keys[0])
    ids = {server: server.execute_command("CLUSTER MYID").decode() for server in (source, target)}
    target.execute_command("CLUSTER SETSLOT", slot, "IMPORTING", ids[source])
    source.execute_command("CLUSTER SETSLOT", slot, "MIGRATING", ids[target])
    source.execute_command("MIGRATE", "127.0.0.1", port(target), "", 0, 5_000, "KEYS", *keys)
    await ask(session, fleet, key)
    for server in (target, source):
        server.execute_command("CLUSTER SETSLOT", slot, "NODE", ids[target])
    await ask(session, fleet, key)


async def fail_over(session: ClientSession, fleet: Fleet, servers: list[Redis], keys: list[str]) -> None:
    """The first master, by its replica; its keys are served again."""
    replica = next(server for server in servers[3:] if server.role()[2] == port(servers[0]))
    replica.execute_command("CLUSTER FAILOVER")
    while replica.role()[0] != b"master":
        await asyncio.sleep(0.01)
    for key in keys:
        await ask(session, fleet, key)


def owning(servers: list[Redis], key: str) -> Redis:
    slot = servers[0].cluster("KEYSLOT", key)
    owners = [each[2][1] for each in servers[0].execute_command("CLUSTER SLOTS") if each[0] <= slot <= each[1]]
    return next(server for server in servers if port(server) == owners[0])


def port(server: Redis) -> int:
    number: int = server.get_connection_kwargs()["port"]
    return number


def test_the_login_can_do_nothing_else(store: EmbeddedStore) -> None:
    with Redis(port=store.servers[0].port, username="limiter", password=PASSWORD) as client:
        refused: list[tuple[Any, ...]] = [
            ("FLUSHALL",),
            ("KEYS", "*"),
            ("CONFIG", "GET", "*"),
            ("CONFIG", "SET", "maxmemory-policy", "allkeys-lru"),
            ("ACL", "LIST"),
            ("DEBUG", "SLEEP", "0"),
            ("SHUTDOWN",),
            ("CLUSTER", "RESET"),
            ("CLIENT", "KILL", "TYPE", "normal"),
            ("SCRIPT", "FLUSH"),
            ("PUBLISH", "a", "b"),
            ("MIGRATE", "127.0.0.1", 1, "rl:x", 0, 1),
            ("GET", "another"),
            ("EVAL", "return redis.call('GET', 'another')", 0),
            ("EVAL", "return redis.call('FLUSHALL')", 0),
        ]
        for command in refused:
            with pytest.raises(ResponseError, match=r"(?i)permission|not allowed|can't (access|run)"):
                client.execute_command(*command)


@pytest.mark.parametrize("binary", SERVERS)
def test_no_server_takes_the_file_as_it_is(binary: str | None) -> None:
    """A password has to be chosen first."""
    config = {"include": str(DEPLOY / "users.conf")}
    with pytest.raises(StoreError), running_store("single", binary=binary, extra_config=config):
        pass
