"""The chart of ``keys show``: the last 60 s of a window, second by second, and when the window has room again.

Of a plain key its window; of a key of an account the window of a minute on its path with the tightest limit. Per limit,
one block of five or six lines of at most 80 columns: a gauge, columns, the axis. Pure: takes a `Usage`.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil

from limiter_node.chart import Glyphs, bar, columns, compact
from limiter_node.decisions import Usage, WindowBucket
from limiter_node.limits import BUCKET_MS, WINDOW_BUCKETS
from limiter_node.plans import NO_LIMIT

SECONDS = 60
"""Columns of the chart."""

_HEIGHT = 3
_MARGIN = 8
_WIDTH = 80
_GAUGE = 30
_NAMES = ("requests", "input tokens", "output tokens", "tokens")
_OUTPUT, _TOKENS = 2, 3
NO_USE = "no usage in the last 60 s"


def usage_chart(usage: Usage, glyphs: Glyphs) -> list[str]:
    """Return the lines of all limits of a window, or one line if there was no usage.

    No line for a key of an account if no window of a minute on its path has a limit that rejects.
    """
    if usage.path is None:
        return _window_chart(usage, usage.used, usage.limits, glyphs)
    if usage.charted < 0:
        return []
    window, used = usage.path.plan.windows[usage.charted], usage.path.used[usage.charted]
    models = f" for {', '.join(window.models)}" if window.models else ""
    lines = _window_chart(usage, (*used, used.input_tokens + used.output_tokens), window.enforced, glyphs)
    title = f"the last 60 s of {window.subject}{models}, the tightest minute:"
    if len(title) > _WIDTH:
        title = title[: _WIDTH - 1] + glyphs.ellipsis
    return [title, *lines]


def _window_chart(usage: Usage, amounts: Sequence[int], limits: Sequence[int], glyphs: Glyphs) -> list[str]:
    if not any(amounts):
        return [NO_USE]
    lines = []
    for dimension, (used, limit) in enumerate(zip(amounts, limits, strict=True)):
        if limit == NO_LIMIT:
            continue
        filled, rest = bar(used / limit if limit else float(used > 0), _GAUGE, glyphs)
        # Rounded down, so that 100 % means that nothing is left.
        share = f"{used * 100 // limit} %" if limit else "-"
        lines += [
            "",
            f"{_NAMES[dimension]:13}  {filled}{rest}  {share:>5}  {compact(used, 10)} of {compact(limit, 10)}",
        ]
        lines += [f"{'':13}  {line}" for line in _room(usage, dimension, used, limit)]
        lines += _columns(per_second(usage, dimension), glyphs)
    return lines


def per_second(usage: Usage, dimension: int) -> list[int]:
    """Return the usage in each of the last 60 s, the latest last.

    Older usage that still counts (a window is up to 100 ms longer) is in the first second.
    """
    seconds = [0] * SECONDS
    for bucket in usage.buckets:
        age_s = max(usage.time_ms - bucket.bucket * BUCKET_MS, 0) // 1000
        seconds[max(SECONDS - 1 - age_s, 0)] += _amount(bucket, dimension)
    return seconds


def _amount(bucket: WindowBucket, dimension: int) -> int:
    return bucket.input_tokens + bucket.output_tokens if dimension == _TOKENS else bucket[1 + dimension]


def frees(buckets: Sequence[WindowBucket], time_ms: int, dimension: int, missing: int) -> tuple[int, int] | None:
    """Return how much will have left the window once at least `missing` has, and in how many ms.

    None if less than `missing` is in use.
    """
    freed = 0
    for bucket in buckets:
        freed += _amount(bucket, dimension)
        if freed >= missing:
            return freed, (bucket.bucket + WINDOW_BUCKETS + 1) * BUCKET_MS - time_ms
    return None


def _room(usage: Usage, dimension: int, used: int, limit: int) -> list[str]:
    """Return a line if the next request doesn't fit, else none.

    The next request is taken to need one input token and, as output, the reservation of a request without a cap.
    """
    name = _NAMES[dimension]
    need = {_OUTPUT: usage.output_reserve, _TOKENS: 1 + usage.output_reserve}.get(dimension, 1)
    of_what = f" without a cap ({compact(need, 6)})" if dimension in (_OUTPUT, _TOKENS) else ""
    missing = used + need - limit
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
