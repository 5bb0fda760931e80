"""The loop of the view: reads all sources at once, makes a frame, shows it, and waits for the next refresh.

Reading has its own timeouts, so a server that is away delays a refresh by these at most.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from time import time

from limiter_node.store.admin.watch import StoreWatch
from limiter_node.store.url import StoreAddress
from limiter_node.top.frame import Before, Frame, Snapshot, make_frame
from limiter_node.top.polling import NodePoller, Target, polling

_LEAST_TIMEOUT_S, _MOST_TIMEOUT_S = 0.5, 2.0


@dataclass(frozen=True, slots=True)
class Sources:
    """Hold the watched sources: nodes, the store, or both."""

    nodes: NodePoller | None
    store: StoreWatch | None

    async def read(self) -> Snapshot:
        """Return a snapshot of all sources."""

        async def nothing() -> None:
            return None

        nodes, store = await asyncio.gather(
            self.nodes.poll() if self.nodes is not None else nothing(),
            self.store.look() if self.store is not None else nothing(),
        )
        return Snapshot(time(), nodes, store)


@asynccontextmanager
async def watching(
    targets: Sequence[Target], store: StoreAddress | None, *, interval_s: float, most_keys: int
) -> AsyncIterator[Sources]:
    """Hold connections to `targets` and `store` while the block runs. Raises ConfigError for unreadable TLS files."""
    timeout_s = min(max(interval_s, _LEAST_TIMEOUT_S), _MOST_TIMEOUT_S)
    async with AsyncExitStack() as stack:
        watch = None
        if store is not None:
            store.ssl_context()  # reports unreadable files before redis-py stumbles over them
            watch = StoreWatch(store, most_keys=most_keys, timeout_s=timeout_s)
            stack.push_async_callback(watch.close)
        poller = await stack.enter_async_context(polling(targets, timeout_s)) if targets else None
        yield Sources(poller, watch)


async def refresh(
    sources: Sources, show: Callable[[Frame], None], *, interval_s: float, refreshes: int, with_first: bool
) -> None:
    """Show a frame each `interval_s`, `refreshes` times (0: until cancelled).

    The first reading has none before it to compare with: it is shown only with `with_first`, and doesn't count.
    """
    loop = asyncio.get_running_loop()
    before, shown = Before(), -1
    while True:
        due_s = loop.time() + interval_s
        snapshot = await sources.read()
        frame = make_frame(before, snapshot)
        before = before.then(snapshot, frame)
        if with_first or shown >= 0:
            show(frame)
        shown += 1
        if shown == refreshes > 0:
            return
        await asyncio.sleep(max(due_s - loop.time(), 0))
