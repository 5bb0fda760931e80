"""Real stores for the tests of managing keys, and a manager of each."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Callable, Iterator

import pytest
import pytest_asyncio
from stores import running_store

from limiter_node.management.manager import Manager
from limiter_node.store.admin.store_admin import StoreAdmin, administering
from limiter_node.store.url import parse_store_url


@pytest.fixture(scope="session")
def single_store() -> Iterator[str]:
    """The URL of a single store, shared by the session."""
    with running_store("single") as store:
        yield store.url


@pytest.fixture(scope="session")
def cluster_store() -> Iterator[str]:
    """The URL of a cluster of three masters, shared by the session."""
    with running_store("cluster") as store:
        yield store.url


@pytest.fixture(scope="session")
def numbers() -> Iterator[int]:
    """Numbers for names that no other test of the session uses."""
    return itertools.count()


@pytest.fixture
def new_name(numbers: Iterator[int]) -> Callable[[str], str]:
    """Return a new name that begins as given."""
    return lambda prefix: f"{prefix}-{next(numbers)}"


@pytest_asyncio.fixture
async def admin(single_store: str) -> AsyncIterator[StoreAdmin]:
    """The administration of the single store."""
    async with administering(parse_store_url(single_store)) as admin:
        yield admin


@pytest.fixture
def manager(admin: StoreAdmin) -> Manager:
    """The manager of the single store."""
    return Manager(admin)


@pytest.fixture(params=["single", "cluster"])
def either_url(request: pytest.FixtureRequest) -> str:
    """The URL of a store of each kind."""
    return str(request.getfixturevalue(f"{request.param}_store"))


@pytest_asyncio.fixture
async def either(either_url: str) -> AsyncIterator[Manager]:
    """The manager of a store of each kind."""
    async with administering(parse_store_url(either_url)) as admin:
        yield Manager(admin)
