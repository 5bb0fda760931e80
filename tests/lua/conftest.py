"""Servers for the tests of the scripts: one of each kind for the whole session, a new API key for each test."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import pytest
import redis
from paths_driver import DECIDE_PATHS, PEEK_PATHS, PathsDriver
from paths_pair import PathsPair
from reference import Limits, Reference
from script_driver import DECIDE, PEEK, Pair, Window, running_server, server_binary

from limiter_node.credentials import key_id

MakePair = Callable[..., Pair]


@pytest.fixture(scope="session", params=["valkey", "redis"])
def store(request: pytest.FixtureRequest) -> Iterator[redis.Redis]:
    """A connection to a running server that knows the scripts."""
    binary = server_binary(request.param)
    if binary is None:
        pytest.skip("no redis-server on PATH")
    with running_server(binary) as client:
        for script in (DECIDE, PEEK, DECIDE_PATHS, PEEK_PATHS):
            client.script_load(script.source.decode())
        yield client


@pytest.fixture(scope="session")
def make_pair() -> MakePair:
    """Make a window of a new API key, beside its model."""
    count = itertools.count()

    def make(client: redis.Redis, limits: Limits | None, *, width: int = 600, decide_sha: str = "") -> Pair:
        window = Window(client, key_id(f"sk-test-{next(count)}"), width, decide_sha=decide_sha or DECIDE.sha.decode())
        pair = Pair(window, Reference(limits, width))
        pair.set_limits(limits)
        return pair

    return make


@pytest.fixture(scope="session")
def make_paths_pair() -> Callable[..., PathsPair]:
    """Make a new account, beside its model."""
    count = itertools.count()

    def make(client: redis.Redis, *, decide_sha: str = "") -> PathsPair:
        return PathsPair(PathsDriver(client, f"@walk-{next(count)}", decide_sha or DECIDE_PATHS.sha.decode()))

    return make


@pytest.fixture
def open_window(store: redis.Redis, make_pair: MakePair) -> Callable[..., Window]:
    """Make a window of a new API key on the server: ``open_window(requests, input, output, ...)``."""

    def make(
        requests: int = 10, input: int = 1000, output: int = 1000, *, reserve: int = 100, width: int = 600
    ) -> Window:
        return make_pair(store, Limits(requests, input, output, reserve), width=width).window

    return make


@pytest.fixture(scope="session")
def account_tags() -> Iterator[str]:
    """Yield a new hash tag each time."""
    return (f"@account-{i}" for i in itertools.count())


@pytest.fixture
def account(store: redis.Redis, account_tags: Iterator[str]) -> PathsDriver:
    """Return a new account on the server; its policy isn't stored yet."""
    return PathsDriver(store, next(account_tags))
