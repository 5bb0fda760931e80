"""Check 1: no true window holds more than its limit, in any unit.

Admitted amounts count: input as it was counted, output up to its reservation. An overrun is known only afterwards, and
must be paid off before the next admission: ``decisions`` checks that. A request that needs nothing of a unit fits into
any window, also after its limit was lowered, so a limit is checked where an admission adds to it. A limit that is only
audited holds nothing back, so no window is over it.

A window is half-open: admissions at ``t`` and at ``t`` plus its length are never in the same one. The fullest windows
end with an admission, so only these are checked: two pointers, O(n) after sorting.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from bench_client.audit.findings import WINDOW, Findings
from bench_client.audit.outcomes import Admission
from bench_client.audit.paths import Window
from bench_client.audit.units import UNITS
from bench_client.audit.window_timeline import Figures


class Fill(NamedTuple):
    """Describe a window in one unit."""

    used: int
    limit: int
    time_ms: int
    """When the window's newest admission was decided, by the store's clock."""

    @property
    def ratio(self) -> float:
        return share_used(self.used, self.limit)


class Fullest(NamedTuple):
    """Hold how many windows were checked, and by place the fullest one and the number of those over the limit."""

    windows: int
    worst: list[Fill | None]
    over: list[int]


def share_used(used: int, limit: int) -> float:
    """Return the used share of a limit. Any use of a limit of 0 is a share of 1."""
    return used / limit if limit else float(used > 0)


def check_windows(
    window: Window, admitted: Sequence[Admission], limits: Sequence[Figures], findings: Findings | None
) -> Fullest:
    """Check each window. ``admitted`` is in order of time; windows over the limit go to ``findings``, if given.

    ``limits``: those in force at each admission, by place. Each window is held against the limit in force at its newest
    admission: the largest one if several admissions share that millisecond. A window without a known limit is not
    checked.
    """
    units = [limit.unit for limit in window.limits]
    places = range(len(units))
    used = [0] * len(units)
    worst: list[Fill | None] = [None] * len(units)
    worst_ratio = [-1.0] * len(units)
    over = [0] * len(units)
    first = index = 0
    while index < len(admitted):
        time_ms = admitted[index].time_ms
        newest, least, allowed = admitted[index].record, admitted[index].least, limits[index]
        added = [least[unit] for unit in units]
        index += 1
        while index < len(admitted) and admitted[index].time_ms == time_ms:
            newest, least = admitted[index].record, admitted[index].least
            added = [amount + least[unit] for amount, unit in zip(added, units, strict=True)]
            allowed = tuple(map(_larger, allowed, limits[index]))
            index += 1
        used = [amount + more for amount, more in zip(used, added, strict=True)]
        while admitted[first].time_ms <= time_ms - window.per_ms:
            least = admitted[first].least
            used = [amount - least[unit] for amount, unit in zip(used, units, strict=True)]
            first += 1
        for place in places:
            limit, amount = allowed[place], used[place]
            if limit is None or (amount > limit and not added[place]):
                continue
            ratio = amount / limit if limit else float(amount > 0)
            if ratio > worst_ratio[place]:
                worst[place], worst_ratio[place] = Fill(amount, limit, time_ms), ratio
            if amount > limit and window.limits[place].enforces:
                over[place] += 1
                if findings is not None:
                    message = f"{amount} {UNITS[units[place]]} admitted in the {window.per_ms / 1000:g} s up to "
                    message += f"{time_ms} ms, limit {limit}"
                    findings.add(WINDOW, newest, window.about(place) + message)
    return Fullest(len(admitted), worst, over)


def _larger(one: int | None, other: int | None) -> int | None:
    if one is None or other is None:
        return one if other is None else other
    return one if one > other else other
