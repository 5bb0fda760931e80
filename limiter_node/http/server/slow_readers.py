"""Connections whose clients take their answers too slowly: aiohttp waits for them for ever.

A client is too slow if more of an answer waited for `stalled_s` than the connection's buffer is for, and it took less
than 4 KiB a second in that time, whether more is still to come or not.
"""

from __future__ import annotations

import asyncio
from typing import cast

from aiohttp.web_protocol import RequestHandler

MIN_READ_BYTES_PER_S = 4_096
"""A client counts as reading its answer if it takes at least this many bytes a second, while there are any."""


class PacedConnection(RequestHandler):
    """Counts what its client takes, as far as it is written faster than that."""

    __slots__ = ("_behind_at", "_behind_s", "_opened", "_taken_bytes", "_unsent_bytes")

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take a new connection, of which nothing is unsent."""
        self._opened: asyncio.Transport | None = cast(asyncio.Transport, transport)  # uvloop's doesn't inherit from it
        # Of the answer: how long more of it has waited than the buffer is for, the bytes taken in that time; when that
        # was last so, 0 if the last look saw no such thing; what was unsent then.
        self._behind_s = self._behind_at = 0.0
        self._taken_bytes = self._unsent_bytes = 0
        super().connection_made(transport)

    def connection_lost(self, exc: BaseException | None) -> None:
        """Forget the transport; either side may have ended the connection."""
        super().connection_lost(exc)
        self._opened = None

    def pause_writing(self) -> None:
        """Note that the client reads more slowly than it is written to."""
        super().pause_writing()
        if self.transport is not None:
            self._unsent_bytes = self.transport.get_write_buffer_size()

    def resume_writing(self) -> None:
        """Count the bytes that the client has taken: most of those that waited."""
        if self.transport is not None:
            self._count_taken(self.transport.get_write_buffer_size())
        super().resume_writing()

    def look_at_answer(self, now_s: float, stalled_s: float) -> None:
        """End the connection if its client has taken too little, too long. `now_s` is the loop's."""
        transport = self._opened
        if transport is None:
            return
        if self.writing_paused or transport.is_closing():
            self._look_at_reader(now_s, transport, stalled_s)
        else:
            self._behind_at = 0.0  # what is written now isn't known here, so this time doesn't count
            if not transport.get_write_buffer_size():
                self._behind_s, self._taken_bytes = 0.0, 0

    def _look_at_reader(self, now_s: float, transport: asyncio.Transport, stalled_s: float) -> None:
        unsent_bytes = transport.get_write_buffer_size()
        if not self._behind_at:
            self._behind_at, self._unsent_bytes = now_s, unsent_bytes
            return
        self._count_taken(unsent_bytes)
        self._behind_s += now_s - self._behind_at
        self._behind_at = now_s
        if self._taken_bytes >= stalled_s * MIN_READ_BYTES_PER_S:
            self._behind_s, self._taken_bytes = 0.0, 0
        elif self._behind_s >= stalled_s:
            transport.abort()

    def _count_taken(self, unsent_bytes: int) -> None:
        """Count what the client took: by so much fewer bytes are unsent. New ones only hide some of that."""
        self._taken_bytes += max(self._unsent_bytes - unsent_bytes, 0)
        self._unsent_bytes = unsent_bytes
