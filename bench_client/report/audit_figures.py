"""The contents of a run's ``audit.json`` as the page shows them: the verdict, and how full limits were.

The file may be of an earlier version, or damaged: then the run is audited again.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from bench_client.audit import audit_directory
from bench_client.audit.judge import AUDIT_NAME
from bench_client.audit.report import INCOMPLETE, PROVED, REFUTED, WorstFill
from bench_client.audit.units import DIMENSIONS
from bench_client.audit.windows import share_used
from bench_client.errors import BenchError
from bench_client.load.declared_limits import AUDIT, UNITS

OVERRUNS = ("requests", "input_tokens", "output_tokens")
NOT_AUDITED = "NOT AUDITED"


class AuditedLimit(NamedTuple):
    """Describe what the audit found of one limit on the paths of keys with other limits than three per minute."""

    subject: str
    unit: str
    per_ms: int
    models: tuple[str, ...]
    """Patterns; empty for all models."""
    name: str
    mode: str
    limit: int
    """In force in the fullest window, which held ``used``."""
    used: int
    windows: int
    """Number of windows checked."""
    rejected: int
    would_have_rejected: int
    """Requests that this limit would have rejected, if it is only audited."""
    slid: bool
    """Whether the run was longer than the window, so that time freed something."""

    @property
    def is_enforced(self) -> bool:
        return self.mode != AUDIT

    @property
    def rejected_or_would_have(self) -> int:
        """Return the requests that it rejected, or if it is only audited, would have rejected."""
        return self.rejected if self.is_enforced else self.would_have_rejected

    @property
    def share(self) -> float:
        return share_used(self.used, self.limit)


@dataclass(frozen=True, slots=True)
class AuditFigures:
    """Hold an audit's result, or why there is none."""

    proved: bool | None
    """None: there is nothing to audit in this run."""
    verdict: str
    """The audit's own line, or the reason why there is none."""
    windows: int = 0
    over: int = 0
    """Windows over their limit."""
    unjustified: int = 0
    rejected: int = 0
    held: int = 0
    keys: int = 0
    unknown: int = 0
    """Requests whose outcome nobody knows."""
    never_slid: str = ""
    """Note on the limits of a run shorter than a window; "" for longer runs."""
    overruns: tuple[int, int, int] = (0, 0, 0)
    """Requests for which the service reported more than was admitted, and the input and output tokens beyond."""
    findings: tuple[tuple[str, int], ...] = ()
    fullest: tuple[tuple[str, WorstFill], ...] = ()
    """Of plain keys, by dimension."""
    limits: tuple[AuditedLimit, ...] = ()
    """On the paths of all other keys."""

    @property
    def word(self) -> str:
        if self.proved is None:
            return NOT_AUDITED
        if self.proved:
            return PROVED
        return REFUTED if self.findings else INCOMPLETE


def audit_of(directory: Path, *, complete: bool = True) -> AuditFigures:
    """Return the run's audit; make it if it is missing, damaged, or proved records that are not ``complete``."""
    try:
        figures = _audit_figures(orjson.loads((directory / AUDIT_NAME).read_bytes()))
        if complete or not figures.proved:
            return figures
    except (OSError, ValueError, TypeError, LookupError, AttributeError):
        pass
    try:
        return _audit_figures(audit_directory(directory).as_dict())
    except BenchError as error:
        return AuditFigures(None, str(error))


def _audit_figures(document: Any) -> AuditFigures:
    """Return the document's figures. Raises ValueError, TypeError or LookupError if it isn't that of an audit."""
    worst, findings = document["worst_fill"], document["findings"]
    figures = AuditFigures(
        proved=document["proved"],
        verdict=document["verdict"],
        windows=document["windows"],
        over=document["violations"],
        unjustified=document["unjustified"],
        rejected=document["rejected"],
        held=document["rejections_held"],
        keys=document["keys"],
        unknown=document["unknown_outcomes"],
        never_slid=document.get("never_slid") or "",
        overruns=tuple(document.get("overruns", {}).get(name, 0) for name in OVERRUNS),
        findings=tuple((str(kind), count) for kind, count in findings.items()),
        fullest=tuple(
            (d, WorstFill(*(worst[d][name] for name in WorstFill._fields))) for d in DIMENSIONS if d in worst
        ),
    )
    counts = [
        getattr(figures, name) for name in ("windows", "over", "unjustified", "rejected", "held", "keys", "unknown")
    ]
    counts += [*figures.overruns, *(count for _, count in figures.findings)]
    counts += [count for _, fill in figures.fullest for count in (fill.used, fill.limit, fill.time_ms)]
    texts = [figures.verdict, figures.never_slid, *(fill.key for _, fill in figures.fullest)]
    if any(type(count) is not int for count in counts) or not all(isinstance(text, str) for text in texts):
        raise TypeError
    if type(figures.proved) is not bool:
        raise TypeError
    return replace(figures, limits=tuple(audited_limit(each) for each in document.get("limits", ())))


def audited_limit(element: Any) -> AuditedLimit:
    """Return one element of the document's ``limits``. Raises as ``_audit_figures``."""
    found = AuditedLimit(**{name: element[name] for name in AuditedLimit._fields})
    found = found._replace(models=tuple(found.models))
    counts = (found.per_ms, found.limit, found.used, found.windows, found.rejected, found.would_have_rejected)
    texts = (found.subject, found.unit, found.name, found.mode, *found.models)
    if any(type(count) is not int for count in counts) or not all(isinstance(text, str) for text in texts):
        raise TypeError(element)
    if found.unit not in UNITS or found.per_ms <= 0 or type(found.slid) is not bool:
        raise ValueError(element)
    return found
