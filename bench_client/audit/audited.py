"""Check 6: `x-limiter-audit` names the audited limits that would have rejected a request, and no others.

An audited limit would have rejected if usage and need together are above it; the usage must lie between the bounds. A
limit may share its name with others on the path: then the name is right if it may stand for one of them, and it is
missing if one of them surely is above. A header that is full may leave out any name.
"""

from __future__ import annotations

from collections.abc import Sequence

from bench_client.audit.announced import shown_at_least
from bench_client.audit.bounds import UsageBounds, later_ms
from bench_client.audit.findings import AUDITED, Findings
from bench_client.audit.units import UNITS
from bench_client.audit.window_timeline import Decision, WindowTimeline


class AuditedLimits:
    """Check the audited limits on one window."""

    def __init__(self, timeline: WindowTimeline, findings: Findings) -> None:
        self._window, self._findings = timeline.window, findings
        self.places = [place for place, limit in enumerate(timeline.window.limits) if not limit.enforces]
        self.would_have_rejected = dict.fromkeys(self.places, 0)
        """By place: the number of decisions that name the limit."""

    def check(self, each: Decision, bounds: UsageBounds, upper: list[int] | None, lower: list[int] | None) -> None:
        """Check one decision. Bounds are None where none may be used."""
        names = each.record.audited.split(", ") if each.record.audited else ()
        for place in self.places:
            limits = each.path.limits
            name = limits[each.path.ordinals[self._window][place]].audited_as
            if not name:
                continue
            limit = self._window.limits[place]
            need, amount = each.needs[limit.unit], limit.amount
            assert amount is not None
            if name in names:
                self.would_have_rejected[place] += 1
                if need is None or upper is None:
                    continue
                own = need if each.rejection is not None else 0
                if need and upper[place] + own > amount:
                    continue
                most = bounds.upper(each.record, later_ms(each.record))[place]
                if not need or most + own <= amount:
                    alike = sum(other.audited_as == name for other in limits)
                    message = f"{name} is named, but at most {most} {UNITS[limit.unit]} were in use"
                    self._findings.add_if_all(AUDITED, each.record, self._text(each, place, need, message), name, alike)
            elif need and lower is not None and not self._is_full(each, names) and lower[place] + need > amount:
                message = f"{name} is not named, but at least {lower[place]} {UNITS[limit.unit]} were in use"
                self._findings.add(AUDITED, each.record, self._text(each, place, need, message))

    @staticmethod
    def _is_full(each: Decision, names: Sequence[str]) -> bool:
        """Return whether the header may have had no room for another name."""
        return len(names) >= shown_at_least(len(limit.audited_as) for limit in each.path.limits if limit.audited_as)

    def _text(self, each: Decision, place: int, need: int, message: str) -> str:
        about, amount = self._window.about(place), self._window.limits[place].amount
        return f"{about}at {each.time_ms} ms {message} and {need} requested, limit {amount}"
