"""The account of a comparison, and what is said below its table."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from bench_fakes import Ledger, run_info

from bench_client import cli
from bench_client.audit.completeness import Completeness
from bench_client.audit.judge import audit_records
from bench_client.commands.compare import CompareSettings, StoreResult, comparison, comparison_text
from bench_client.commands.compared_account import account_for_load
from bench_client.commands.run import RunResult
from bench_client.errors import BenchError
from bench_client.results.summary import summarize


def measured(store: str, last_ms: int, missing: tuple[str, ...] = ()) -> StoreResult:
    ledger = Ledger()
    for at_ms in (0, last_ms):
        ledger.admit(at_ms)
    info = run_info()
    audit = audit_records(ledger.records, info, complete=Completeness(missing))
    return StoreResult(store, RunResult(info, summarize(ledger.records, info)), audit)


def settings(tmp_path: Path, *options: str) -> CompareSettings:
    """What the command line makes of these options."""
    found: list[CompareSettings] = []

    def compare(settings: CompareSettings, say: object) -> list[StoreResult]:
        found.append(settings)
        raise BenchError("that is enough")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("bench_client.cli.compare", compare)
        cli._run_cli(["compare", "--out", str(tmp_path), *options])
    return found[0]


@pytest.mark.parametrize(
    ("options", "keys"),
    [
        ((), 50),
        (("--keys-count", "19"), 1),
        (("--keys-count", "9"), 0),
        (("--account-keys", "0"), 0),
        (("--keys-count", "9", "--account-keys", "9"), 9),
    ],
)
def test_a_tenth_of_the_keys_are_in_the_account_unless_something_else_is_said(
    tmp_path: Path, options: tuple[str, ...], keys: int
) -> None:
    made = settings(tmp_path, "--qps", "5", *options)
    assert made.keys_in_account == keys
    assert comparison(made, [])["account_keys"] == keys


def test_more_keys_in_the_account_than_keys_are_wrong(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert (
        cli._run_cli(["compare", "--qps", "5", "--keys-count", "3", "--account-keys", "4", "--out", str(tmp_path)]) == 2
    )
    assert capsys.readouterr().err == "error: --account-keys is above --keys-count; lower it\n"


def test_the_limits_of_the_account_follow_from_its_load(tmp_path: Path) -> None:
    def limits(*options: str, rpm: int = 600) -> tuple[list[int], list[int]]:
        workload = settings(tmp_path, *options).workload
        account = account_for_load(workload, 10, of=100, rpm=rpm, tokens_per_minute=40)
        assert (account.keys, account.teams) == (10, ("research", "sales"))
        return tuple([int(re.findall(r"=(\d+)/", text)[0]) for text in texts] for texts in account[3:])  # type: ignore[return-value]

    minute, hour, burst, team = 5_400, 400, 1_000, 515 + 20  # of 1,000 a second: 500 in each team, 22.4 their deviation
    assert limits("--qps", "10000", "--duration", "6") == ([minute, hour, burst], [team - 1])
    assert limits("--qps", "10000", "--duration", "600", rpm=100)[0][0] == 900, "what its keys may use"
    assert limits("--qps", "0.1", "--duration", "1") == ([1, hour, 1], [1])
    trace = tmp_path / "trace.csv"
    rows = [f"2024-05-10 00:00:{second:02}.0000000,5,5" for second in range(41)]
    trace.write_text("\n".join(["TIMESTAMP,ContextTokens,GeneratedTokens", *rows]))
    assert limits("--trace", str(trace), "--speed", "4")[0] == [4, hour, 1], "41 requests in 10 s"


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
