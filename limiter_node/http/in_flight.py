"""The requests that a node has under way, and their bound."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from limiter_node.errors import Overloaded
from limiter_node.http.server.overload import LoopLoad


class InFlight:
    """Count the requests under way, streams included, up to `most`.

    A request that waits for its client, or for the look-up of its key, doesn't count: otherwise clients that send
    nothing could keep others out.
    """

    def __init__(self, most: int, load: LoopLoad) -> None:
        self._most, self._load = most, load
        self.under_way = 0
        """Requests that have no response yet."""
        self._waiting = 0
        self._idle = asyncio.Event()

    @property
    def is_full(self) -> bool:
        """Whether as many requests are under way as allowed."""
        return self.under_way - self._waiting > self._most

    def begin(self) -> None:
        """Add a request to the count."""
        self.under_way += 1

    def end(self) -> None:
        """Take a request out of the count."""
        self.under_way -= 1
        if not self.under_way:
            self._idle.set()

    @contextmanager
    def uncounted(self) -> Iterator[None]:
        """Leave a request out of the count while the block runs. Raises `Overloaded` if there is no room at its end."""
        self._waiting += 1
        try:
            yield
        finally:
            self._waiting -= 1
        if self.is_full:
            self._load.turned_away += 1
            raise Overloaded("as many requests are under way as --max-in-flight allows")

    async def none(self) -> None:
        """Return when no request is under way."""
        while self.under_way:
            self._idle.clear()
            await self._idle.wait()
