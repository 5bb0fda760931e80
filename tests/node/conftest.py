"""Real stores and free ports for the tests of the node. Starting takes seconds, so stores live for the session."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from limiter_node.store.embedded import EmbeddedStore
from limiter_node.store.process import free_ports


@contextmanager
def running_store(*arguments: Any, **options: Any) -> Iterator[EmbeddedStore]:
    """An embedded store, for synchronous code; it needs no event loop while it runs."""
    store = EmbeddedStore(*arguments, **options)
    # Not asyncio.run: that would take the current loop away from pytest-asyncio.
    loop = asyncio.new_event_loop()
    try:
        loop.run_until_complete(store.start())
        yield store
    finally:
        store.stop()
        loop.close()


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


@pytest.fixture
def free_port() -> int:
    """A port on 127.0.0.1 on which nothing listens."""
    return free_ports(1)[0]
