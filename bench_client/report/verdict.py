"""The top of a page: one sentence over all runs, and per run the audit's verdict, the big figures and remarks."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from bench_client.audit.report import INCOMPLETE, PROVED, REFUTED
from bench_client.report.gather import ReportedRun
from bench_client.report.words import joined, ms, percentile

LAST_FIGURE = "windows over the limit"


def title(runs: Sequence[ReportedRun]) -> str:
    """Return the title of the page."""
    return f"Rate limiter under load: {joined(run.label for run in runs)}"


def sentence(runs: Sequence[ReportedRun]) -> str:
    """Return the whole page in one sentence: exactness, rate and latency."""
    speed = f"{_each(runs, lambda run: f'{run.records.summary.target_qps:,.0f}')} requests/s"
    speed += f", 99 of 100 answers within {_each(runs, lambda run: ms(percentile(run, 'p99')))}"
    if refuted := [run for run in runs if run.audit.word == REFUTED]:
        return f"The audit refutes {joined(run.label for run in refuted)}: {_found(refuted)}, at {speed}."
    if incomplete := [run for run in runs if run.audit.word == INCOMPLETE]:
        return f"The audit of {joined(run.label for run in incomplete)} is incomplete and proves nothing, at {speed}."
    audited = [run for run in runs if run.audit.proved]
    if not audited:
        return f"No limiter signed its decisions, so there was nothing to audit, at {speed}."
    windows, held = (sum(getattr(run.audit, name) for run in audited) for name in ("windows", "held"))
    kind = "windows" if any(run.audit.limits for run in audited) else "60 s windows"
    exact = f"None of {windows:,} true {kind} was above its limit"
    if held:
        exact += f" and each of {held:,} rejections was justified"
    if len(audited) < len(runs):
        exact += f" ({joined(run.label for run in audited)}; the others signed no decisions)"
    return f"{exact}, at {speed}."


def big_figures(run: ReportedRun) -> list[tuple[str, str, str]]:
    """Return the big figures: name, value and a remark, which may be empty."""
    total, audit = run.records.summary.total, run.audit
    admitted, rejected, errors = total.statuses[200], total.rejected_total, total.errors.total()
    p50, p99 = (ms(percentile(run, name)) for name in ("p50", "p99"))
    return [
        ("requests", f"{total.requests:,}", f"{run.records.summary.target_qps:,.0f}/s for {run.seconds:,.4g} s"),
        ("admitted", f"{admitted:,}", _part(admitted, total.requests)),
        ("rejected", f"{rejected:,}", _part(rejected, total.requests)),
        ("errors", f"{errors:,}", _part(errors, total.requests)),
        ("p50", p50, "latency"),
        ("p99", p99, "latency"),
        (
            LAST_FIGURE,
            "–" if audit.proved is None else f"{audit.over:,}",
            "not audited" if audit.proved is None else f"of {audit.windows:,}",
        ),
    ]


def verdict_line(run: ReportedRun) -> str:
    """Return the audit's own line, without the words that the badge says."""
    for beginning in (f"audit: {word} " for word in (PROVED, REFUTED, INCOMPLETE)):
        if run.audit.verdict.startswith(beginning):
            return run.audit.verdict.removeprefix(beginning)
    return run.audit.verdict


def remarks(run: ReportedRun) -> list[str]:
    """Return the remarks that a reader of this run's figures needs."""
    info, summary, said = run.source.info, run.records.summary, []
    if not info.finished:
        said.append(
            "The run was cut off: some sent requests are missing from its records, and the last seconds are incomplete."
        )
    elif not run.records.complete:
        said.append("Records are missing or doubled. The figures cover the records that are there.")
    if summary.interrupted:
        said.append(f"The run was interrupted after {run.seconds:,.4g} s of {info.planned_s - info.warmup_s:,.4g} s.")
    if summary.client.remark:
        remark = summary.client.remark
        said.append(remark[:1].upper() + remark[1:] + ".")
    if run.audit.unknown:
        said.append(f"The outcome of {run.audit.unknown:,} requests is unknown: they may have been admitted.")
    if run.audit.never_slid:
        said.append(run.audit.never_slid[:1].upper() + run.audit.never_slid[1:] + ".")
    requests, inputs, outputs = run.audit.overruns
    if requests:
        said.append(
            f"For {requests:,} requests the service reported more than was admitted: {inputs:,} input and {outputs:,} "
            "output tokens, charged afterwards and in none of the windows below."
        )
    if failed := summary.total.upstream.total():
        said.append(f"{failed:,} requests were admitted and failed at the service behind the limiter.")
    if summary.total.degraded:
        said.append(
            f"{summary.total.degraded:,} decisions were made without the store, by its failure policy. The windows "
            "below show only the store's decisions."
        )
    if summary.warmup:
        said.append(
            f"A warm-up of {summary.warmup:,} requests came before: audited, but left out of all other figures."
        )
    return said


def _each(runs: Sequence[ReportedRun], value: Callable[[ReportedRun], str]) -> str:
    values = [value(run) for run in runs]
    if len(set(values)) == 1:
        return values[0]
    return joined(f"{each} ({run.label})" for each, run in zip(values, runs, strict=True))


def _found(runs: Sequence[ReportedRun]) -> str:
    return joined(f"{count:,} × {kind}" for run in runs for kind, count in run.audit.findings)


def _part(count: int, of: int) -> str:
    if not count:
        return "none"
    return f"{100 * count / of:.1f} %" if count / of >= 0.001 else "less than 0.1 %"
