"""Row 36: nodes of previous versions beside this one's, on one store, under load, as in a rolling upgrade."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
from asyncio.subprocess import PIPE, Process
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from accounts_in_store import put_account
from aiohttp import ClientSession
from chaos_scene import IS_TIMED, ROOT, Row, Scene, eventually, production_config, write_keys
from fleet import Fleet, chat
from ports import free_ports
from store_tools import store_client
from test_store_faults import assert_answered, assert_exact

from limiter_node.credentials import key_id
from limiter_node.key_states import Credential
from limiter_node.keysfile.reading import read_keys
from limiter_node.policy import REQUESTS, AccountPolicy, KeyPolicy, Limit, PolicyWindow
from limiter_node.store.admin.store_admin import administering
from limiter_node.store.embedded.stores import EmbeddedStore
from limiter_node.store.keyspace import FORMAT_KEY, NODES_KEY
from limiter_node.store.url import parse_store_url

BEFORE_FORMATS = "5e724ed09e57d654bae46bb5d4a940ab89b35d70"
"""The last commit before the storage had a number."""
BEFORE_ACCOUNTS = "f56f560"
"""The last commit before keys could be in accounts, or have limits other than three a minute."""
BEFORE_CREDENTIALS = "6dda0fd"
"""The last commit before keys could have several credentials, an end, or be disabled."""


def packages_of(commit: str, directory: Path) -> Path:
    """A directory with the packages of that version."""
    try:
        archive = subprocess.run(
            ["git", "archive", commit, "limiter_node", "lua"], cwd=ROOT, capture_output=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        pytest.skip(f"the history isn't here: commit {commit[:12]} is needed (a shallow clone? git fetch --unshallow)")
    subprocess.run(["tar", "-x", "-C", directory], input=archive.stdout, check=True)
    return directory


@pytest.fixture(scope="module")
def before_formats(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return packages_of(BEFORE_FORMATS, tmp_path_factory.mktemp("before-formats"))


@pytest.fixture(scope="module")
def before_accounts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return packages_of(BEFORE_ACCOUNTS, tmp_path_factory.mktemp("before-accounts"))


@pytest.fixture(scope="module")
def before_credentials(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return packages_of(BEFORE_CREDENTIALS, tmp_path_factory.mktemp("before-credentials"))


@asynccontextmanager
async def node(packages: Path, name: str, port: int, *options: str, complains: bool = False) -> AsyncIterator[Process]:
    """A node of the version whose packages are there; it accepts requests. SIGTERM ends it, cleanly.

    `complains`: it logs errors, because of what it meets.
    """
    environment = {each: value for each, value in os.environ.items() if not each.startswith(("LIMITER_", "BENCH_"))}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "limiter_node", "serve", "--port", str(port), "--node-id", name),
        *options,
        cwd=packages,
        env={**environment, "PYTHONPATH": str(packages)},
        stdout=PIPE,
        stderr=PIPE,
    )
    try:
        assert process.stdout is not None
        async with asyncio.timeout(20):
            line = await process.stdout.readline()
        assert line.startswith(f"node {name} ready ".encode()), (line, process.stderr and await process.stderr.read())
        yield process
        await stopped(process, complains=complains)
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def stopped(process: Process, *, complains: bool = False) -> None:
    """Drained, and ended without a word that a person should worry about, unless it is expected to complain."""
    if process.returncode is None:
        process.send_signal(signal.SIGTERM)
    assert process.stderr is not None
    async with asyncio.timeout(20):
        complaints = await process.stderr.read()
        assert await process.wait() == 0, complaints
    assert (b"ERROR" in complaints) == complains, complaints
    assert b"Traceback" not in complaints, complaints


async def until_announced(store: EmbeddedStore, nodes: int, storage_format: bytes | None) -> None:
    """So many nodes have announced themselves, and this storage format."""
    with store_client(store.url) as client:

        async def is_so() -> bool:
            return (client.hlen(NODES_KEY), client.get(FORMAT_KEY)) == (nodes, storage_format)

        await eventually(is_so)


async def is_under_load(on: Scene) -> bool:
    """Whether the load has begun: it needs all nodes for that."""
    return await on.counted() > 0


@pytest.fixture(params=["before formats", pytest.param("before accounts", marks=pytest.mark.chaos)])
def previous(request: pytest.FixtureRequest) -> tuple[Path, bytes | None]:
    """The packages of a previous version, and the storage format that it announces."""
    name = str(request.param).replace(" ", "_")
    return request.getfixturevalue(name), None if name == "before_formats" else b"1"


async def test_36_a_previous_version_beside_this_one(
    directory: Path, binary: str | None, row: Row, previous: tuple[Path, bytes | None]
) -> None:
    packages, storage_format = previous
    keys = write_keys(directory / "keys.toml", 60)
    ports = free_ports(2)
    store = EmbeddedStore("cluster", binary=binary, extra_config=production_config())
    async with store, AsyncExitStack() as nodes:
        options = ("--store", store.url, "--keys", str(keys), "--mock-length", "fixed:5")
        old = await nodes.enter_async_context(node(packages, "old", ports[0], *options))
        await until_announced(store, 1, storage_format)
        await nodes.enter_async_context(node(ROOT, "new", ports[1], *options))
        await until_announced(store, 2, b"1")
        on = Scene(directory, Fleet(tuple(f"http://127.0.0.1:{port}" for port in ports), store.url, None), store, keys)

        async def upgrade() -> None:
            """The old node is stopped; where it was, a new one is started."""
            await eventually(lambda: is_under_load(on))
            await stopped(old)
            await nodes.enter_async_context(node(ROOT, "newer", ports[0], *options))

        # By Zipf: the limits of some keys are reached before the fault, those of others after it.
        outcome = await on.under_load(upgrade, 6, after_s=0.5, arguments=("--zipf", "1"))
        row("36", "a node of the previous version beside one of this one, then replaced by one of this one", outcome)
        # While a port has no node its clients find nobody: a load balancer would have sent them to the other one. A
        # request may meet the moment in which the node closes its idle connection.
        # The node that is gone cannot tell what it turned away where its machine had no time.
        assert_answered(outcome, "connect", "closed", "reset", *([] if IS_TIMED else ["503"]))
        assert not IS_TIMED or outcome.last_s < 2 + 4, "the port has a node again"
        assert outcome.rejected > 0, "limits were reached"
        assert_exact(outcome)
        await until_announced(store, 2, b"1")


PLAIN = """
[keys.sk-plain]
[keys.sk-met]
rpm = 60
[keys.sk-unmet]
"""
IN_ACCOUNTS = """
[accounts.acme]
rpm = 20
[keys.sk-fresh]
account = "acme"
[keys.sk-unmet]
account = "acme"
[keys.sk-met]
rpm = 60
limits = [{ requests = 40, per = "1d" }]
[keys.sk-plain]
"""
Statuses = Counter[tuple[int, str | None]]


async def ask(base_url: str, key: str, requests: int) -> Statuses:
    """The statuses of some requests, one after another, each with the policy that decided without the store."""
    found: Statuses = Counter()
    async with ClientSession() as session:
        for _ in range(requests):
            response, _ = await chat(session, base_url, key, max_tokens=5)
            found[response.status, response.headers.get("x-limiter-degraded")] += 1
    return found


async def test_36_keys_of_accounts_beside_the_previous_version(
    directory: Path, binary: str | None, before_accounts: Path
) -> None:
    """Nodes of this version decide them. Nodes of the previous one answer 503, unless they have met a plain key that is
    an account's now: their policy for outages decides such a key.
    """
    plain, accounts = directory / "plain.toml", directory / "accounts.toml"
    plain.write_text(PLAIN)
    accounts.write_text(IN_ACCOUNTS)
    plain.with_name("unused.toml").write_text("[keys.sk-unused]\n")
    ports = free_ports(3)
    async with EmbeddedStore("single", binary=binary) as store, AsyncExitStack() as nodes:
        options = ("--store", store.url, "--keys", str(plain), "--mock-length", "fixed:5")
        for name, port, policy in zip(("local", "closed"), ports, ("local", "closed"), strict=False):
            old = node(before_accounts, name, port, *options, "--on-store-failure", policy, complains=True)
            await nodes.enter_async_context(old)
        await nodes.enter_async_context(node(ROOT, "new", ports[2], *options))
        await until_announced(store, 3, b"1")
        local, closed, new = (f"http://127.0.0.1:{port}" for port in ports)
        for each in (local, closed, new):
            assert await ask(each, "sk-met", 4) == {(200, None): 4}
            assert await ask(each, "sk-plain", 1) == {(200, None): 1}
        async with administering(parse_store_url(store.url)) as admin:
            (warning,) = (await admin.apply(read_keys(accounts))).warnings
            assert warning.startswith("2 nodes of an older version can't decide keys of accounts")
            assert (await admin.apply(read_keys(plain.with_name("unused.toml")))).warnings == []

        for each in (local, closed):
            for key in ("sk-fresh", "sk-unmet"):
                assert await ask(each, key, 3) == {(503, None): 3}
        assert await ask(new, "sk-fresh", 15) == {(200, None): 15}
        assert await ask(new, "sk-unmet", 10) == {(200, None): 5, (429, None): 5}
        # The weakness that docs/operations.md names: the former limit, shared among the nodes, is all that such a node
        # goes by for a key that it has met. With the policy `closed` it refuses that one, too.
        assert await ask(closed, "sk-met", 3) == {(503, None): 3}
        admitted = (await ask(local, "sk-met", 61))[200, "local"]
        assert 0 < admitted < 60
        # The window was taken over: 12 of 60 a minute are used, and 40 a day leave as many of the rest.
        assert await ask(new, "sk-met", 50) == {(200, None): 40, (429, None): 10}
        for each in (local, closed, new):
            assert await ask(each, "sk-plain", 1) == {(200, None): 1}


@pytest.mark.parametrize("version", ["before_accounts", "before_credentials"])
async def test_36_credentials_and_states_beside_a_previous_version(
    directory: Path, binary: str | None, request: pytest.FixtureRequest, version: str
) -> None:
    """Nodes of this version decide by them. Others can't read them: they answer 503, and never 401 or 200."""
    packages: Path = request.getfixturevalue(version)
    unused = directory / "unused.toml"
    unused.write_text("[keys.sk-unused]\n")
    ports = free_ports(2)
    async with EmbeddedStore("single", binary=binary) as store, AsyncExitStack() as nodes:
        options = ("--store", store.url, "--keys", str(unused), "--mock-length", "fixed:5")
        await nodes.enter_async_context(node(packages, "old", ports[0], *options, complains=True))
        await nodes.enter_async_context(node(ROOT, "new", ports[1], *options))
        old, new = (f"http://127.0.0.1:{port}" for port in ports)
        acme, window = AccountPolicy("acme"), PolicyWindow(60_000, (), (Limit(REQUESTS, 1_000),))
        met, rotated = (KeyPolicy(key_id(f"sk-{name}"), name, "", (window,)) for name in ("met", "rotated"))
        put_account(store.url, acme, [met])
        assert await ask(new, "sk-met", 2) == {(200, None): 2}
        if version == "before_credentials":
            assert await ask(old, "sk-met", 2) == {(200, None): 2}
        further = Credential(key_id("sk-further"))
        credentials = (Credential(met.kid), further, Credential(key_id("sk-revoked"), 0, is_revoked=True))
        rotated = replace(rotated, credentials=(Credential(rotated.kid, 1), Credential(key_id("sk-rotated-2"))))
        put_account(store.url, acme, [replace(met, credentials=credentials), rotated])
        flat = KeyPolicy(key_id("sk-disabled"), "disabled", "", (window,), is_disabled=True)
        put_account(store.url, AccountPolicy(key=flat))
        by_new = {"met": 200, "further": 200, "revoked": 401, "rotated": 401, "rotated-2": 200, "disabled": 401}
        for name, status in by_new.items():
            assert await ask(old, f"sk-{name}", 2) == {(503, None): 2}, name
            assert await ask(new, f"sk-{name}", 2) == {(status, None): 2}, name
        for each in (old, new):
            assert await ask(each, "sk-unused", 1) == {(200, None): 1}


