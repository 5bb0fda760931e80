"""Stand-ins for nodes: connections to one server, each with a node id of its own and one call in flight.

A server with many of them is busy: it finds several calls ready whenever it looks, as a shard under load does.
"""

from __future__ import annotations

import contextlib
import selectors
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import hiredis

from limiter_node.store.codec import DECIDED


class StandIn:
    """Stand in for a node: one connection, one call at a time."""

    def __init__(self, name: str, port: int) -> None:
        self.name = name
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._reader = hiredis.Reader()

    def send(self, command: bytes) -> None:
        """Send a call."""
        self.socket.sendall(command)

    def receive(self) -> None:
        """Take the one reply that is due. Raises RuntimeError if the batch wasn't decided."""
        while (reply := self._reader.gets()) is False:
            self._reader.feed(self.socket.recv(65536))
        if isinstance(reply, Exception):
            raise reply
        if not isinstance(reply, bytes) or reply[0] != DECIDED:
            raise RuntimeError(f"not decided: {reply!r}")

    def ask(self, command: bytes) -> None:
        """Send a call, and take its reply."""
        self.send(command)
        self.receive()


@contextmanager
def connected(port: int, count: int) -> Iterator[list[StandIn]]:
    """Connect so many stand-ins to the server at `port`."""
    with contextlib.ExitStack() as stack:
        made = [StandIn(f"node{number:04d}", port) for number in range(count)]
        for each in made:
            stack.callback(each.socket.close)
        yield made


def drive(stand_ins: Sequence[StandIn], next_command: Callable[[int], bytes | None]) -> None:
    """Let each stand-in send its next call after each reply.

    `next_command` returns it by the stand-in's number; None at the end.
    """
    with selectors.DefaultSelector() as selector:
        waiting = 0
        for number, each in enumerate(stand_ins):
            if (command := next_command(number)) is not None:
                selector.register(each.socket, selectors.EVENT_READ, number)
                each.send(command)
                waiting += 1
        while waiting:
            for ready, _ in selector.select():
                each = stand_ins[ready.data]
                each.receive()
                if (command := next_command(ready.data)) is not None:
                    each.send(command)
                else:
                    waiting -= 1
