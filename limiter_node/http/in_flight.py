"""The requests that a node has under way, and how many it may have."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from limiter_node.errors import Overloaded
from limiter_node.http.server.overload import LoopLoad


class InFlight:
    """Count the requests under way, streams included; there may be `most` of them.

    A request that waits for its client, or to learn whether its key exists, doesn't count: else clients that send
    nothing could keep the others out.
    """

    def __init__(self, most: int, load: LoopLoad) -> None:
        self._most, self._load = most, load
        self.under_way = 0
        """Requests that have no response yet."""
        self._waiting = 0
        self._idle = asyncio.Event()

    @property
    def is_full(self) -> bool:
        """Whether more requests are under way than may be."""
        return self.under_way - self._waiting > self._most

    def begin(self) -> None:
        """Count one more."""
        self.under_way += 1

    def end(self) -> None:
        """Count one less."""
        self.under_way -= 1
        if not self.under_way:
            self._idle.set()

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Let a request take no room while the block runs. Raises `Overloaded` if there is none for it at the end."""
        self._waiting += 1
        try:
            yield
        finally:
            self._waiting -= 1
        if self.is_full:
            self._load.turned_away += 1
            raise Overloaded("as many requests are under way as may")

    async def none(self) -> None:
        """Return when no request is under way."""
        while self.under_way:
            self._idle.clear()
            await self._idle.wait()
