"""Real stores for whole sessions of tests."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from limiter_node.store.embedded.stores import EmbeddedStore


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
