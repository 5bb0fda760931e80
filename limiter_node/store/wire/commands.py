"""The commands that a connection sends: their protocol, and those that belong to no script."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import hiredis

from limiter_node.errors import StoreUnavailable


def bulk(words: Sequence[bytes]) -> bytes:
    """Return words as RESP's bulk strings."""
    return b"".join([b"$%d\r\n%b\r\n" % (len(word), word) for word in words])


class Command(Protocol):
    """Describe a command that a connection sends. One of the two handlers is called, once per send."""

    def to_wire(self) -> bytes:
        """Return the command in RESP."""

    def on_reply(self, reply: Any) -> None:
        """Take the server's reply, a `hiredis.ReplyError` if the server refused."""

    def on_lost(self) -> None:
        """Note that the connection ended after the command was handed over: it may or may not have run."""


class Handshake:
    """A command of a connection's own set-up, sent before all others. The last one has `on_done`."""

    __slots__ = ("_on_done", "_on_refused", "_words")

    def __init__(
        self, words: Sequence[str], on_refused: Callable[[str], None], on_done: Callable[[], None] | None = None
    ) -> None:
        self._words, self._on_refused, self._on_done = words, on_refused, on_done

    def to_wire(self) -> bytes:
        command: bytes = hiredis.pack_command(self._words)  # type: ignore[arg-type]  # its stub wants 1-tuples
        return command

    def on_reply(self, reply: Any) -> None:
        # The connection's name is a convenience: a login without the right to set it decides all the same.
        if isinstance(reply, hiredis.ReplyError) and self._words[0] != "CLIENT":
            self._on_refused(f"{self._words[0]}: {reply}")
        elif self._on_done is not None:
            self._on_done()

    def on_lost(self) -> None:
        pass


class Ping:
    """A PING; `future` ends with its reply."""

    __slots__ = ("future",)

    def __init__(self, future: asyncio.Future[None]) -> None:
        self.future = future

    def to_wire(self) -> bytes:
        return b"*1\r\n$4\r\nPING\r\n"

    def on_reply(self, reply: Any) -> None:
        if self.future.done():
            return
        if isinstance(reply, hiredis.ReplyError):
            self.future.set_exception(StoreUnavailable(str(reply)))
        else:
            self.future.set_result(None)

    def on_lost(self) -> None:
        if not self.future.done():
            self.future.set_exception(StoreUnavailable("connection lost"))


class Asking:
    """An ASKING: in front of a command for a slot that the shard is about to own; one write keeps their order."""

    __slots__ = ()

    def to_wire(self) -> bytes:
        return b"*1\r\n$6\r\nASKING\r\n"

    def on_reply(self, reply: Any) -> None:
        pass

    def on_lost(self) -> None:
        pass
