"""What the tests of the gateway share: a store, and a real server of the OpenAI API, each started once."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest
from real_server import RealServer, running_real_server
from scripted_service import ScriptedService, running_service
from stores import running_store


@pytest.fixture(scope="session")
def real_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealServer]:
    """llama.cpp's server with a tiny model, shared by the session."""
    with running_real_server(tmp_path_factory.mktemp("real_server")) as server:
        yield server


@pytest.fixture(scope="session")
def single_store() -> Iterator[str]:
    """The URL of a single store, shared by the session: use keys of your own."""
    with running_store("single") as store:
        yield store.url


@pytest.fixture
async def service() -> AsyncIterator[ScriptedService]:
    """A service that does what the test tells it."""
    async with running_service() as service:
        yield service
