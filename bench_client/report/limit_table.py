"""The table of a run's fullest limits on the paths of keys: of accounts, of teams, and of keys in them."""

from __future__ import annotations

from bench_client.audit.paths import length_text
from bench_client.report.audit_figures import AuditedLimit
from bench_client.report.gather import ReportedRun
from bench_client.report.words import NEVER_SLID, UNITS, share

HEADINGS = ("limit", "share", "rejected", "fullest window", "models", "")
MAX_ROWS = 12


def limit_rows(run: ReportedRun) -> list[list[str]]:
    """Return one row per limit, with a cell per heading; the fullest limits that rejected come first."""
    return [_cells(limit) for limit in run.limits[:MAX_ROWS]]


def left_out(run: ReportedRun) -> str:
    """Return how many limits the table leaves out, in words; empty if none."""
    others = run.limits[MAX_ROWS:]
    if not others:
        return ""
    fullest = max(others, key=lambda limit: limit.share)
    return f"{len(others):,} more, of which the fullest window held {share(fullest.used, fullest.limit)} of its limit"


def _cells(limit: AuditedLimit) -> list[str]:
    remarks = [] if limit.is_enforced else ["audited"]
    if not limit.slid:
        remarks.append(NEVER_SLID)
    rejected = f"{limit.rejected:,}" if limit.is_enforced else f"{limit.would_have_rejected:,} would be"
    return [
        f"{limit.subject}: {UNITS[limit.unit]} in any {length_text(limit.per_ms)}",
        share(limit.used, limit.limit),
        rejected,
        f"{limit.used:,} of {limit.limit:,}",
        ", ".join(limit.models) or "all",
        ", ".join(remarks),
    ]
