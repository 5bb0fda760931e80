"""One request to a service and its answer at the level of HTTP: the head, the body's bytes as they come, the end.

The asking side first waits for the head, may then read the beginning of the body (`read`), and in the end has the rest
handed on as it comes (`pass_to`): in the same turn of the event loop in which it was received, with no task in between.
Until it is taken, at most `HELD_BYTES` and one read are held, and no more is read from the connection.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Protocol

from limiter_node.upstream.gateway.wire.wakeup import Wakeup

HELD_BYTES: Final = 65_536

Fields = list[tuple[str, str]]
"""A head's fields in order; names are in lower case, values are Latin-1 text."""


class Broken(Exception):
    """Raised when a service breaks off, or sends something that is not HTTP. The text says which, for our log."""


class Unread(Broken):
    """Raised when a connection turns out to be closed before any byte of the answer."""


class Carrier(Protocol):
    """Carry an exchange: the connection's interface for its exchange."""

    was_used: bool
    """Whether the connection has carried other exchanges before."""

    def pause(self) -> None:
        """Read no more for the moment."""

    def resume(self) -> None:
        """Read on."""

    def abort(self) -> None:
        """Close the connection at once: the rest of the answer isn't wanted."""

    def end_within(self, seconds: float) -> None:
        """Let the answer end within `seconds`, discarding its bytes; otherwise close the connection."""


Receive = Callable[[bytes], None]


class Exchange:
    """Hand one answer from its connection to the asking side. The connection calls `on_…`, the gateway all else."""

    __slots__ = (
        "_carrier",
        "_held",
        "_held_bytes",
        "_most_held",
        "_on_end",
        "_receive",
        "_wakeup",
        "failure",
        "fields",
        "is_complete",
        "status",
    )

    def __init__(self, carrier: Carrier) -> None:
        self._carrier = carrier
        self.status = 0
        """The HTTP status; 0 until the head has come."""
        self.fields: Fields = []
        self.is_complete = False
        """Whether the whole answer has come."""
        self.failure: Exception | None = None
        """Why the answer won't be complete: `Broken`, or `TimeoutError` if the service fell silent."""
        self._held: list[bytes] = []
        self._held_bytes = 0
        self._most_held = HELD_BYTES
        self._receive: Receive | None = None
        self._on_end: Callable[[], None] | None = None
        self._wakeup = Wakeup()

    @property
    def was_used(self) -> bool:
        """Whether the connection has carried other exchanges before."""
        return self._carrier.was_used

    # ---- for the connection ----------------------------------------------------------------------------------------

    def on_head(self, status: int, fields: Fields) -> None:
        """Take the complete head."""
        self.status, self.fields = status, fields
        self._wakeup.wake()

    def on_body(self, data: bytes) -> None:
        """Take the next part of the body; it is never empty."""
        if self._receive is not None:
            self._receive(data)
            return
        self._held.append(data)
        self._held_bytes += len(data)
        if self._held_bytes >= self._most_held:
            self._carrier.pause()
        self._wakeup.wake()

    def on_end(self, failure: Exception | None = None) -> None:
        """Note that the answer is complete, or won't be because of `failure`. Nothing may come after that."""
        if self.is_complete or self.failure is not None:
            return
        self.is_complete, self.failure = failure is None, failure
        self._wakeup.wake()
        on_end = self._on_end
        if on_end is not None:
            on_end()
            self._receive, self._on_end = _ignore, None  # the receiver refers to this: a cycle

    # ---- for the asker ----------------------------------------------------------------------------------------------

    async def head(self) -> None:
        """Wait for `status` and `fields`. Raises `Broken` and `TimeoutError`."""
        while not self.status:
            await self._more()

    async def read(self, at_least: int) -> bytes:
        """Return the beginning of the body, `at_least` bytes of it unless it is shorter, without consuming it.

        Raises `Broken` and `TimeoutError`.
        """
        if at_least > self._most_held:
            self._most_held = at_least
            if self._held_bytes < at_least:
                self.resume()
        while self._held_bytes < at_least and not self.is_complete:
            await self._more()
        if len(self._held) > 1:
            self._held = [b"".join(self._held)]
        return self._held[0] if self._held else b""

    def pass_to(self, receive: Receive, on_end: Callable[[], None]) -> None:
        """Hand on the held bytes at once, and the rest as it comes; `on_end` is called at the end."""
        self._receive, self._on_end = receive, on_end
        held, self._held, self._held_bytes = self._held, [], 0
        self.resume()
        for data in held:
            receive(data)
        if self.is_complete or self.failure is not None:
            on_end()
            self._receive, self._on_end = _ignore, None

    def pause(self) -> None:
        """Read no more of the answer for the moment."""
        # After a complete answer, the connection may carry another one by now; of one that nobody takes any more, it
        # has to notice the end.
        if not self.is_complete and self._receive is not _ignore:
            self._carrier.pause()

    def resume(self) -> None:
        """Read on."""
        if not self.is_complete and self.failure is None:
            self._carrier.resume()

    def end_within(self, seconds: float) -> None:
        """Take no more of an answer; keep its connection if it ends within `seconds`."""
        self._receive, self._on_end = _ignore, None
        if not self.is_complete:
            self.resume()
            self._carrier.end_within(seconds)

    def close(self) -> None:
        """Take no more of the answer; its connection is closed unless the answer is complete. Idempotent."""
        self._receive, self._on_end, self._held = _ignore, None, []
        if not self.is_complete and self.failure is None:
            self.failure = Broken("was given up")
            self._carrier.abort()

    async def _more(self) -> None:
        """Wait until something has happened. Raises the answer's failure."""
        if (failure := self.failure) is not None:
            raise type(failure)(*failure.args)  # raised itself, it would hold frames that refer to this: a cycle
        await self._wakeup.wait()


def _ignore(_: bytes) -> None:
    """Discard the bytes."""
