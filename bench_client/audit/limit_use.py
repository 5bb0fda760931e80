"""How full each limit of the tree was: the rows of ``limits`` in ``audit.json``."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from bench_client.audit.paths import length_text
from bench_client.audit.window_timeline import WindowTimeline
from bench_client.audit.windows import Fullest
from bench_client.load.declared_limits import ENFORCE, DeclaredLimit
from bench_client.results.tables import table

SHOWN = 10


class LimitUse(NamedTuple):
    """Describe a limit of the tree and its fullest window."""

    declared: DeclaredLimit
    limit: int
    """In force when the fullest window ended."""
    windows: int
    used: int
    ratio: float
    time_ms: int
    """When the fullest window's newest admission was decided, by the store's clock; 0 if nothing was admitted."""
    over: int
    rejected: int
    """Requests that it rejected; where a response may mean several limits, each of them has it."""
    would_have_rejected: int
    slid: bool
    """Whether the run's decisions span more than the window's length."""
    own: bool
    """Whether it is a single key's."""

    def as_dict(self) -> dict[str, object]:
        """Return the row for ``audit.json``."""
        declared = self.declared
        return {
            "subject": declared.subject,
            "unit": declared.unit,
            "per_ms": declared.per_ms,
            "models": list(declared.models),
            "name": declared.name,
            "mode": declared.mode,
            **{name: value for name, value in self._asdict().items() if name != "declared"},
        }


def uses_of(
    timeline: WindowTimeline, fullest: Fullest, would_have_rejected: dict[int, int], span_ms: int
) -> Iterable[LimitUse]:
    """Return the rows of one window's limits."""
    for place, limit in enumerate(timeline.window.limits):
        declared, worst = limit.declared, fullest.worst[place]
        assert declared is not None
        yield LimitUse(
            declared,
            declared.amount if worst is None else worst.limit,
            fullest.windows,
            0 if worst is None else worst.used,
            0.0 if worst is None else worst.ratio,
            0 if worst is None else worst.time_ms,
            fullest.over[place],
            sum(place in each.named for each in timeline.rejections),
            would_have_rejected.get(place, 0),
            span_ms >= declared.per_ms,
            timeline.window.is_own,
        )


def fullest_table(uses: list[LimitUse]) -> list[str]:
    """Return the lines about the fullest limits. ``uses``: fullest first.

    Of keys' own limits alike, the fullest stands for all as long as there are others to show: where every key is at its
    limit, nothing would be seen of teams and account.
    """
    rows = [
        [
            f"{each.declared.subject} {each.declared.unit}/{length_text(each.declared.per_ms)}"
            + (f" for {', '.join(each.declared.models)}" if each.declared.models else "")
            + ("" if each.declared.mode == ENFORCE else " (audited)"),
            f"{each.used:,}",
            f"of {each.limit:,}",
            f"{each.ratio:.1%}",
            _effect(each),
            "" if each.slid else "longer than the run",
        ]
        for each in _one_of_alike_first(uses)[:SHOWN]
    ]
    left = f", {SHOWN} of {len(uses):,}" if len(uses) > SHOWN else ""
    return [f"  fullest windows of accounts, teams and their keys{left}:", table(rows, indent="    ", left=(0, 4, 5))]


def _one_of_alike_first(uses: Iterable[LimitUse]) -> list[LimitUse]:
    met: set[DeclaredLimit] = set()
    first: list[LimitUse] = []
    others: list[LimitUse] = []
    for each in uses:
        alike = each.declared._replace(subject="", name="", amount=0)
        (others if each.own and alike in met else first).append(each)
        if each.own:
            met.add(alike)
    return first + others


def _effect(each: LimitUse) -> str:
    if each.declared.mode != ENFORCE:
        return f"would have rejected {each.would_have_rejected:,}"
    return f"rejected {each.rejected:,}"
