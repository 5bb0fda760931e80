"""``python -m attack.assailant TITLE``: carries out one attack. Prints ``ready``; then, for each line on stdin (a JSON
object of ``host``, ``port``, ``seconds``, ``connections``), attacks and prints what it met as a JSON object.

Its bytes are made before it is ready, and it gives way to all others on its cores, so that its own work slows nobody.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import uvloop

from .attacks import ATTACKS, Attack, Then

SLOW_BYTES, SLOW_S = 65_536, 2.0
TOO_LATE_S = 0.2
"""Before a round's end no further request is begun."""
AT_ONCE = 64
"""Connections that are being made: more than a listener's backlog would be lost."""


@dataclass
class Met:
    """What an attack met."""

    shots: int = 0
    """Requests that were sent, whole or as far as the other side let them."""
    answers: Counter[str] = field(default_factory=Counter)
    """By status, or by how the connection ended without one."""
    longest_s: float = 0.0
    """The longest that a request and its answer took."""
    oldest_unended_s: float = 0.0
    """How long the oldest answer had taken that hadn't ended when time was up."""


class Assault:
    """One round of an attack on one server."""

    def __init__(self, attack: Attack, shots: Sequence[bytes], host: str, port: int, seconds: float) -> None:
        self._attack, self._shots = attack, shots
        self._host, self._port = host, port
        self._began = time.monotonic()
        self._until = self._began + seconds
        self._fired = 0
        self._making = asyncio.Semaphore(AT_ONCE)
        self.met = Met()

    async def run(self, connections: int) -> Met:
        await asyncio.gather(*(self._work() for _ in range(connections)))
        return self.met

    async def _work(self) -> None:
        while self._fired < self._attack.at_most:
            number, self._fired = self._fired, self._fired + 1
            due = self._began + number / self._attack.per_second
            if due >= self._until:
                return
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            if time.monotonic() >= self._until - TOO_LATE_S:
                return
            await self._shoot(self._shots[number % len(self._shots)])
            if self._attack.then is Then.HOLD:
                return

    async def _shoot(self, shot: bytes) -> None:
        began = time.monotonic()
        try:
            async with self._making:
                reader, writer = await asyncio.wait_for(
                    asyncio.open_connection(self._host, self._port, limit=SLOW_BYTES), self._left()
                )
        except (OSError, TimeoutError):
            self.met.answers["not connected"] += 1
            return
        writer.transport.set_write_buffer_limits(0)
        ended, came = "closed", list[str]()
        try:
            async with asyncio.timeout(self._left()):
                self.met.shots += 1
                ended = await self._talk(reader, writer, shot, came)
            self.met.longest_s = max(self.met.longest_s, time.monotonic() - began)
        except TimeoutError:
            if self._attack.then is Then.HOLD:
                ended = f"{came[0]}, held" if came else "no answer"
            else:
                ended = "unended"
                self.met.oldest_unended_s = max(self.met.oldest_unended_s, time.monotonic() - began)
        except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            self.met.longest_s = max(self.met.longest_s, time.monotonic() - began)
        finally:
            self.met.answers[ended] += 1
            writer.transport.abort()

    async def _talk(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, shot: bytes, came: list[str]
    ) -> str:
        writer.write(shot)
        if self._attack.then is not Then.LEAVE:
            # An answer may come before all is sent; what is left is then thrown away on closing.
            sending = asyncio.ensure_future(writer.drain())
            try:
                return await self._read(reader, came)
            finally:
                sending.cancel()
                await asyncio.gather(sending, return_exceptions=True)
        await writer.drain()
        return "left"

    async def _read(self, reader: asyncio.StreamReader, came: list[str]) -> str:
        if self._attack.then is Then.HOLD:
            came.append((await reader.readuntil(b"\r\n")).split(b" ")[1].decode())
            await asyncio.Event().wait()  # until time is up
        status = b"100"
        while status.startswith(b"1"):
            line = await reader.readuntil(b"\r\n")
            status = line.split(b" ")[1]
            length = await self._skip_fields(reader)
        if length is not None and self._attack.then is not Then.READ_ALL:
            await self._skip(reader, length)
        else:
            await self._skip(reader, 1 << 60)
        return status.decode()

    async def _skip_fields(self, reader: asyncio.StreamReader) -> int | None:
        length = None
        while (line := await reader.readuntil(b"\r\n")) != b"\r\n":
            name, _, value = line.partition(b":")
            if name.lower() == b"content-length":
                length = int(value)
        return length

    async def _skip(self, reader: asyncio.StreamReader, length: int) -> None:
        """Read to the end: `length` bytes, the last chunk, or the closing of the connection."""
        last = b""
        while length > 0 and (data := await reader.read(min(SLOW_BYTES, length))):
            length -= len(data)
            last = (last + data)[-5:]
            if last == b"0\r\n\r\n" and self._attack.then is not Then.READ_ALL:
                return
            if self._attack.then is Then.SLOWLY:
                await asyncio.sleep(SLOW_S)

    def _left(self) -> float:
        return max(0.001, self._until - time.monotonic())


def main() -> None:
    """Attack as often as it is told to."""
    os.nice(10)
    (attack,) = (each for each in ATTACKS if each.title == sys.argv[1])
    shots = attack.shots()
    print("ready", flush=True)
    for line in sys.stdin:
        order: dict[str, Any] = json.loads(line)

        async def attacks(order: dict[str, Any] = order) -> Met:
            assault = Assault(attack, shots, order["host"], order["port"], order["seconds"])
            return await assault.run(order["connections"])

        print(json.dumps(vars(uvloop.run(attacks()))), flush=True)


if __name__ == "__main__":
    main()
