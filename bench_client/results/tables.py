"""Renders results as plain text tables for a terminal."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

from bench_client.results.counts import REASONS, Counts
from bench_client.results.summary import Figures, Summary, percentiles_ms

GROUPS_SHOWN = 10
LATENCIES = ("p50", "p90", "p99", "p99_9", "max")


def table(rows: Sequence[Sequence[str]], *, indent: str = "  ", left: Collection[int] = (0,)) -> str:
    """Return a table; columns are as wide as needed, those in ``left`` are set left, the others right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = (
            cell.ljust(width) if i in left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        lines.append((indent + "  ".join(cells)).rstrip())
    return "\n".join(lines)


def summary_text(summary: Summary) -> str:
    """Return the result table of a run: all requests, then each node."""
    columns = {"all": summary.total, **summary.nodes} if len(summary.nodes) > 1 else {"all": summary.total}
    rows = [["", *columns], *figure_rows(list(columns.values()), summary.sending_s)]
    lateness = percentiles_ms(summary.lateness_us)
    lines = [
        table(rows),
        "",
        *_group_lines("account", summary.accounts),
        *_group_lines("model", summary.models),
        f"  target {summary.target_qps:,.0f} QPS, achieved {summary.achieved_qps:,.0f} QPS"
        + f" over {summary.sending_s:.1f} s"
        + (f" after a warm-up of {summary.warmup:,} requests" if summary.warmup else "")
        + (" (interrupted)" if summary.interrupted else ""),
        f"  send lateness p99 {_ms(lateness.get('p99'))}, max {_ms(lateness.get('max'))}",
    ]
    if summary.client.processes:
        shares = " ".join(f"{process.cpu:.0%}" for process in summary.client.processes)
        lines[-1] += f"; client CPU {shares}"
    if summary.client.remark:
        lines.append("  " + summary.client.remark)
    return "\n".join(lines)


def _group_lines(title: str, groups: Mapping[str, Counts]) -> list[str]:
    """Return a table with a row per account or model, those with the most requests first; nothing without groups."""
    if not groups:
        return []
    rows = [[title, "requests", "200", "429", "other"]]
    for name, counts in sorted(groups.items(), key=lambda item: -item[1].requests)[:GROUPS_SHOWN]:
        admitted, rejected = counts.statuses[200], counts.rejected_total
        rows.append(_counts(name, (counts.requests, admitted, rejected, counts.requests - admitted - rejected)))
    more = len(groups) - GROUPS_SHOWN
    return [table(rows), *([f"  {more:,} more {title}s: see summary.json"] if more > 0 else []), ""]


def figure_rows(columns: Sequence[Figures], seconds: float) -> list[list[str]]:
    """Return the rows that every table of results has, without those of things that never happened."""

    rejections = [r for r in (*REASONS, "never_fits", "other") if any(c.rejected[r] for c in columns)]
    statuses = sorted({status for c in columns for status in c.other_statuses})
    kinds = sorted({kind for c in columns for kind in c.errors})
    status_rows = []
    for status in statuses:
        upstream = [c.upstream[status] for c in columns]
        ours = [c.other_statuses[status] - c.upstream[status] for c in columns]
        status_rows += [_counts(str(status), ours)] if any(ours) else []
        status_rows += [_counts(f"{status} upstream", upstream)] if any(upstream) else []
    rows = [
        _counts("requests", (c.requests for c in columns)),
        _counts("responses/s", (c.statuses.total() / seconds if seconds else 0 for c in columns)),
        _counts("200", (c.statuses[200] for c in columns)),
        _counts("429", (c.rejected_total for c in columns)),
        *(_counts(f"  {reason.replace('_', ' ')}", [c.rejected[reason] for c in columns]) for reason in rejections),
        *status_rows,
        _counts("errors", (c.errors.total() for c in columns)),
        *(_counts(f"  {kind}", [c.errors[kind] for c in columns]) for kind in kinds),
    ]
    if any(c.degraded for c in columns):
        rows.append(_counts("degraded decisions", (c.degraded for c in columns)))
    latencies = [percentiles_ms(c.latency_us) for c in columns]
    rows += [[f"{name.replace('_', '.')} ms", *(number(each.get(name)) for each in latencies)] for name in LATENCIES]
    return rows


def _counts(title: str, values: Iterable[float]) -> list[str]:
    return [title, *(f"{value:,.0f}" for value in values)]


def number(value: float | None) -> str:
    """Return the number with two decimals; a dash if there is none."""
    return "-" if value is None else f"{value:,.2f}"


def _ms(value: float | None) -> str:
    return "-" if value is None else f"{value:,.2f} ms"
