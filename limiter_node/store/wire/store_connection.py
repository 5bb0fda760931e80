"""One multiplexed connection to one server of the store: commands out in one write per loop turn, replies in order.

redis-py pairs one connection with one command at a time and costs 43 µs of CPU per call; here commands of all requests
share a connection, and a reply costs what its parser (hiredis) costs. It does not retry: a lost command goes
back to its owner, because only the owner knows whether it may run twice.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections import deque
from time import monotonic
from typing import cast

import hiredis

from limiter_node.store.wire.acknowledged import acknowledged
from limiter_node.store.wire.commands import Command, Handshake, Ping
from limiter_node.telemetry import Latencies

log = logging.getLogger(__name__)

# A server that returns is to be noticed within a second: an attempt that hangs, the pause and the next one fit in it.
_RECONNECT_FIRST_S, _RECONNECT_MAX_S = 0.02, 0.4
_CONNECT_TIMEOUT_S, _TLS_TIMEOUT_S = 0.5, 2.0


class ServerConnection(asyncio.Protocol):
    """A connection to `host:port`, made on first use and made again whenever there is something to send.

    Commands given while it is down wait for it; those outstanding when it breaks are lost. `stall_timeout_s` is how
    long the oldest reply may be outstanding before the connection is taken for dead (see `check`). `replica_acks`: how
    many replicas must have taken what commands wrote before their replies count (`store.wire.acknowledged`).
    """

    def __init__(
        self,
        host: str,
        port: int,
        *,
        handshake: tuple[tuple[str, ...], ...] = (),
        tls: ssl.SSLContext | None = None,
        stall_timeout_s: float = 1.0,
        replica_acks: int = 0,
    ) -> None:
        self.host, self.port = host, port
        self._replica_acks = replica_acks
        self._handshake = (*handshake, ("PING",))
        self._tls = tls
        self._stall_timeout_s = stall_timeout_s
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._reader = hiredis.Reader()
        self._sent: deque[Command] = deque()
        self._waiting: deque[Command] = deque()
        self._is_open = False
        self._connecting: asyncio.Task[None] | None = None
        self._closed = False
        self._progress_at = 0.0
        self._backoff_s = 0.0
        self.last_error = "not connected yet"
        self.calls = Latencies()
        """Times from a write to the reply to its last command. One write at a time is timed, because timing each would
        cost every call; writes in between take as long."""
        self._timed_since_s = 0.0
        self._replies_to_timed = 0  # replies still to come to the timed write, 0 if none is timed

    @property
    def address(self) -> str:
        """``host:port``."""
        return f"{self.host}:{self.port}"

    @property
    def is_open(self) -> bool:
        """Whether commands are sent at once, instead of waiting."""
        return self._is_open

    @property
    def is_idle(self) -> bool:
        """Whether the connection is open and no reply is outstanding."""
        return self._is_open and not self._sent

    def send(self, commands: list[Command]) -> None:
        """Send `commands` in one write, or keep them until the connection is up."""
        if self._closed:
            for command in commands:
                command.on_lost()
        elif self._is_open:
            self._write_safely(commands)
        else:
            self._waiting.extend(commands)
            self.connect()

    def connect(self) -> None:
        """Start connecting unless that is under way or done."""
        if not (self._closed or self._is_open or self._connecting or self._transport):
            self._connecting = self._loop.create_task(self._connect())

    async def ping(self) -> None:
        """Return when the server has answered a PING, behind all that was sent before."""
        ping = Ping(self._loop.create_future())
        self.send([ping])
        await ping.future

    def take_waiting(self) -> list[Command]:
        """Return the commands not yet sent, and forget them: another connection has to send them."""
        waiting = list(self._waiting)
        self._waiting.clear()
        return waiting

    def check(self) -> None:
        """Break the connection if its replies have stalled. Called from time to time; no timer per command."""
        if self._sent and self._transport and self._loop.time() - self._progress_at > self._stall_timeout_s:
            self.last_error = f"no reply for {self._stall_timeout_s:g} s"
            self._transport.abort()

    def drop(self) -> None:
        """Break the connection: outstanding commands are lost. It is made again when there is something to send."""
        if self._transport:
            self._transport.abort()

    async def close(self) -> None:
        """End the connection; commands without a reply are lost."""
        self._closed = True
        if self._connecting:
            self._connecting.cancel()
            await asyncio.gather(self._connecting, return_exceptions=True)
        if self._transport:
            self._transport.abort()
        self._lose(self._waiting)

    def _write_safely(self, commands: list[Command]) -> None:
        self._write(acknowledged(commands, self._replica_acks) if self._replica_acks else commands)

    def _write(self, commands: list[Command]) -> None:
        assert self._transport is not None
        if not self._sent:
            self._progress_at = self._loop.time()
        self._sent.extend(commands)
        if not self._replies_to_timed:
            self._timed_since_s, self._replies_to_timed = monotonic(), len(self._sent)
        self._transport.write(b"".join([command.to_wire() for command in commands]))

    async def _connect(self) -> None:
        if self._backoff_s:
            await asyncio.sleep(self._backoff_s)
        # Doubled here and cleared by `_on_open`: a server that accepts and then refuses must not be hammered either.
        self._backoff_s = min(max(self._backoff_s * 2, _RECONNECT_FIRST_S), _RECONNECT_MAX_S)
        try:
            async with asyncio.timeout(_TLS_TIMEOUT_S if self._tls else _CONNECT_TIMEOUT_S):
                await self._loop.create_connection(lambda: self, self.host, self.port, ssl=self._tls)
        except (OSError, TimeoutError, ssl.SSLError) as error:
            self.last_error = f"cannot connect: {error or 'timed out'}"
            if self._transport is not None:
                # It came up in the very turn in which its time was over, as after this process stood still. uvloop then
                # closes it without telling its protocol, which would wait for its replies for ever.
                self.connection_lost(error)
        self._connecting = None
        # Also after a success: the server may have hung up before this task resumed.
        if self._waiting:
            self.connect()

    # ---- asyncio.Protocol -----------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's doesn't inherit from it
        self._reader = hiredis.Reader()
        *first, last = self._handshake
        commands = [Handshake(words, self._on_refused) for words in first]
        self._write([*commands, Handshake(last, self._on_refused, self._on_open)])

    def data_received(self, data: bytes) -> None:
        reader, sent = self._reader, self._sent
        try:
            reader.feed(data)
            reply = reader.gets()
            if reply is not False:
                # Whole replies count as progress: one that trickles in is no sign of a healthy server.
                self._progress_at = self._loop.time()
            outstanding = len(sent)
            while reply is not False:
                sent.popleft().on_reply(reply)
                reply = reader.gets()
            if self._replies_to_timed:
                self._time(outstanding - len(sent))
        except (hiredis.ProtocolError, IndexError):
            # Not RESP, or more replies than commands: nothing after it can be paired with its command.
            self.last_error = "the server's reply is not the Redis protocol"
            self._log(logging.ERROR)
            if self._transport:
                self._transport.abort()

    def _time(self, replies: int) -> None:
        """Note the time of the timed write if these `replies` complete it."""
        if replies < self._replies_to_timed:
            self._replies_to_timed -= replies
        else:
            self._replies_to_timed = 0
            self.calls.note(monotonic() - self._timed_since_s)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._is_open:
            self.last_error = f"connection lost: {exc or self.last_error or 'closed by the server'}"
            if not self._closed:
                self._log(logging.WARNING)
        self._transport = None
        self._is_open = False
        self._replies_to_timed = 0
        self._lose(self._sent)
        if self._waiting and not self._closed:
            self.connect()

    def _lose(self, commands: deque[Command]) -> None:
        lost = list(commands)
        commands.clear()
        for command in lost:
            command.on_lost()

    def _on_open(self) -> None:
        if self._transport is None or self._transport.is_closing():
            return  # an earlier part of the set-up was refused; its other replies came in the same packet
        self._is_open = True
        self._backoff_s = 0.0
        self.last_error = ""
        if self._waiting:
            self._write_safely(self.take_waiting())

    def _on_refused(self, reason: str) -> None:
        # For example a wrong password: logged once per attempt, and retried, because operators repair servers, too.
        if self._transport is None or self._transport.is_closing():
            return  # a consequence of the first refusal, as NOAUTH of WRONGPASS, must not hide it
        self.last_error = f"refused: {reason}"
        self._log(logging.ERROR)
        self._transport.abort()

    def _log(self, level: int) -> None:
        event = {"event": "store_connection", "shard": self.address}
        log.log(level, "store %s: %s", self.address, self.last_error, extra=event)
