"""The admin API's connection to the store: made by the first request that needs it, ended with the node."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack

from limiter_node.management.manager import Manager

Connect = Callable[[], AbstractAsyncContextManager[Manager]]


class ManagerConnection:
    """Hold one `Manager` for all requests. After an attempt that failed, the next request tries again.

    A connection that is lost later is made again by the manager's own `StoreAdmin`.
    """

    def __init__(self, connect: Connect) -> None:
        self._connect = connect
        self._stack = AsyncExitStack()
        self._opening = asyncio.Lock()
        self._manager: Manager | None = None

    async def manager(self) -> Manager:
        """Return the manager. Raises StoreUnavailable or ConfigError if the store can't be reached or used."""
        async with self._opening:
            if self._manager is None:
                self._manager = await self._stack.enter_async_context(self._connect())
            return self._manager

    async def close(self) -> None:
        """End the connection."""
        self._manager = None
        await self._stack.aclose()
