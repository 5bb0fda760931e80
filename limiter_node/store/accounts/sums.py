"""A window's usage by its running sums alone, as stored between decisions: for those who look at many windows."""

from __future__ import annotations

from limiter_node.limits import Amounts

_META_SIZE, _CLOCK_SIZE = 63, 12
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
