"""Real stores and free ports for the tests of the node. Starting takes seconds, so stores live for the session."""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import ports
import pytest
import pytest_asyncio
from node_commands import Command, StartCommand
from stores import running_store

from limiter_node.store.admin.store_admin import StoreAdmin, administering
from limiter_node.store.url import parse_store_url


@pytest.fixture(scope="session")
def embedded_cluster() -> Iterator[str]:
    """The URL of a cluster of three masters, shared by the session: use keys of your own, don't stop its servers."""
    with running_store("cluster") as store:
        yield store.url


@pytest.fixture(scope="session")
def embedded_single() -> Iterator[str]:
    """The URL of a single store, shared by the session: use keys of your own, don't stop its server."""
    with running_store("single") as store:
        yield store.url


@pytest.fixture(scope="session")
def system_cluster() -> Iterator[str]:
    """Like `embedded_cluster`, of the system's redis-server; tests that want it are skipped where there is none."""
    if shutil.which("redis-server") is None:
        pytest.skip("no redis-server on this machine")
    with running_store("cluster", binary="redis-server") as store:
        yield store.url


@pytest.fixture(params=["embedded_single", "embedded_cluster"])
def url(request: pytest.FixtureRequest) -> str:
    """The URL of a single store, then that of a cluster."""
    return str(request.getfixturevalue(request.param))


@pytest.fixture(params=["embedded_single", "system_cluster" if shutil.which("redis-server") else "embedded_cluster"])
def url_of_either_server(request: pytest.FixtureRequest) -> str:
    """The URL of a single store, then that of a cluster: the one is Valkey, the other Redis, where that is there."""
    return str(request.getfixturevalue(request.param))


@pytest_asyncio.fixture
async def admin(url: str) -> AsyncIterator[StoreAdmin]:
    """The administration of each of these stores."""
    async with administering(parse_store_url(url)) as admin:
        yield admin


@pytest.fixture
def free_port() -> int:
    """A port on 127.0.0.1 on which nothing listens."""
    return ports.free_port()


@pytest_asyncio.fixture
async def limiter_node() -> AsyncIterator[StartCommand]:
    """Starts ``limiter-node`` with the arguments given; `environment` is added to a clean one."""
    started: list[Command] = []

    async def start(*arguments: object, environment: dict[str, str] | None = None) -> Command:
        clean = {name: value for name, value in os.environ.items() if not name.startswith("LIMITER_")}
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "limiter_node",
            *map(str, arguments),
            stdout=PIPE,
            stderr=PIPE,
            env=clean | (environment or {}),
        )
        started.append(Command(process))
        return started[-1]

    yield start
    for command in started:
        if command.process.returncode is None:
            command.process.kill()
        await command.process.communicate()


@pytest.fixture
def keys_file(tmp_path: Path) -> Path:
    """A keys file with the key sk-alice, named alice: 50 requests, otherwise the defaults."""
    path = tmp_path / "keys.toml"
    path.write_text('[defaults]\nrpm = 50\n[keys."sk-alice"]\nname = "alice"\n')
    path.chmod(0o600)
    return path
