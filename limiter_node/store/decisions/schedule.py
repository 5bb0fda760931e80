"""The keys whose next batch leaves in this turn of the event loop, together with all that arrives in it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from limiter_node.store.batch import SendQueue


class Schedule:
    """Hold the scheduled keys of one node. `send`, set first, is called once they are all there; it empties `queues`.

    It empties `queues`. `quiet` is cleared with the first of them; whoever sends sets it when nothing is scheduled or
    in flight any more.
    """

    __slots__ = ("_loop", "queues", "quiet", "send")

    send: Callable[[], None]

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self.queues: list[SendQueue] = []
        self.quiet = asyncio.Event()
        self.quiet.set()

    def add(self, queue: SendQueue) -> None:
        """Schedule a key, which must have no batch in flight and not be scheduled."""
        queue.is_scheduled = True
        if not self.queues:
            self._loop.call_soon(self.send)
            self.quiet.clear()
        self.queues.append(queue)

    def release(self, queue: SendQueue) -> None:
        """Schedule a key if it has settles or charges that could be sent now."""
        if (queue.has_settles or queue.charges) and queue.in_flight is None and not queue.is_scheduled:
            self.add(queue)
