"""The chart of ``keys show``: the last 60 s of a key's window, second by second, and when the window has room again.

Per dimension, one block of five or six lines of at most 80 columns: a gauge, columns, the axis. Pure: takes a `Usage`.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil

from limiter_node.chart import Glyphs, bar, columns, compact
from limiter_node.decisions import Usage, WindowBucket
from limiter_node.limits import BUCKET_MS, WINDOW_BUCKETS

SECONDS = 60
"""Columns of the chart."""

_HEIGHT = 3
_MARGIN = 8
_GAUGE = 30
_NAMES = ("requests", "input tokens", "output tokens")
NO_USE = "no usage in the last 60 s"


def usage_chart(usage: Usage, glyphs: Glyphs) -> list[str]:
    """Return the lines of all dimensions, or one line if there was no usage."""
    if not any(usage.used):
        return [NO_USE]
    lines = []
    for dimension, name in enumerate(_NAMES):
        used, limit = usage.used[dimension], usage.limits[dimension]
        filled, rest = bar(used / limit if limit else float(used > 0), _GAUGE, glyphs)
        # Rounded down, so that 100 % means that nothing is left.
        share = f"{used * 100 // limit} %" if limit else "-"
        lines += ["", f"{name:13}  {filled}{rest}  {share:>5}  {compact(used, 10)} of {compact(limit, 10)}"]
        lines += [f"{'':13}  {line}" for line in _room(usage, dimension)]
        lines += _columns(per_second(usage, dimension), glyphs)
    return lines


def per_second(usage: Usage, dimension: int) -> list[int]:
    """Return the usage in each of the last 60 s, the latest last.

    Older usage that still counts (a window is up to 100 ms longer) is in the first second.
    """
    seconds = [0] * SECONDS
    for bucket in usage.buckets:
        age_s = max(usage.time_ms - bucket.bucket * BUCKET_MS, 0) // 1000
        seconds[max(SECONDS - 1 - age_s, 0)] += bucket[1 + dimension]
    return seconds


def frees(buckets: Sequence[WindowBucket], time_ms: int, dimension: int, missing: int) -> tuple[int, int] | None:
    """Return how much will have left the window once at least `missing` has, and in how many ms.

    None if less than `missing` is in use.
    """
    freed = 0
    for bucket in buckets:
        freed += bucket[1 + dimension]
        if freed >= missing:
            return freed, (bucket.bucket + WINDOW_BUCKETS + 1) * BUCKET_MS - time_ms
    return None


def _room(usage: Usage, dimension: int) -> list[str]:
    """Return a line if the next request doesn't fit, else none.

    The next request is taken to need one input token and, as output, the reservation of a request without a cap.
    """
    name, limit = _NAMES[dimension], usage.limits[dimension]
    need = usage.output_reserve if dimension == 2 else 1
    of_what = f" without a cap ({compact(need, 6)})" if dimension == 2 else ""
    missing = usage.used[dimension] + need - limit
    if missing <= 0 or not need:
        return []
    free = frees(usage.buckets, usage.time_ms, dimension, missing) if need <= limit else None
    if free is None:
        return [f"never room{of_what}: the limit is {compact(limit, 10)}"]
    amount, in_ms = free
    what = name if amount != 1 else name[:-1]
    return [f"full{of_what}: frees {compact(amount, 6)} {what} in {ceil(max(in_ms, 0) / 100) / 10:.1f} s"]


def _columns(values: Sequence[int], glyphs: Glyphs) -> list[str]:
    most = max(values)
    if not most:
        return []
    first, *others = columns(values, _HEIGHT, glyphs)
    lines = [f"{compact(most, _MARGIN - 1):>{_MARGIN - 1}} {glyphs.top}{first}"]
    lines += [f"{'':{_MARGIN}}{glyphs.side}{line}" for line in others]
    half = SECONDS // 2
    axis = f"{' -60 s ':{glyphs.line}<{half}}{' -30 s ':{glyphs.line}<{half}}"
    lines.append(f"{'0':>{_MARGIN - 1}} {glyphs.corner}{axis[: SECONDS - 4]} now")
    return [line.rstrip() for line in lines]
