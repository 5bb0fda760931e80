"""Signals, and a watch on the embedded servers, for the commands that stay in the foreground."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager, suppress
from typing import Any, NoReturn, TypeVar

from limiter_node.processes import exit_text
from limiter_node.store.embedded.binary import StoreError
from limiter_node.store.embedded.stores import EmbeddedStore

log = logging.getLogger(__name__)

_LOOK_EVERY_S = 0.5
_T = TypeVar("_T")


class Stopped(Exception):
    """Raised when a signal arrives before the start is complete."""


class StopSignals:
    """Hold two events: the first SIGINT, SIGTERM or SIGHUP sets `once`; the second sets `twice`, to stop at once."""

    def __init__(self) -> None:
        self.once = asyncio.Event()
        self.twice = asyncio.Event()

    def _received(self) -> None:
        (self.twice if self.once.is_set() else self.once).set()

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Listen to the signals of the running loop's process while the block runs."""
        loop = asyncio.get_running_loop()
        # Under nohup, SIGHUP is ignored and must stay so.
        numbers = [n for n in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP) if not _ignored_hangup(n)]
        for number in numbers:
            loop.add_signal_handler(number, self._received)
        try:
            yield
        finally:
            for number in numbers:
                loop.remove_signal_handler(number)
                if self.once.is_set():
                    signal.signal(number, signal.SIG_IGN)  # a late signal must not turn a clean end into a kill

    async def unless_stopped(self, work: Coroutine[Any, Any, _T]) -> _T:
        """Return the result of `work`. A signal cancels it, and raises Stopped once it has cleaned up."""
        task, stop = asyncio.ensure_future(work), asyncio.ensure_future(self.once.wait())
        try:
            await asyncio.wait({task, stop}, return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                task.cancel()
                with suppress(asyncio.CancelledError):
                    await task
                raise Stopped
            return task.result()
        finally:
            stop.cancel()
            task.cancel()


def _ignored_hangup(number: signal.Signals) -> bool:
    return number == signal.SIGHUP and signal.getsignal(number) == signal.SIG_IGN


async def watch_servers(store: EmbeddedStore) -> NoReturn:
    """Log each embedded server that ends. Raises StoreError when none is left; never returns."""
    dead: set[int] = set()
    while True:
        for server in store.servers:
            code = server.exit_code
            if code is None:
                dead.discard(server.port)
            elif server.port not in dead:
                dead.add(server.port)
                event = {"event": "store_server_ended", "port": server.port}
                log.warning("the store server on port %d has ended (%s)", server.port, exit_text(code), extra=event)
        if len(dead) == len(store.servers):
            raise StoreError("all servers of the embedded store have ended: start the command again")
        await asyncio.sleep(_LOOK_EVERY_S)
