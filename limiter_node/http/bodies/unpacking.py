"""Unpacks compressed bodies in slices, up to the largest size.

A body of 300 KB can unpack to 300 MB. A node unpacks one body at a time, a slice in each turn of the event loop, so
that other requests wait for a slice at most. A body that unpacks to a single slice doesn't wait for others.
"""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Callable
from typing import Final

from limiter_node.http.server.raw_body import UnreadableBody

SLICE_BYTES: Final = 65_536
"""Bytes to unpack in one turn of the event loop; that takes some 0.2 ms."""
_STEP_COST: Final = 512
"""Bytes added to each step's own: a gzip file may consist of a great many empty members."""

_INPUT_BYTES: Final = 16_384
"""Input bytes per step: the unused rest of a step's input is copied, so steps are small."""

ENCODINGS: Final = frozenset(("gzip", "x-gzip", "deflate"))
_GZIP_BITS: Final = 16 + zlib.MAX_WBITS


class Unpacker:
    """Unpack one body: `feed` it block by block, then `finish`. `lock` is the node's; a body that takes long holds it.

    `on_unpacked` is called with the size of each piece before it is kept; an exception from it ends the unpacking.
    """

    def __init__(self, encoding: str, lock: asyncio.Lock, on_unpacked: Callable[[int], None]) -> None:
        self._is_gzip = encoding != "deflate"
        self._lock, self._on_unpacked = lock, on_unpacked
        self._inflate = zlib.decompressobj(_GZIP_BITS) if self._is_gzip else None
        # One block: separate pieces of one or two bytes would take thirty times as much memory as is counted.
        self._body = bytearray()
        self._work = 0
        self._has_lock = False

    async def feed(self, block: bytes) -> None:
        """Unpack a block. Raises `UnreadableBody`, and any exception of `on_unpacked`."""
        try:
            for start in range(0, len(block), _INPUT_BYTES):
                await self._feed(block[start : start + _INPUT_BYTES])
        finally:
            if self._has_lock:  # not kept while the client sends, which may take long
                self._lock.release()
                self._has_lock = False

    def finish(self) -> bytes:
        """Return the whole body. Raises `UnreadableBody` if its end is missing."""
        if self._inflate is None or not self._inflate.eof:
            raise UnreadableBody
        return bytes(self._body)

    async def _feed(self, block: bytes) -> None:
        inflate = self._inflate
        if inflate is None:  # "deflate" should have zlib's header, and often has none
            inflate = zlib.decompressobj(zlib.MAX_WBITS if block[0] & 0x0F == 8 else -zlib.MAX_WBITS)
        is_more = True
        while is_more:
            if inflate.eof:  # the next member of a gzip file
                if not self._is_gzip:
                    raise UnreadableBody
                inflate = zlib.decompressobj(_GZIP_BITS)
            try:
                piece = inflate.decompress(block, SLICE_BYTES)
            except zlib.error:
                raise UnreadableBody from None
            if piece:
                self._on_unpacked(len(piece))
                self._body += piece
            block = inflate.unused_data if inflate.eof else inflate.unconsumed_tail
            # After a full slice the decompressor may hold more output, even if it has taken all input.
            is_more = bool(block) or (len(piece) == SLICE_BYTES and not inflate.eof)
            self._work += len(piece) + _STEP_COST
            if self._work >= SLICE_BYTES:
                self._work = 0
                await self._rest()
        self._inflate = inflate

    async def _rest(self) -> None:
        if not self._has_lock:
            await self._lock.acquire()
            self._has_lock = True
        await asyncio.sleep(0)
