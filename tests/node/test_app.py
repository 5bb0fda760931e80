"""`running_node`: a start that fails half-way, or a block that raises, leaves nothing behind; the order of stopping."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
from in_process import api_key_on
from node_commands import eventually

from limiter_node.app import running_node
from limiter_node.declarations import Declarations
from limiter_node.errors import ConfigError, LimiterError
from limiter_node.http.requests.reader import RequestReader
from limiter_node.http.routes import Routes
from limiter_node.http.server.listening import Listener
from limiter_node.http.server.overload import LoopLoad
from limiter_node.keysfile.watching import KeysFile
from limiter_node.processes import free_ports
from limiter_node.settings import NodeSettings
from limiter_node.start import Start
from limiter_node.store.admin.preparation import Preparation
from limiter_node.store.decisions.dispatcher import Dispatcher
from limiter_node.store.fleet import Fleet
from limiter_node.store.url import parse_store_url
from limiter_node.upstream.rendered import RenderedUpstream

# Nothing listens there; a node starts all the same.
NO_STORE = "redis://127.0.0.1:1"


def open_files() -> set[str]:
    """The sockets, pipes and files that this process has open."""
    found = set()
    for name in os.listdir("/proc/self/fd"):
        try:
            found.add(os.readlink(f"/proc/self/fd/{name}"))
        except FileNotFoundError:  # the listing's own
            continue
    return found


def children() -> set[str]:
    return set(Path(f"/proc/self/task/{os.getpid()}/children").read_text().split())


def timers() -> int:
    """How many timers of the loop are the node's."""
    loop: Any = asyncio.get_running_loop()
    modules = [getattr(handle._callback, "__module__", "") for handle in loop._scheduled if not handle.cancelled()]
    return sum(module.startswith("limiter_node") for module in modules)


@pytest_asyncio.fixture
async def nothing_stays() -> AsyncIterator[None]:
    """Whatever the test does: no task, timer, socket or process more than before it is left in the end."""
    await asyncio.to_thread(int)  # the loop's thread pool is there from now on
    files, processes = open_files(), children()
    yield

    def is_clean() -> bool:
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        return not tasks and not timers() and open_files() <= files and children() <= processes

    await eventually(is_clean)


@asynccontextmanager
async def node(store: str = NO_STORE, declared: KeysFile | None = None, **settings: Any) -> AsyncIterator[int]:
    """A node in this process; its port."""
    start = Start(Preparation(parse_store_url(store), Declarations()))
    told = NodeSettings(store=store, port=0, drain_timeout_s=0.0, **settings)
    async with running_node(told, start, declared=declared) as running:
        yield running.port


@contextmanager
def taken_port() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        yield taken.getsockname()[1]


async def fails(error: type[Exception], message: str, **settings: Any) -> None:
    with pytest.raises(error, match=message):
        async with node(**settings):
            pytest.fail("it must not start")


@pytest.mark.usefixtures("nothing_stays")
class TestAStartThatFails:
    async def test_at_the_upstreams(self, tmp_path: Path) -> None:
        await fails(ConfigError, "none.toml", upstreams=str(tmp_path / "none.toml"))

    async def test_at_the_stores_certificate(self, tmp_path: Path) -> None:
        store = f"rediss://127.0.0.1:1?ssl_ca_certs={tmp_path}/none.pem"
        await fails(ConfigError, "ssl_ca_certs", store=store, upstream="http://127.0.0.1:1/v1")

    async def test_at_its_own_certificate(self, tmp_path: Path) -> None:
        """By then the keys file is being read."""
        keys = tmp_path / "keys.toml"
        keys.write_text('[keys."sk-a"]\n')
        missing = str(tmp_path / "none.pem")
        await fails(ConfigError, "--tls-cert", tls_cert=missing, tls_key=missing, declared=KeysFile(keys))

    async def test_at_the_port(self) -> None:
        with taken_port() as port:
            told = NodeSettings(store=NO_STORE, port=port, admin_port=free_ports(1)[0])
            start = Start(Preparation(parse_store_url(NO_STORE), Declarations()))
            with pytest.raises(LimiterError, match=f"cannot listen on 127.0.0.1:{port}: .* another --port"):
                async with running_node(told, start):
                    pytest.fail("it must not start")

    async def test_at_the_admin_port(self) -> None:
        """By then callers can connect."""
        with taken_port() as port:
            await fails(LimiterError, f"cannot listen on 127.0.0.1:{port}: .* another --admin-port", admin_port=port)

    async def test_at_a_store_that_hangs(self) -> None:
        """It is stopped while it looks for the shards of a cluster that accepts connections and says nothing."""
        with taken_port() as silent:

            async def run() -> None:
                async with node(f"redis+cluster://127.0.0.1:{silent}", admin_port=free_ports(1)[0]):
                    pytest.fail("it must not start")

            before = open_files()
            starting = asyncio.create_task(run())
            await eventually(lambda: len(open_files() - before) >= 3)  # both listeners, and a connection to the store
            starting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await starting


class Mishap(Exception):
    """Raised by a test."""


@pytest.mark.usefixtures("nothing_stays")
class TestABlockThatRaises:
    async def test_while_the_store_is_away(self) -> None:
        async def run() -> None:
            async with node(admin_port=free_ports(1)[0]) as port, aiohttp.ClientSession() as session:
                async with session.get(f"http://127.0.0.1:{port}/nowhere") as response:
                    assert response.status == 404
                assert timers(), "they are looked for in the right place"
                raise Mishap

        with pytest.raises(Mishap):
            await run()

    async def test_while_the_second_process_runs(self, embedded_single: str) -> None:
        api_key, before = api_key_on(embedded_single), children()
        body = {"model": "gpt-4o", "messages": [{"role": "user", "content": "word " * 40_000}], "max_tokens": 1}

        async def run() -> None:
            async with node(embedded_single) as port, aiohttp.ClientSession() as session:
                url, headers = f"http://127.0.0.1:{port}/v1/chat/completions", {"Authorization": f"Bearer {api_key}"}
                async with session.post(url, json=body, headers=headers) as response:
                    assert response.status == 200
                assert children() - before
                raise Mishap

        with pytest.raises(Mishap):
            await run()


async def test_a_node_stops_in_this_order(embedded_single: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Refuse new connections, drain, close what is left, settle, leave the fleet; what others need goes last."""
    stopped: list[str] = []

    def noted(owner: Any, method: str) -> None:
        original = getattr(owner, method)

        def note(self: Any, *arguments: Any) -> Any:
            stopped.append(f"{owner.__name__}.{method}")
            return original(self, *arguments)

        monkeypatch.setattr(owner, method, note)

    for owner, method in (
        *(
            (LoopLoad, "stop"),
            (Listener, "refuse_new"),
            (Routes, "drain"),
            (Listener, "close"),
            (RequestReader, "close"),
        ),
        *((Dispatcher, "drain"), (Fleet, "leave"), (Dispatcher, "close"), (RenderedUpstream, "close")),
    ):
        noted(owner, method)
    async with node(embedded_single, admin_port=free_ports(1)[0]):
        assert not stopped
    assert [each for each in stopped if each != "Listener.refuse_new"] == [
        *("LoopLoad.stop", "Routes.drain", "Listener.close", "Listener.close", "RequestReader.close"),
        *("Dispatcher.drain", "Fleet.leave", "Dispatcher.close", "RenderedUpstream.close"),
    ]
    assert stopped.index("Listener.refuse_new") < stopped.index("Routes.drain")
