"""A store for the documents' examples."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from stores import running_store


@pytest.fixture(scope="session")
def embedded_single() -> Iterator[str]:
    """The URL of a single store, shared by the session: use keys of your own, don't stop its server."""
    with running_store("single") as store:
        yield store.url
