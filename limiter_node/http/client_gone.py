"""Noticing that a client has left while its request is in the upstream's hands.

aiohttp lets handlers run on when a connection ends. Here the work goes on for a while, so that what it costs can be
charged, and then is cancelled; the cancellation is taken back where the block ends, as `asyncio.timeout` does it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import TracebackType
from typing import cast

from aiohttp import web

from limiter_node.http.server.client_connection import ClientConnection


class ClientGone(Exception):
    """Raised when a client left before it had its answer."""


class CancelWhenClientGone:
    """A block that ends with `ClientGone` once the client of `request` has left, for the task that handles it.

    `grace_s` is asked when it leaves: for how many seconds the block may still go on.
    """

    __slots__ = ("_cancelling", "_connection", "_grace_s", "_is_over", "_task", "_timer")

    def __init__(self, request: web.BaseRequest, grace_s: Callable[[], float] = lambda: 0.0) -> None:
        self._connection = cast(ClientConnection, request.protocol)
        self._task = request.task  # of the handler; to ask asyncio for it costs 2 µs
        self._grace_s = grace_s
        self._is_over = False
        self._timer: asyncio.TimerHandle | None = None

    def __enter__(self) -> None:
        transport = self._connection.transport
        if transport is None or transport.is_closing():
            raise ClientGone
        self._cancelling = self._task.cancelling()
        self._connection.call_when_gone(self._left)

    def _left(self) -> None:
        if self._timer is None and not self._is_over:
            if grace_s := self._grace_s():
                self._timer = self._task.get_loop().call_later(grace_s, self._end)
            else:
                self._end()

    def _end(self) -> None:
        self._is_over = True
        self._task.cancel()

    def __exit__(
        self, kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self._connection.call_when_gone(None)
        if self._timer is not None:
            self._timer.cancel()
        # Somebody else may want the task to end, too.
        if self._is_over and self._task.uncancel() <= self._cancelling and kind is asyncio.CancelledError:
            raise ClientGone from None