async def test_36_a_store_of_the_previous_version_is_taken_over_under_load(
    directory: Path, binary: str | None, row: Row, before_accounts: Path
) -> None:
    """Once all nodes are of this version, plain keys get further limits under load, and keep their windows."""
    keys, more = write_keys(directory / "keys.toml", 60), directory / "more.toml"
    more.write_text(
        keys.read_text().replace("\nname", '\ntpm = 50_000_000\nlimits = [{ requests = 9_000, per = "1d" }]\nname')
    )
    ports = free_ports(2)
    store = EmbeddedStore("cluster", binary=binary, extra_config=production_config())
    async with store, AsyncExitStack() as nodes:
        options = ("--store", store.url, "--mock-length", "fixed:5")
        old = await nodes.enter_async_context(node(before_accounts, "old", ports[0], *options, "--keys", str(keys)))
        await nodes.enter_async_context(node(ROOT, "new", ports[1], *options, "--keys", str(keys)))
        await until_announced(store, 2, b"1")
        on = Scene(directory, Fleet(tuple(f"http://127.0.0.1:{port}" for port in ports), store.url, None), store, keys)

        async def take_over() -> None:
            await eventually(lambda: is_under_load(on))
            await stopped(old)
            await nodes.enter_async_context(node(ROOT, "newer", ports[0], *options))
            await on.declare(more)

        outcome = await on.under_load(take_over, 8, after_s=0.5, arguments=("--zipf", "1"))
        row("36", "then all keys get further limits", outcome)
        assert_answered(outcome, "connect", "closed", "reset", *([] if IS_TIMED else ["503"]))
        assert outcome.rejected > 0, "limits were reached"
        assert not outcome.degraded or not IS_TIMED
        assert outcome.held <= 60 + outcome.most_excess, outcome
        assert re.search(r"windows over the limit +0\n", outcome.audit), outcome.audit
        usages = await on.usages()
        paths = [usage.path for usage in usages if usage.path is not None]
        assert len(paths) == len(usages) == 20
        minutes = sum(path.used[0].requests for path in paths)
        assert minutes == outcome.admitted, "no request was lost or counted twice on the way"
        assert {path.plan.windows[0].per for path in paths} == {"1m"}
