"""The contents of a run's ``servers.json`` and ``audit.json`` as the page shows them: batches, CPU, verdict."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import orjson

from bench_client.audit import audit_directory
from bench_client.audit.judge import AUDIT_NAME
from bench_client.audit.report import INCOMPLETE, PROVED, REFUTED, WorstFill
from bench_client.audit.timeline import DIMENSIONS
from bench_client.errors import BenchError
from bench_client.servers.servers_file import ProcessUse, Servers

SHOWN_PROCESSES = 12
KINDS = ("node", "store", "client")
OVERRUNS = ("requests", "input_tokens", "output_tokens")
NOT_AUDITED = "NOT AUDITED"


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
    """By dimension."""

    @property
    def word(self) -> str:
        if self.proved is None:
            return NOT_AUDITED
        if self.proved:
            return PROVED
        return REFUTED if self.findings else INCOMPLETE


@dataclass(frozen=True, slots=True)
class Batches:
    """Hold how many operations the script calls of a run carried."""

    labels: list[str]
    calls: list[int]

    @property
    def shares(self) -> list[float]:
        """Return each bucket's share of all calls; they add up to 1."""
        return [count / sum(self.calls) for count in self.calls]


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


def batches_of(servers: Servers | None) -> Batches | None:
    """Return the calls from each target's first sample to its last; None if they aren't known.

    A node that was started again in between has counted from 0 again.
    """
    if servers is None:
        return None
    bounds = servers.batch_bounds
    calls = [0] * (len(bounds) + 1)
    for target in servers.targets:
        for before, after in pairwise(target.samples):
            restarted = sum(after.batch_operations) < sum(before.batch_operations)
            earlier: Sequence[int] = [0] * len(calls) if restarted else before.batch_operations
            for place, (now, then) in enumerate(zip(after.batch_operations, earlier, strict=False)):
                if place < len(calls):
                    calls[place] += max(now - then, 0)
    return Batches(_bucket_labels(bounds), calls) if any(calls) else None


def processes_of(servers: Servers | None) -> list[ProcessUse]:
    """Return nodes, stores and the client; if there are many, the busiest ones, and the others of each kind as one."""
    if servers is None:
        return []
    ordered = sorted(servers.processes, key=lambda each: KINDS.index(each.kind) if each.kind in KINDS else len(KINDS))
    if len(ordered) <= SHOWN_PROCESSES:
        return ordered
    busiest = sorted(ordered, key=lambda each: -each.cores)[: SHOWN_PROCESSES - len(KINDS) - 1]
    shown = []
    for kind in dict.fromkeys(each.kind for each in ordered):
        shown += [each for each in ordered if each.kind == kind and each in busiest]
        others = [each for each in ordered if each.kind == kind and each not in busiest]
        if len(others) == 1:
            shown += others
        elif others:
            total = replace(others[0], name=f"{len(others)} more", cores=sum(each.cores for each in others))
            shown.append(replace(total, cpu_s=sum(each.cpu_s for each in others)))
    return shown


def _bucket_labels(bounds: Sequence[int]) -> list[str]:
    labels, above = [], 0
    for bound in bounds:
        labels.append(f"{bound}" if bound == above + 1 else f"{above + 1}–{bound}")
        above = bound
    return [*labels, f">{above}"]


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
    return figures
