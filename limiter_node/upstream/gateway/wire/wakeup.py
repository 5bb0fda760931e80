"""Lets one task wait until something has happened, with no queue and no lock."""

from __future__ import annotations

import asyncio


class Wakeup:
    """Wake the one task that waits, if one does; a wake-up that nobody waits for is forgotten."""

    __slots__ = ("_waiter",)

    def __init__(self) -> None:
        self._waiter: asyncio.Future[None] | None = None

    async def wait(self) -> None:
        """Return when `wake` is called."""
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def wake(self) -> None:
        """Wake the waiting task, if there is one."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
