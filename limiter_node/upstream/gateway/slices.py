"""An exchange whose body takes long to look at: of what comes at once, one slice a turn of the event loop is handed on.

One read may bring 256 KB, and the event loop may read thirty times before anybody else has a turn. As events of a few
bytes each, that is seconds of work.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from limiter_node.upstream.gateway.exchange import Exchange, Receive

SLICE_BYTES: Final = 8_192


class Slices:
    """What `Exchange` is for whoever takes its body. What waits to be handed on is one read at most."""

    __slots__ = ("_exchange", "_handing_on", "_has_ended", "_is_paused", "_on_end", "_receive", "_waiting")

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange
        self._receive: Receive | None = None
        self._on_end: Callable[[], None] | None = None
        self._waiting = b""
        self._is_paused = self._has_ended = False
        self._handing_on: asyncio.Handle | None = None

    @property
    def failure(self) -> Exception | None:
        """As `Exchange.failure`."""
        return self._exchange.failure

    def pass_to(self, receive: Receive, on_end: Callable[[], None]) -> None:
        """As `Exchange.pass_to`."""
        self._receive, self._on_end = receive, on_end
        self._exchange.pass_to(self._came, self._came_to_its_end)

    def pause(self) -> None:
        """Hand on no more for the moment."""
        self._is_paused = True
        self._exchange.pause()

    def resume(self) -> None:
        """Hand on what waits, then read on."""
        self._is_paused = False
        if self._waiting:
            self._hand_on_soon()
        else:
            self._exchange.resume()

    def end_within(self, seconds: float) -> None:
        """As `Exchange.end_within`."""
        self._forget()
        self._exchange.end_within(seconds)

    def close(self) -> None:
        """As `Exchange.close`."""
        self._forget()
        self._exchange.close()

    def _came(self, data: bytes) -> None:
        receive = self._receive
        if receive is None:
            return
        if self._waiting:
            self._waiting += data
            self._exchange.pause()
        elif len(data) <= SLICE_BYTES:
            receive(data)
        else:
            self._waiting = data
            self._exchange.pause()
            self._hand_on()

    def _came_to_its_end(self) -> None:
        if self._waiting:
            self._has_ended = True
        elif self._on_end is not None:
            on_end = self._on_end
            self._forget()
            on_end()

    def _hand_on_soon(self) -> None:
        if self._handing_on is None:
            self._handing_on = asyncio.get_running_loop().call_soon(self._hand_on)

    def _hand_on(self) -> None:
        self._handing_on = None
        receive = self._receive
        if self._is_paused or receive is None:
            return
        data, self._waiting = self._waiting[:SLICE_BYTES], self._waiting[SLICE_BYTES:]
        if self._waiting:
            self._hand_on_soon()
        receive(data)
        if self._waiting or self._receive is None:
            return
        if self._has_ended:
            self._came_to_its_end()
        elif not self._is_paused:
            self._exchange.resume()

    def _forget(self) -> None:
        self._receive = self._on_end = None  # they know this: a cycle
        self._waiting = b""
