"""The table of all figures: groups of rows, a column per run. Rows of what never happened are left out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from bench_client.report.audit_figures import AuditFigures
from bench_client.report.gather import ReportedRun
from bench_client.report.words import DIMENSIONS, OUTCOMES, ms, share
from bench_client.results.summary import Figures, percentiles_ms
from bench_client.results.tables import LATENCIES

REASONS = {**DIMENSIONS, "tokens": "tokens", "never_fits": "never fits", "other": "by others"}


@dataclass(frozen=True, slots=True)
class Row:
    """Hold one figure, with a cell per run."""

    name: str
    cells: list[str]
    part: bool = False
    """Whether it is a part of the row above it."""


@dataclass(frozen=True, slots=True)
class Group:
    """Hold rows that belong together."""

    name: str
    rows: list[Row]


def figure_groups(runs: Sequence[ReportedRun]) -> list[Group]:
    """Return everything that was measured."""
    groups = [
        Group("Load", _load(runs)),
        Group("Answers", _answers(runs)),
        Group("Latency, from the due time", _latencies(runs)),
        Group("Audit", _audit(runs)),
        Group("Client", _client(runs)),
    ]
    return [group for group in groups if group.rows]


def node_rows(run: ReportedRun) -> list[list[str]]:
    """Return, per node, its name, requests, admitted, rejected, errors, p50 and p99."""
    return [[node, *_of_node(figures)] for node, figures in run.records.summary.nodes.items()]


def _of_node(figures: Figures) -> list[str]:
    latency = percentiles_ms(figures.latency_us)
    counts = (figures.requests, figures.statuses[200], figures.rejected_total, figures.errors.total())
    return [*(f"{count:,}" for count in counts), ms(latency.get("p50")), ms(latency.get("p99"))]


def _load(runs: Sequence[ReportedRun]) -> list[Row]:
    summaries = [run.records.summary for run in runs]
    rows = [
        Row("offered", [f"{summary.target_qps:,.1f}/s" for summary in summaries]),
        Row("answered while load was offered", [f"{summary.achieved_qps:,.1f}/s" for summary in summaries]),
        Row("load offered for", [f"{summary.sending_s:,.4g} s" for summary in summaries]),
    ]
    return rows + _counts("warm-up requests", [summary.warmup for summary in summaries], part=False)


def _answers(runs: Sequence[ReportedRun]) -> list[Row]:
    totals = [run.records.summary.total for run in runs]
    statuses = sorted({status for total in totals for status in total.other_statuses})
    kinds = sorted({kind for total in totals for kind in total.errors})
    rows = [
        Row("requests", [f"{total.requests:,}" for total in totals]),
        Row(OUTCOMES["admitted"], [f"{total.statuses[200]:,}" for total in totals]),
        Row("rejected", [f"{total.rejected_total:,}" for total in totals]),
    ]
    for reason, name in REASONS.items():
        rows += _counts(name, [total.rejected[reason] for total in totals])
    for status in statuses:
        rows += _counts(f"status {status}", [total.other_statuses[status] for total in totals], part=False)
        rows += _counts("admitted, failed upstream", [total.upstream[status] for total in totals])
    rows.append(Row("errors", [f"{total.errors.total():,}" for total in totals]))
    for kind in kinds:
        rows += _counts(kind, [total.errors[kind] for total in totals])
    return rows + _counts("decided without the store", [total.degraded for total in totals], part=False)


def _latencies(runs: Sequence[ReportedRun]) -> list[Row]:
    every = [percentiles_ms(run.records.summary.total.latency_us) for run in runs]
    rows = [Row(name.replace("_", "."), [ms(each.get(name)) for each in every]) for name in LATENCIES]
    kinds: tuple[tuple[str, Callable[[ReportedRun], Any]], ...] = (
        ("admitted", lambda run: run.records.admitted_us),
        ("rejected", lambda run: run.records.rejected_us),
    )
    for kind, histogram_of in kinds:
        some = [percentiles_ms(histogram_of(run)) for run in runs]
        rows += [Row(f"{name}, {kind}", [ms(each.get(name)) for each in some]) for name in ("p50", "p99") if any(some)]
    return rows


def _audit(runs: Sequence[ReportedRun]) -> list[Row]:
    audits = [run.audit for run in runs]
    if all(audit.proved is None for audit in audits):
        return []

    def cells(values: Iterable[str]) -> list[str]:
        return ["–" if audit.proved is None else value for audit, value in zip(audits, values, strict=True)]

    rows = [
        Row("verdict", [audit.word for audit in audits]),
        Row("windows checked", cells(f"{audit.windows:,}" for audit in audits)),
        Row("windows over the limit", cells(f"{audit.over:,}" for audit in audits)),
        Row("rejections checked", cells(_checked(audit) for audit in audits)),
        Row("unjustified rejections", cells(f"{audit.unjustified:,}" for audit in audits)),
        Row("keys used", cells(f"{audit.keys:,}" for audit in audits)),
    ]
    for dimension, name in DIMENSIONS.items():
        fills = [dict(audit.fullest).get(dimension) for audit in audits]
        if any(fills):
            rows.append(
                Row(
                    f"fullest window, {name}", ["–" if fill is None else share(fill.used, fill.limit) for fill in fills]
                )
            )
    rows += _counts("limits of accounts, teams and their keys", [len(audit.limits) for audit in audits], part=False)
    return rows + _counts("unknown outcomes", [audit.unknown for audit in audits], part=False)


def _checked(audit: AuditFigures) -> str:
    return f"{audit.held:,}" if audit.held == audit.rejected else f"{audit.held:,} of {audit.rejected:,}"


def _client(runs: Sequence[ReportedRun]) -> list[Row]:
    late = [percentiles_ms(run.records.summary.lateness_us) for run in runs]
    rows = [Row(f"requests left late, {name}", [ms(each.get(name)) for each in late]) for name in ("p50", "p99", "max")]
    processes = [run.records.summary.client.processes for run in runs]
    if any(processes):
        rows.append(
            Row(
                "CPU of each sending process",
                [", ".join(f"{100 * each.cpu:.0f} %" for each in some) or "–" for some in processes],
            )
        )
    return rows


def _counts(name: str, counts: Sequence[int], *, part: bool = True) -> list[Row]:
    return [Row(name, [f"{count:,}" for count in counts], part)] if any(counts) else []
