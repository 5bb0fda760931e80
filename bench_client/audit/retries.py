"""Check 5: retry-after is honest, where that can be known from outside.

Too short (sound in every unit): the admissions before the rejection that are still in the window at the promised time,
at their final usage, must leave room for the request. That holds for every limit on its path, whichever rejected it.

Too long (sound for requests and input only, because settles give output back at times nobody can see): usage of the
unit that rejected falls only as time passes, so no request with as large a need can be admitted into this window
between the rejection and the promised time. Not applied to windows with unknown outcomes or degraded decisions, to
input if requests failed (they give it back), nor if the limit has changed or records are missing.
"""

from __future__ import annotations

from bench_client.audit.bounds import UsageBounds
from bench_client.audit.findings import RETRY, Findings
from bench_client.audit.units import INPUT, REQUESTS, UNITS
from bench_client.audit.window_timeline import Decision, WindowTimeline


def check_retries(
    timeline: WindowTimeline, bounds: UsageBounds, findings: Findings, *, is_complete: bool = True
) -> None:
    """Check the retry times of all requests with this window on their path."""
    if timeline.is_degraded:
        return
    window = timeline.window
    retriable = [
        each for each in timeline.rejections if each.record.retry_after_ms is not None and not each.record.never_fits
    ]
    for each in retriable:
        _check_not_short(timeline, each, bounds, findings)
    if timeline.has_unknown or not is_complete:
        return
    for place, limit in enumerate(window.limits):
        is_certain = limit.unit == REQUESTS or (limit.unit == INPUT and not timeline.has_failed)
        if is_certain and timeline.least_limits[place] == timeline.most_limits[place]:
            by_it = [each for each in retriable if each.named == (place,) and each.is_sure]
            _check_not_long(timeline, place, by_it, findings)


def _check_not_short(timeline: WindowTimeline, each: Decision, bounds: UsageBounds, findings: Findings) -> None:
    window, record, needs = timeline.window, each.record, each.needs
    assert record.retry_after_ms is not None
    used = bounds.lower_at(each.time_ms + record.retry_after_ms - window.per_ms, each.time_ms)
    for place, limit in enumerate(window.limits):
        need, amount = needs[limit.unit], each.limits[place]
        if amount is None:
            amount = timeline.most_limits[place]
        if limit.enforces and need and amount is not None and used[place] + need > amount >= need:
            findings.add(
                RETRY,
                record,
                f"{window.about(place)}{record.retry_after_ms} ms are too short: {used[place]} {UNITS[limit.unit]} "
                f"will still be in use and {need} requested, limit {amount}",
            )


def _check_not_long(timeline: WindowTimeline, place: int, rejected: list[Decision], findings: Findings) -> None:
    """Check from the newest back, with a stack of those admissions that are larger than all between them and now."""
    admitted, unit = timeline.admitted, timeline.window.limits[place].unit
    index = len(admitted) - 1
    times_ms: list[int] = []
    needs: list[int] = []  # falling from the bottom to the top
    for each in reversed(rejected):
        while index >= 0 and admitted[index].time_ms > each.time_ms:
            need = admitted[index].least[unit]
            while needs and needs[-1] <= need:
                needs.pop()
                times_ms.pop()
            needs.append(need)
            times_ms.append(admitted[index].time_ms)
            index -= 1
        requested = each.needs[unit]
        if requested is None:
            continue
        # needs falls towards the top: the topmost with need >= requested is the next such admission in time
        nearest = _last_at_least(needs, requested)
        if nearest >= 0 and times_ms[nearest] < each.time_ms + (each.record.retry_after_ms or 0):
            findings.add(
                RETRY,
                each.record,
                f"{timeline.window.about(place)}{each.record.retry_after_ms} ms are too long: as much was admitted "
                f"after {times_ms[nearest] - each.time_ms} ms",
            )


def _last_at_least(falling: list[int], bound: int) -> int:
    """Return the index of the last element that is at least ``bound`` in a falling list; -1 if there is none."""
    low, high = 0, len(falling)
    while low < high:
        middle = (low + high) // 2
        if falling[middle] >= bound:
            low = middle + 1
        else:
            high = middle
    return low - 1
