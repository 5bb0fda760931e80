"""Fixtures of the client's tests."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
from aiohttp import web
from bench_fakes import Handler, Ledger, application, stop, write_keys

Serve = Callable[[Handler], Awaitable[str]]


@pytest.fixture
def ledger() -> Ledger:
    return Ledger()


@pytest.fixture
def keys_file(tmp_path: Path) -> Path:
    return write_keys(tmp_path / "keys.toml", "alice", "bob")


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    """Serves a chat handler on a free port of the test's own loop."""
    runners = []

    async def start(chat: Handler) -> str:
        runner = web.AppRunner(application(chat), shutdown_timeout=0.1)
        runners.append(runner)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        return f"http://127.0.0.1:{runner.addresses[0][1]}"

    yield start
    for runner in runners:
        await stop(runner)
