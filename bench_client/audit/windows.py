"""Check 1: no true 60 s window of a key holds more than its limit, in any dimension.

Admitted amounts count: input as it was counted, output up to its reservation. An overrun is known only afterwards, and
must be paid off before the next admission: ``decisions`` checks that. A request that needs nothing of a dimension fits
into any window, also after its limit was lowered, so a dimension is checked where an admission adds to it.

A window is half-open: admissions at ``t`` and at ``t + 60000`` ms are never in the same one. The fullest windows end
with an admission, so only these are checked: two pointers, O(n) after sorting.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from bench_client.audit.report import Findings, WorstFill
from bench_client.audit.timeline import DIMENSIONS, WINDOW_MS, Admission


class Fullest(NamedTuple):
    """Hold how many windows were checked, and the fullest one per dimension."""

    windows: int
    worst: list[WorstFill | None]


def check_windows(
    key: str, admitted: Sequence[Admission], findings: Findings | None, window_ms: int = WINDOW_MS
) -> Fullest:
    """Check each window. ``admitted`` is in order of time; windows over the limit go to ``findings``, if given.

    Each window is held against the limit in force at its newest admission: the largest one if several admissions share
    that millisecond. A window without a known limit is not checked.
    """
    used = [0, 0, 0]
    worst: list[WorstFill | None] = [None, None, None]
    first = index = 0
    while index < len(admitted):
        time_ms = admitted[index].time_ms
        limits: tuple[int, int, int] | None = None
        newest = admitted[index].record
        added = [0, 0, 0]
        while index < len(admitted) and admitted[index].time_ms == time_ms:
            newest = admitted[index].record
            least = admitted[index].least
            for dimension in range(3):
                added[dimension] += least[dimension]
            announced = admitted[index].limits
            if announced is not None:
                limits = announced if limits is None else tuple(map(max, limits, announced))  # type: ignore[assignment]
            index += 1
        used = [amount + more for amount, more in zip(used, added, strict=True)]
        while admitted[first].time_ms <= time_ms - window_ms:
            least = admitted[first].least
            for dimension in range(3):
                used[dimension] -= least[dimension]
            first += 1
        if limits is None:
            continue
        for dimension in range(3):
            if used[dimension] > limits[dimension] and not added[dimension]:
                continue
            fill = WorstFill(used[dimension], limits[dimension], key, time_ms)
            best = worst[dimension]
            if best is None or fill.ratio > best.ratio:
                worst[dimension] = fill
            if used[dimension] > limits[dimension] and findings is not None:
                findings.add(
                    "window over the limit",
                    key,
                    newest,
                    f"{used[dimension]} {DIMENSIONS[dimension]} admitted in the {window_ms / 1000:g} s up to "
                    f"{time_ms} ms, limit {limits[dimension]}",
                )
    return Fullest(len(admitted), worst)
