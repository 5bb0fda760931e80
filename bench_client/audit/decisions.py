"""Checks 2 and 3, on every decision about a window: rejections were justified, and the announced counters are possible.

A rejection is justified when the upper bound of the limit that it names plus its need exceeds the limit, so it is at
most one bucket too late. Where a response may mean several limits, one of them has to justify it. The counters (limit -
remaining) must lie between the bounds: a counter above the upper one holds usage that is not of this run (rejected
requests, whichever limit of their path rejected them; lost settles, failed requests' tokens, other clients); a counter
below the lower one has lost usage, which leads to over-admission. No request may be admitted before an earlier overrun
has been paid off: the lower bound plus the request's need must fit in the limit. A need of 0 always fits.
"""

from __future__ import annotations

from bench_client.audit.audited import AuditedLimits
from bench_client.audit.bounds import UsageBounds, later_ms
from bench_client.audit.findings import NOT_PAID_OFF, TOO_LITTLE, TOO_MUCH, UNJUSTIFIED, Findings
from bench_client.audit.units import UNITS
from bench_client.audit.window_timeline import Decision, WindowTimeline
from bench_client.records.record import Record


def check_decisions(
    timeline: WindowTimeline, bounds: UsageBounds, findings: Findings, held_until_us: int
) -> dict[int, int]:
    """Check all decisions about a window; return by place how often an audited limit would have rejected.

    Decisions after ``held_until_us`` are not held against the upper bounds: in a run that was cut off, requests that
    may have been admitted before them are missing.
    """
    check = _Decisions(timeline, bounds, findings)
    audited = AuditedLimits(timeline, findings)
    for each in sorted(timeline.decisions, key=_sent):
        lower = upper = None
        if not timeline.is_degraded:
            lower = check.not_forgotten(each)
            if timeline.has_overruns and each.rejection is None:
                check.paid_off(each)
        is_held = each.record.done_us <= held_until_us
        if is_held:
            upper = check.not_invented(each)
            if each.named:
                check.justified(each, upper or bounds.upper(each.record))
        if audited.places:
            if is_held:
                upper = upper or bounds.upper(each.record)
            if not timeline.is_degraded:
                lower = lower or bounds.lower(each.record)
            audited.check(each, bounds, upper, lower)
    return audited.would_have_rejected


class _Decisions:
    """Check single decisions about one window."""

    def __init__(self, timeline: WindowTimeline, bounds: UsageBounds, findings: Findings) -> None:
        self._window, self._bounds, self._findings = timeline.window, bounds, findings
        self._places = [(place, limit.unit) for place, limit in enumerate(timeline.window.limits)]
        self._timeline = timeline

    def not_forgotten(self, each: Decision) -> list[int] | None:
        """Check that the counters have all that surely counts; return the lower bounds if they were needed."""
        remaining = each.remaining_least
        lower = None
        for place, unit in self._places:
            left, limit = remaining[place], each.limits[place]
            if left is None or limit is None or left <= 0:
                continue  # any usage beyond the limit is announced as "none left"
            if lower is None:
                lower = self._bounds.lower(each.record)
            used, least = limit - left, lower[place] + each.counted[unit]
            if used < least:
                self._add(
                    TOO_LITTLE,
                    each.record,
                    place,
                    f"at {each.time_ms} ms the response says {used} {UNITS[unit]} in use, at least {least} were",
                )
        return lower

    def not_invented(self, each: Decision) -> list[int] | None:
        """Check that the counters have nothing that can't count; return the upper bounds if they were needed."""
        upper = None
        for place, _ in self._places:
            left, limit = each.remaining[place], each.limits[place]
            if left is None or limit is None:
                continue
            if upper is None:
                upper = self._bounds.upper(each.record)
            if limit - left > upper[place]:
                self._check_told_later(each)
                break
        return upper

    def _check_told_later(self, each: Decision) -> None:
        # A decision whose reply was lost is repeated later, with the counters of some moment before the response came.
        record = each.record
        assert record.sent_us is not None
        upper = self._bounds.upper(record, later_ms(record))
        for place, unit in self._places:
            left, limit = each.remaining[place], each.limits[place]
            if left is not None and limit is not None and limit - left > upper[place]:
                self._add(
                    TOO_MUCH,
                    record,
                    place,
                    f"at {each.time_ms} ms the response says {limit - left} {UNITS[unit]} in use, at most "
                    f"{upper[place]} can have been",
                )

    def justified(self, each: Decision, upper: list[int]) -> None:
        """Check a rejection by a limit on this window."""
        assert each.rejection is not None
        for place in each.named:
            unit = self._window.limits[place].unit
            limit, requested = self._limit(each, place, self._timeline.least_limits), each.rejection.needs[unit]
            if limit is None or requested is None:
                continue  # ``responses`` reports it
            if each.record.never_fits:
                if requested > limit:
                    continue
                message = f"the message says {requested} {UNITS[unit]} never fit {limit}"
            elif upper[place] + requested > limit:
                continue
            else:
                message = (
                    f"at {each.time_ms} ms at most {upper[place]} {UNITS[unit]} were in use and {requested} "
                    f"requested, limit {limit}"
                )
            message = self._window.about(place) + message
            name = each.record.limit or ""
            self._findings.add_if_all(UNJUSTIFIED, each.record, message, name, len(each.rejection.named))

    def paid_off(self, each: Decision) -> None:
        """Check that an admission didn't come before an overrun was paid off."""
        overruns = self._bounds.overrun(each.record)
        if not any(overruns.values()):
            return
        lower, needs = self._bounds.lower(each.record), each.needs
        for place, overrun in overruns.items():
            window_limit = self._window.limits[place]
            limit = self._limit(each, place, self._timeline.most_limits)
            need = needs[window_limit.unit]
            if not (overrun and need and window_limit.enforces and limit is not None):
                continue
            if lower[place] + need > limit:
                self._add(
                    NOT_PAID_OFF,
                    each.record,
                    place,
                    f"at {each.time_ms} ms at least {lower[place]} {UNITS[window_limit.unit]} were in use, {overrun} "
                    f"of them reported by the service beyond its admission, and {need} requested, limit {limit}",
                )

    def _limit(self, each: Decision, place: int, otherwise: list[int | None]) -> int | None:
        announced = each.limits[place]
        return announced if announced is not None else otherwise[place]

    def _add(self, kind: str, record: Record, place: int, message: str) -> None:
        self._findings.add(kind, record, self._window.about(place) + message)


def _sent(each: Decision) -> int:
    return each.record.sent_us or 0
