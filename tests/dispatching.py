"""A dispatcher on a store, as the node's composition root makes it, for tests that decide without HTTP."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from limiter_node.store.decisions.dispatcher import Dispatcher
from limiter_node.store.url import parse_store_url
from limiter_node.store.wire.topology import Topology

PATIENT_MS = 20_000
"""A decision timeout that a busy machine doesn't reach."""


@asynccontextmanager
async def dispatching(url: str, **options: Any) -> AsyncIterator[Dispatcher]:
    stall_timeout_s, replica_acks = options.pop("stall_timeout_s", 1.0), options.pop("replica_acks", 0)
    topology = Topology(parse_store_url(url), stall_timeout_s=stall_timeout_s, replica_acks=replica_acks)
    dispatcher = Dispatcher(topology, **{"timeout_ms": PATIENT_MS, **options})
    await dispatcher.start()
    try:
        yield dispatcher
    finally:
        await dispatcher.close()
