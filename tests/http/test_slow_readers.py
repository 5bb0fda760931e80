"""Clients that read slowly, on a clock of the test's own: who is dropped, and who is left alone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import cast

import pytest
from aiohttp import web

from limiter_node.http.responses.whole_response import WholeResponse
from limiter_node.http.server.client_connection import ClientConnection, Deadlines
from limiter_node.http.server.http_server import HttpServer

HIGH, LOW = 65_536, 16_384
"""asyncio's marks: above the one, a writer is told to pause, and below the other to go on."""
LOOK_S = 0.5
DEADLINES = Deadlines()


class Buffer(asyncio.Transport):
    """A transport that is nothing but its buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.unsent = 0
        self.is_ending = False
        self.is_aborted = False

    def get_write_buffer_size(self) -> int:
        return self.unsent

    def is_reading(self) -> bool:
        return True

    def is_closing(self) -> bool:
        return self.is_ending

    def close(self) -> None:
        self.is_ending = True

    def abort(self) -> None:
        self.is_aborted = True


class Reader:
    """A client of one connection, and what is written to it."""

    def __init__(self, connection: ClientConnection, buffer: Buffer) -> None:
        self.connection, self.buffer = connection, buffer
        self.now_s = 1_000.0

    def write(self, size: int) -> None:
        self.buffer.unsent += size
        if self.buffer.unsent > HIGH and not self.connection.writing_paused:
            self.connection.pause_writing()

    def read(self, size: float) -> None:
        self.buffer.unsent = max(self.buffer.unsent - int(size), 0)
        if self.buffer.unsent <= LOW and self.connection.writing_paused:
            self.connection.resume_writing()

    def look(self) -> None:
        self.now_s += LOOK_S
        self.connection.look(self.now_s, DEADLINES)


@pytest.fixture
async def reader() -> AsyncIterator[Reader]:
    has_begun, is_over = asyncio.Event(), asyncio.Event()

    async def handler(_: web.BaseRequest) -> WholeResponse:
        has_begun.set()
        await is_over.wait()
        return WholeResponse(b"", "")

    server = HttpServer(handler, keepalive_s=75)
    connection = cast(ClientConnection, server())
    buffer = Buffer()
    connection.connection_made(buffer)
    connection.data_received(b"GET / HTTP/1.1\r\nHost: n\r\n\r\n")
    await has_begun.wait()
    yield Reader(connection, buffer)
    is_over.set()
    connection.connection_lost(None)
    await server.shutdown(0.1)


def lasts_s(reader: Reader, bytes_per_s: float, *, refill: int = 0, seconds: float = 600.0) -> float | None:
    """How long a client that reads so much is kept, None if that is all the time; `refill` is written where it fits."""
    for tick in range(int(seconds / LOOK_S)):
        reader.read(bytes_per_s * LOOK_S)
        if refill and not reader.connection.writing_paused:
            reader.write(refill)
        reader.look()
        if reader.buffer.is_aborted:
            return tick * LOOK_S
        if not reader.buffer.unsent:
            return None
    return None


@pytest.mark.parametrize("bytes_per_s", [0, 273, 1_000, 4_000])
@pytest.mark.parametrize("refill", [0, 65_536])
def test_who_reads_less_than_4_kib_a_second_is_dropped_after_a_minute(
    reader: Reader, bytes_per_s: float, refill: int
) -> None:
    """16 KiB a minute (273 bytes a second) were once enough to keep a stream, or a whole answer."""
    reader.write(10_000_000 if not refill else HIGH + 1)
    lasted_s = lasts_s(reader, bytes_per_s, refill=refill)
    assert lasted_s is not None
    assert 60 <= lasted_s <= 61


@pytest.mark.parametrize("bytes_per_s", [0, 273, 1_000, 3_000])
def test_also_where_the_stream_does_not_keep_its_buffer_full(reader: Reader, bytes_per_s: float) -> None:
    reader.write(HIGH + 1)
    lasted_s = lasts_s(reader, bytes_per_s, refill=4_000)
    assert lasted_s is not None
    assert 60 <= lasted_s <= 90, "only the time counts in which more waited than the buffer is for"


@pytest.mark.parametrize("bytes_per_s", [4_600, 16_000, 1_000_000])
@pytest.mark.parametrize("refill", [0, 65_536])
def test_who_reads_faster_is_not(reader: Reader, bytes_per_s: float, refill: int) -> None:
    reader.write(10_000_000 if not refill else HIGH + 1)
    assert lasts_s(reader, bytes_per_s, refill=refill) is None


def test_the_minute_begins_when_it_stops_to_read(reader: Reader) -> None:
    reader.write(100_000_000)
    assert lasts_s(reader, 100_000, seconds=300) is None
    lasted_s = lasts_s(reader, 0)
    assert lasted_s is not None
    assert 57 <= lasted_s <= 61


def test_the_rest_of_an_answer_on_a_connection_that_ends(reader: Reader) -> None:
    reader.write(20_000)
    reader.buffer.close()
    lasted_s = lasts_s(reader, 100)
    assert lasted_s is not None
    assert 60 <= lasted_s <= 61


def test_a_stream_that_is_slow_itself_is_left_alone(reader: Reader) -> None:
    """Its client reads all that there is, however little."""
    for _ in range(int(600 / LOOK_S)):
        reader.write(200)
        reader.look()
        reader.read(200)
    assert not reader.buffer.is_aborted


def test_a_client_that_catches_up_begins_anew(reader: Reader) -> None:
    for _ in range(5):
        reader.write(HIGH + 1)
        assert lasts_s(reader, 0, seconds=50) is None
        reader.read(HIGH + 1)
        reader.look()
        assert not reader.buffer.is_aborted
