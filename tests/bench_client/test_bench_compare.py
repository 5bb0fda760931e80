"""What a comparison says below its table."""

from __future__ import annotations

import pytest
from bench_fakes import Ledger, run_info

from bench_client.audit.completeness import Completeness
from bench_client.audit.judge import audit_records
from bench_client.commands.compare import StoreResult, comparison_text
from bench_client.commands.run import RunResult
from bench_client.results.summary import summarize


def measured(store: str, last_ms: int, missing: tuple[str, ...] = ()) -> StoreResult:
    ledger = Ledger()
    for at_ms in (0, last_ms):
        ledger.admit(at_ms)
    info = run_info()
    audit = audit_records(ledger.records, info, complete=Completeness(missing))
    return StoreResult(store, RunResult(info, summarize(ledger.records, info)), audit)


@pytest.mark.parametrize(("seconds", "notes"), [(30, 1), (70, 0)])
def test_runs_below_a_window_are_told_once(seconds: int, notes: int) -> None:
    text = comparison_text([measured("cluster", seconds * 1000), measured("single", seconds * 1000)])
    assert text.count("note: no 60 s window has slid: the decisions span 30.0 s") == notes
    assert text.count("audit: PROVED") == 2


def test_a_store_whose_records_are_not_complete_is_neither_proved_nor_refuted() -> None:
    text = comparison_text([measured("cluster", 70_000), measured("single", 70_000, ("some are missing",))])
    (row,) = (line.split() for line in text.splitlines() if line.strip().startswith("audit "))
    assert row == ["audit", "proved", "incomplete"]
    assert text.splitlines()[-1] == "single: audit: INCOMPLETE some are missing"
