"""Connections that bring much at once take turns, and leave the event loop to others between them."""

from __future__ import annotations

import asyncio
from typing import Any, cast
from unittest.mock import Mock

from limiter_node.upstream.gateway.wire import read_turns
from limiter_node.upstream.gateway.wire.read_turns import READ_SLICE_BYTES, ReadTurns
from limiter_node.upstream.gateway.wire.service_connection import ConnectionKeeper, ServiceConnection

HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
LARGE = b"%x\r\n%b\r\n" % (1_000_000, b"a" * 1_000_000)


class Slices:
    """So many slices of a connection; each is noted when it is taken."""

    def __init__(self, name: str, count: int, taken: list[str]) -> None:
        self._name, self._left, self._taken = name, count, taken

    def take_slice(self) -> bool:
        self._taken.append(self._name)
        self._left -= 1
        return self._left > 0


async def test_connections_take_turns(monkeypatch: Any) -> None:
    monkeypatch.setattr(read_turns, "TURN_S", 0.0)
    taken: list[str] = []
    waiting = ReadTurns()
    waiting.add(Slices("a", 3, taken))
    waiting.add(Slices("b", 1, taken))
    assert taken == [], "in the turn in which it came, all else comes first"
    for count in (1, 2, 3, 4, 4):
        await asyncio.sleep(0)
        assert len(taken) == count, "a slice in each turn of the event loop, however long it takes"
    assert taken == ["a", "b", "a", "a"]


class Reading:
    """A connection of a service on a transport that only notes what it is asked."""

    def __init__(self) -> None:
        keeper = Mock(turns=ReadTurns(), now_s=lambda: 0.0)
        self.connection = ServiceConnection(cast(ConnectionKeeper, keeper), 10.0)
        self.transport = Mock(is_closing=lambda: False)
        self.connection.connection_made(self.transport)
        self.sizes: list[int] = []
        self.connection.begin(0.0).pass_to(lambda data: self.sizes.append(len(data)), Mock())

    @property
    def is_read(self) -> bool:
        """Whether the transport was last asked to read on."""
        asked = [name for name, _, _ in self.transport.method_calls if name.endswith("_reading")]
        return asked[-1] == "resume_reading"


async def _until(reading: Reading, size: int) -> None:
    async with asyncio.timeout(5):
        while sum(reading.sizes) < size:
            await asyncio.sleep(0)


async def test_what_comes_at_once_is_taken_in_slices_and_nothing_more_is_read_meanwhile() -> None:
    reading = Reading()
    reading.connection.data_received(HEAD + LARGE)
    assert reading.sizes == []
    assert not reading.is_read
    await _until(reading, 1_000_000)
    assert max(reading.sizes) <= READ_SLICE_BYTES
    assert sum(reading.sizes) == 1_000_000
    assert reading.is_read


async def test_what_is_small_is_taken_at_once() -> None:
    reading = Reading()
    reading.connection.data_received(HEAD + b"5\r\nhello\r\n")
    assert reading.sizes == [5]
    assert reading.transport.pause_reading.call_count == 0


async def test_a_reader_that_is_behind_is_given_nothing_until_it_goes_on() -> None:
    reading = Reading()
    reading.connection.data_received(HEAD + LARGE)
    reading.connection.pause()
    for _ in range(5):
        await asyncio.sleep(0)
    assert reading.sizes == []
    reading.connection.resume()
    await _until(reading, 1_000_000)
    assert reading.is_read


async def test_a_connection_with_more_than_its_answer_is_not_used_again() -> None:
    reading = Reading()
    reading.connection.data_received(HEAD + LARGE + b"0\r\n\r\n" + b"HTTP/1.1 200 OK\r\n" * 1_000)
    await _until(reading, 1_000_000)
    async with asyncio.timeout(5):
        while not reading.transport.abort.call_count:
            await asyncio.sleep(0)
