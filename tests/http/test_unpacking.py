"""Compressed bodies: every form of them, what isn't one, and what unpacking may cost others."""

from __future__ import annotations

import asyncio
import gzip
import random
import tracemalloc
import zlib

import pytest

from limiter_node.http.bodies.unpacking import SLICE_BYTES, Unpacker
from limiter_node.http.server.raw_body import UnreadableBody

NOISE = random.Random(1).randbytes(300_000)
TEXT = b"Hello, world. " * 20_000


class Enough(Exception):
    """Raised when more was unpacked than may be."""


async def unpacked(packed: bytes, encoding: str, block_bytes: int = 10_000, most: int = 1 << 30) -> bytes:
    total = 0

    def keep(size: int) -> None:
        nonlocal total
        total += size
        if total > most:
            raise Enough

    unpacker = Unpacker(encoding, asyncio.Lock(), keep)
    for start in range(0, len(packed), block_bytes):
        await unpacker.feed(packed[start : start + block_bytes])
    body = unpacker.finish()
    assert total == len(body)
    return body


def raw_deflate(data: bytes) -> bytes:
    deflate = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return deflate.compress(data) + deflate.flush()


@pytest.mark.parametrize("block_bytes", [1, 7, 10_000, 1 << 20])
@pytest.mark.parametrize("body", [b"", b"{}", TEXT[:SLICE_BYTES], TEXT[: 2 * SLICE_BYTES], TEXT, NOISE[:20_000]])
async def test_each_form(body: bytes, block_bytes: int) -> None:
    assert await unpacked(gzip.compress(body), "gzip", block_bytes) == body
    assert await unpacked(gzip.compress(body), "x-gzip", block_bytes) == body
    assert await unpacked(zlib.compress(body), "deflate", block_bytes) == body
    assert await unpacked(raw_deflate(body), "deflate", block_bytes) == body
    members = gzip.compress(body[:100]) + gzip.compress(b"") + gzip.compress(body[100:])
    assert await unpacked(members, "gzip", block_bytes) == body


@pytest.mark.parametrize(
    ("packed", "encoding"),
    [
        (b"", "gzip"),
        (b"", "deflate"),
        (b"{}", "gzip"),
        (b"{}", "deflate"),
        (gzip.compress(TEXT)[:-1], "gzip"),
        (gzip.compress(TEXT)[:-9] + b"\0" * 9, "gzip"),
        (gzip.compress(TEXT) + b"more", "gzip"),
        (zlib.compress(TEXT)[:-1], "deflate"),
        (zlib.compress(TEXT) + b"more", "deflate"),
        (gzip.compress(TEXT), "deflate"),
        (NOISE, "gzip"),
    ],
)
async def test_what_is_no_such_thing(packed: bytes, encoding: str) -> None:
    with pytest.raises(UnreadableBody):
        await unpacked(packed, encoding)


async def test_a_bomb_is_unpacked_as_far_as_it_may_be() -> None:
    bomb = gzip.compress(b"\0" * 50_000_000)
    with pytest.raises(Enough):
        await unpacked(bomb, "gzip", 1 << 20, most=1_000_000)


@pytest.mark.parametrize(
    "packed",
    [
        pytest.param(gzip.compress(b" " * 5_000_000), id="a bomb"),
        pytest.param(gzip.compress(b"") * 10_000, id="empty members"),
    ],
)
async def test_others_have_their_turns_however_many_unpack(packed: bytes) -> None:
    """By turns of the loop: in each of them one body at most is unpacked, by one slice at most."""
    lock, loop = asyncio.Lock(), asyncio.get_running_loop()
    in_turn, most_in_turn, turns, is_over = 0, 0, 0, False

    def turn() -> None:
        nonlocal in_turn, most_in_turn, turns
        most_in_turn, in_turn, turns = max(most_in_turn, in_turn), 0, turns + 1
        if not is_over:
            loop.call_soon(turn)

    def keep(size: int) -> None:
        nonlocal in_turn
        in_turn += size

    async def unpack() -> None:
        unpacker = Unpacker("gzip", lock, keep)
        await unpacker.feed(packed)
        unpacker.finish()

    unpacking = [asyncio.ensure_future(unpack()) for _ in range(5)]
    await asyncio.sleep(0)  # the first slice of each
    in_turn = 0
    loop.call_soon(turn)
    await asyncio.gather(*unpacking)
    is_over = True
    assert most_in_turn <= 2 * SLICE_BYTES, "the last of one body and the next of another"
    assert turns > 50


async def test_a_client_that_stops_in_the_middle_holds_up_nobody() -> None:
    lock = asyncio.Lock()
    packed = gzip.compress(b" " * 5_000_000)
    slow = Unpacker("gzip", lock, lambda _: None)
    await slow.feed(packed[:-100])
    async with asyncio.timeout(10):
        other = Unpacker("gzip", lock, lambda _: None)
        await other.feed(packed)
    assert len(other.finish()) == 5_000_000


async def test_what_is_held_of_many_small_pieces_is_what_they_are() -> None:
    packed = gzip.compress(b"ab") * 20_000
    unpacker = Unpacker("gzip", asyncio.Lock(), lambda _size: None)
    tracemalloc.start()
    try:
        await unpacker.feed(packed)
        held_bytes, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held_bytes < 400_000
    assert unpacker.finish() == b"ab" * 20_000
