"""The packed form of a read of windows of one account, as ``lua/peek_paths.lua`` reads and writes it."""

from __future__ import annotations

import struct

from limiter_node.limits import Amounts
from limiter_node.store.accounts.codec import WINDOW_HEAD, Layout, WindowUse

_M40 = 2**40 - 1
_PEEK_HEAD = struct.Struct("<Q")
_PEEKED = struct.Struct("<QQQ15s")


def pack_peek(layout: Layout, clock_ms: int = 0) -> bytes:
    """Pack ARGV[1] of ``peek_paths.lua``: the windows of a layout, without limits."""
    words = [_PEEK_HEAD.pack(clock_ms)]
    for found in layout.hashes():
        words.append(bytes((len(found),)))
        words += [WINDOW_HEAD.pack(each.id, each.bucket_ms, each.buckets) for each in found]
    return b"".join(words)


def unpack_peek(packed: bytes) -> tuple[int, list[WindowUse]]:
    """Read the counters in the reply of ``peek_paths.lua``: the time in ms, and each window's usage.

    Raises:
        struct.error: `packed` is not such a reply.
    """
    (time_ms,) = _PEEK_HEAD.unpack_from(packed)
    windows = []
    for requests, input_tokens, output_tokens, newest in _PEEKED.iter_unpack(packed[_PEEK_HEAD.size :]):
        each = int.from_bytes(newest, "little")
        windows.append(
            WindowUse(
                Amounts(requests, input_tokens, output_tokens), Amounts(each & _M40, each >> 40 & _M40, each >> 80)
            )
        )
    return time_ms, windows
