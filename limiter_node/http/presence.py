"""Noticing that a client has left while its request is in the upstream's hands: nobody is to work for it any more.

aiohttp lets handlers run on when a connection ends; here the work is cancelled, and the cancellation taken back where
the block ends, as `asyncio.timeout` does it.
"""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import cast

from aiohttp import web

from limiter_node.http.connection import Connection


class ClientGone(Exception):
    """Raised when a client left before it had its answer."""


class Presence:
    """A block that ends with `ClientGone` when the client of `request` leaves. For the task that handles it."""

    __slots__ = ("_cancelling", "_connection", "_is_gone", "_task")

    def __init__(self, request: web.BaseRequest) -> None:
        self._connection = cast(Connection, request.protocol)
        self._task = request.task  # handlers run in their connection's task, and asking for it here costs 2 µs
        self._is_gone = False

    def __enter__(self) -> None:
        transport = self._connection.transport
        if transport is None or transport.is_closing():
            raise ClientGone
        self._cancelling = self._task.cancelling()
        self._connection.on_gone = self._left

    def _left(self) -> None:
        if not self._is_gone:
            self._is_gone = True
            self._task.cancel()

    def __exit__(
        self, kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self._connection.on_gone = None
        # Somebody else may want the task to end, too.
        if self._is_gone and self._task.uncancel() <= self._cancelling and kind is asyncio.CancelledError:
            raise ClientGone from None
