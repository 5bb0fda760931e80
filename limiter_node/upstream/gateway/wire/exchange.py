"""One request to a service and its answer, as far as HTTP goes: the head, the bytes of the body as they come, the end.

Whoever asks first waits for the head, may then look at the beginning of the body (`read`), and in the end has the rest
handed on as it comes (`pass_to`): in the same turn of the event loop in which it was received, with no task in between.
Until somebody takes it, at most `HELD_BYTES` and one read are held, and no more is read from the connection.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Protocol

from limiter_node.upstream.gateway.wire.wakeup import Wakeup

HELD_BYTES: Final = 65_536

Fields = list[tuple[str, str]]
"""A head's fields in their order; names are lower-cased, values are Latin-1 text."""


class Broken(Exception):
    """Raised when a service breaks off, or answers something that is not HTTP. The text says which, for our log."""


class Unread(Broken):
    """Raised when a connection turns out to be closed, and nothing of an answer has come."""


class Carrier(Protocol):
    """Carry an exchange: the connection, as the exchange needs it."""

    was_used: bool
    """Whether it has carried others before."""

    def pause(self) -> None:
        """Read no more for the moment."""

    def resume(self) -> None:
        """Read on."""

    def abort(self) -> None:
        """Close the connection at once: nothing more is wanted of the answer."""

    def end_within(self, seconds: float) -> None:
        """Give the answer so much time to end, whatever comes of it meanwhile; then its connection is closed."""


Receive = Callable[[bytes], None]


class Exchange:
    """Hand one answer from its connection to who asked. The connection calls `on_…`, the gateway all else."""

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
        """0 until the head has come."""
        self.fields: Fields = []
        self.is_complete = False
        """Whether the answer has come to its end."""
        self.failure: Exception | None = None
        """Why it won't: `Broken`, or `TimeoutError` where the service fell silent."""
        self._held: list[bytes] = []
        self._held_bytes = 0
        self._most_held = HELD_BYTES
        self._receive: Receive | None = None
        self._on_end: Callable[[], None] | None = None
        self._wakeup = Wakeup()

    @property
    def was_used(self) -> bool:
        """Whether its connection has carried other exchanges before."""
        return self._carrier.was_used

    # ---- for the connection ----------------------------------------------------------------------------------------

    def on_head(self, status: int, fields: Fields) -> None:
        """Take the head, which is complete."""
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
        """Note that the answer is complete, or won't be, for `failure`. Nothing may come after it."""
        if self.is_complete or self.failure is not None:
            return
        self.is_complete, self.failure = failure is None, failure
        self._wakeup.wake()
        on_end = self._on_end
        if on_end is not None:
            on_end()
            self._receive, self._on_end = _ignore, None  # whoever has it knows this: a cycle

    # ---- for who asks ----------------------------------------------------------------------------------------------

    async def head(self) -> None:
        """Wait for `status` and `fields`. Raises `Broken` and `TimeoutError`."""
        while not self.status:
            await self._more()

    async def read(self, at_least: int) -> bytes:
        """Return the beginning of the body, `at_least` bytes of it unless it is shorter; it stays where it is.

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
        """Hand on what is held at once, and the rest as it comes; `on_end` is called when it is over."""
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
        # Of one that is complete, the connection may carry another one by now; of one that nobody takes any more, it
        # has to notice the end.
        if not self.is_complete and self._receive is not _ignore:
            self._carrier.pause()

    def resume(self) -> None:
        """Read on."""
        if not self.is_complete and self.failure is None:
            self._carrier.resume()

    def end_within(self, seconds: float) -> None:
        """Take no more of an answer that has all that was wanted; keep its connection if it ends in so many seconds."""
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
        """Wait until something has happened. Raises what the answer has failed with."""
        if (failure := self.failure) is not None:
            raise type(failure)(*failure.args)  # itself it would hold the frames of whoever has this: a cycle
        await self._wakeup.wait()


def _ignore(_: bytes) -> None:
    """Receives for nobody."""
