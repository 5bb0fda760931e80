"""Replies that count only when replicas have the writes: ``--replica-acks`` puts this between connection and commands.

Replication is asynchronous: a master that dies can lose its last decisions. Here each write to a shard is
followed by one ``WAIT``, and the replies to its commands are held back until that many replicas have taken all of it.
If they don't in time, the commands count as lost: sent again under their numbers, they are answered from the record,
not decided twice. The price is a round trip to the replicas, and no decisions while they are too few.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from limiter_node.store.wire.commands import Command

WAIT_MS = 50
"""The time limit of one ``WAIT``; commands behind it on the connection wait as well."""


class _Held:
    """A command whose reply waits for the replicas."""

    __slots__ = ("_command", "_into")

    def __init__(self, command: Command, into: list[tuple[Command, Any]]) -> None:
        self._command, self._into = command, into

    def to_wire(self) -> bytes:
        return self._command.to_wire()

    def on_reply(self, reply: Any) -> None:
        self._into.append((self._command, reply))

    def on_lost(self) -> None:
        self._command.on_lost()


class _Wait:
    """The ``WAIT`` behind the commands of one write."""

    __slots__ = ("_held", "_replicas")

    def __init__(self, replicas: int, held: list[tuple[Command, Any]]) -> None:
        self._replicas, self._held = replicas, held

    def to_wire(self) -> bytes:
        return b"*3\r\n$4\r\nWAIT\r\n$%d\r\n%d\r\n$%d\r\n%d\r\n" % (
            len(str(self._replicas)),
            self._replicas,
            len(str(WAIT_MS)),
            WAIT_MS,
        )

    def on_reply(self, reply: Any) -> None:
        # An error reply isn't a number of replicas either.
        enough = type(reply) is int and reply >= self._replicas
        for command, held in self._held:
            if enough:
                command.on_reply(held)
            else:
                command.on_lost()

    def on_lost(self) -> None:
        for command, _ in self._held:
            command.on_lost()


def acknowledged(commands: Sequence[Command], replicas: int) -> list[Command]:
    """Return the commands to send instead of `commands`: replies come when `replicas` replicas have taken all of it."""
    held: list[tuple[Command, Any]] = []
    return [*(_Held(command, held) for command in commands), _Wait(replicas, held)]
