"""A window of an account as it is stored between decisions (lua/README.md), read without a script.

Its running sums, for those who look at many windows; its buckets, for those who draw one.
"""

from __future__ import annotations

from collections.abc import Mapping

from limiter_node.decisions import WindowBucket
from limiter_node.limits import Amounts

GROUP, RING = 24, 32
"""Buckets of a group, and groups of a window."""

_META_SIZE, _CLOCK_SIZE = 63, 12
_CELLS = (((0, 4), (4, 8), (8, 12)), ((0, 4), (4, 11), (11, 18)))
"""Where a cell of a group of kind 0 or 1 has its three amounts; the last one's end is the cell's size."""
_WIDE_CELL = _CELLS[1]
_NOTHING = Amounts(0, 0, 0)


def unpack_clock(stored: bytes | None, clock_ms: int) -> int:
    """Return an account's time. `stored`: its field ``c``; `clock_ms`: the server's. Raises ValueError."""
    if stored is None:
        return clock_ms
    if len(stored) != _CLOCK_SIZE:
        raise ValueError(f"an account's clock is {_CLOCK_SIZE} bytes, not {len(stored)}")
    last_ms, skew_ms = (int.from_bytes(stored[at : at + 6], "little") for at in (0, 6))
    return max(clock_ms + skew_ms, last_ms)


def unpack_path_sums(meta: bytes | None, now_ms: int, bucket_ms: int, buckets: int) -> tuple[Amounts, bool]:
    """Return a window's usage by its running sums, and whether it is exact; `now_ms`: by the account's clock.

    Usage that has left the window since the last decision is still in the sums, so they are never too low. Raises
    ValueError if `meta` is not a window's (lua/README.md).
    """
    if meta is None:
        return _NOTHING, True
    if len(meta) != _META_SIZE:
        raise ValueError(f"a window's sums are {_META_SIZE} bytes, not {len(meta)}")
    head, newest, _, newest_input, newest_output = (
        int.from_bytes(meta[at : at + 5], "little") for at in range(0, 25, 5)
    )
    oldest = max(now_ms // bucket_ms, newest) - buckets
    if newest < oldest:
        return _NOTHING, True
    requests, input_tokens, output_tokens = (
        int.from_bytes(meta[at:end], "little") for at, end in ((25, 31), (31, 38), (38, 45))
    )
    used = Amounts(
        requests, input_tokens if newest_input >= oldest else 0, output_tokens if newest_output >= oldest else 0
    )
    return used, head >= oldest


def unpack_buckets(
    meta: bytes | None, groups: Mapping[int, bytes], now_ms: int, bucket_ms: int, buckets: int
) -> tuple[WindowBucket, ...]:
    """Return the buckets in use that count at `now_ms`, the oldest first. `groups`: by their number modulo `RING`.

    Raises ValueError if a value is not a window's.
    """
    if meta is None:
        return ()
    if len(meta) != _META_SIZE:
        raise ValueError(f"a window's sums are {_META_SIZE} bytes, not {len(meta)}")
    head, newest = (int.from_bytes(meta[at : at + 5], "little") for at in (0, 5))
    oldest = max(now_ms // bucket_ms, newest) - buckets
    first, last = max(head, oldest) // GROUP, newest // GROUP
    found = [
        each
        for number in range(max(first, last - RING + 1), last + 1)
        for each in _buckets_of(number, groups.get(number % RING, b""))
        if oldest <= each.bucket < newest and each.bucket >= head
    ]
    latest = WindowBucket(newest, *_cell(meta, 45, _WIDE_CELL))
    return (*found, latest) if newest >= oldest and any(latest[1:]) else tuple(found)


def _buckets_of(number: int, group: bytes) -> list[WindowBucket]:
    if not group:
        return []
    mask = int.from_bytes(group[:3], "little")
    if len(group) < 4 or group[3] >= len(_CELLS) or len(group) < 4 + mask.bit_count() * _CELLS[group[3]][-1][1]:
        raise ValueError(f"a group of {len(group)} bytes holds no cells for {mask:b}")
    shape, at, found = _CELLS[group[3]], 4, []
    for place in range(GROUP):
        if mask >> place & 1:
            found.append(WindowBucket(number * GROUP + place, *_cell(group, at, shape)))
            at += shape[-1][1]
    return found


def _cell(value: bytes, at: int, shape: tuple[tuple[int, int], ...]) -> tuple[int, int, int]:
    requests, input_tokens, output_tokens = (
        int.from_bytes(value[at + begin : at + end], "little") for begin, end in shape
    )
    return requests, input_tokens, output_tokens
