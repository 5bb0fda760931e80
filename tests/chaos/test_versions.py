"""Row 36: nodes of the previous version beside this one's, on one store, under load, as in a rolling upgrade."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest
from chaos_scene import IS_TIMED, ROOT, Row, Scene, eventually, production_config, write_keys
from fleet import Fleet
from ports import free_ports
from store_tools import store_client
from test_store_faults import assert_answered, assert_exact

from limiter_node.store.embedded.stores import EmbeddedStore
from limiter_node.store.keyspace import FORMAT_KEY, NODES_KEY

PREVIOUS = "5e724ed09e57d654bae46bb5d4a940ab89b35d70"
"""The last commit before the storage had a number."""


@pytest.fixture(scope="module")
def previous(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the packages of the previous version."""
    directory = tmp_path_factory.mktemp("previous")
    try:
        archive = subprocess.run(
            ["git", "archive", PREVIOUS, "limiter_node", "lua"], cwd=ROOT, capture_output=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        pytest.skip(
            f"the history isn't here: commit {PREVIOUS[:12]} is needed (a shallow clone? git fetch --unshallow)"
        )
    subprocess.run(["tar", "-x", "-C", directory], input=archive.stdout, check=True)
    return directory


@asynccontextmanager
async def node(packages: Path, name: str, port: int, *options: str) -> AsyncIterator[Process]:
    """A node of the version whose packages are there; it accepts requests. SIGTERM ends it, cleanly."""
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
        await stopped(process)
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def stopped(process: Process) -> None:
    """Drained, and ended without a word that a person should worry about."""
    if process.returncode is None:
        process.send_signal(signal.SIGTERM)
    assert process.stderr is not None
    async with asyncio.timeout(20):
        complaints = await process.stderr.read()
        assert await process.wait() == 0, complaints
    assert b"ERROR" not in complaints, complaints
    assert b"Traceback" not in complaints, complaints


async def until_announced(store: EmbeddedStore, nodes: int, storage_format: bytes | None) -> None:
    """So many nodes have announced themselves, and this storage format."""
    with store_client(store.url) as client:

        async def is_so() -> bool:
            return (client.hlen(NODES_KEY), client.get(FORMAT_KEY)) == (nodes, storage_format)

        await eventually(is_so)


async def test_36_the_previous_version_beside_this_one(
    directory: Path, binary: str | None, row: Row, previous: Path
) -> None:
    keys = write_keys(directory / "keys.toml", 60)
    ports = free_ports(2)
    store = EmbeddedStore("cluster", binary=binary, extra_config=production_config())
    async with store, AsyncExitStack() as nodes:
        options = ("--store", store.url, "--keys", str(keys), "--mock-length", "fixed:5")
        old = await nodes.enter_async_context(node(previous, "old", ports[0], *options))
        await until_announced(store, 1, None)
        await nodes.enter_async_context(node(ROOT, "new", ports[1], *options))
        await until_announced(store, 2, b"1")
        on = Scene(directory, Fleet(tuple(f"http://127.0.0.1:{port}" for port in ports), store.url, None), store, keys)

        async def upgrade() -> None:
            """The old node is stopped; where it was, a new one is started."""
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
