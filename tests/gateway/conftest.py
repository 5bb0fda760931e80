"""What the tests of the gateway share: a real server of the OpenAI API, started once."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from real_server import RealServer, running_real_server


@pytest.fixture(scope="session")
def real_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealServer]:
    """llama.cpp's server with a tiny model, shared by the session."""
    with running_real_server(tmp_path_factory.mktemp("real_server")) as server:
        yield server
