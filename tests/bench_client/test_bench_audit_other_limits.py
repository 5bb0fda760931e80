"""Keys with other limits than their own three a minute: the audit says that it didn't judge them."""

from __future__ import annotations

from pathlib import Path

import pytest
from bench_fakes import Ledger, run_info
from click.testing import CliRunner

from bench_client.audit.judge import audit_directory, audit_records
from bench_client.audit.report import AuditReport
from bench_client.cli import cli
from bench_client.records.record import Record
from bench_client.records.record_file import REQUESTS_NAME, write_records
from bench_client.records.run_directory import write_info

OTHER_KEY = "ba9876543210"


def records_of(requests: int, *, has_other_limits: bool = True, key: str = OTHER_KEY) -> list[Record]:
    """A key's requests; if it has other limits, no response has the usual three."""
    ledger = Ledger(key=key)
    for at_ms in range(0, 100 * requests, 100):
        ledger.admit(at_ms, inputs=1, output=1, cap=1)
    if not has_other_limits:
        return ledger.records
    absent = dict.fromkeys(each for each in Record._fields if each.startswith(("limit_", "remaining_")))
    return [record._replace(**absent, has_other_limits=True) for record in ledger.records]


def audit(records: list[Record]) -> AuditReport:
    return audit_records(records, run_info())


def test_a_run_of_such_keys_alone_is_neither_proved_nor_refuted() -> None:
    report = audit(records_of(30))
    assert (report.word, report.proved, dict(report.findings.counts)) == ("INCOMPLETE", False, {})
    assert report.verdict == (
        "audit: INCOMPLETE not judged: 30 requests of 1 key with other limits than requests, input and output tokens "
        "per minute"
    )
    assert "  not judged: 30 requests of 1 key with" in report.text()
    assert (report.keys, report.admitted) == (0, 0)


def test_other_keys_are_judged_all_the_same() -> None:
    usual = records_of(5, has_other_limits=False, key="0123456789ab")
    report = audit(usual + records_of(30))
    assert (report.word, report.keys, report.admitted) == ("INCOMPLETE", 1, 5)
    told = report.as_dict()
    assert (told["keys_not_judged"], told["requests_not_judged"], told["complete"]) == (1, 30, True)
    over = records_of(11, has_other_limits=False, key="0123456789ab")
    report = audit(over + records_of(30))
    assert report.word == "REFUTED"
    assert report.findings.counts["window over the limit"] == 1
    assert "not judged: 30 requests" in report.text()
    assert audit(usual).proved


def test_one_response_that_names_other_limits_is_enough() -> None:
    """The key's limits may have changed during the run; the tightest limit may be a shared one at times."""
    records = records_of(11, has_other_limits=False)
    assert audit(records).word == "REFUTED"
    records[3] = records[3]._replace(has_other_limits=True)
    report = audit(records)
    assert (report.word, report.requests_not_judged) == ("INCOMPLETE", 11)


@pytest.mark.parametrize("has_other_limits", [None, False])
def test_missing_limits_of_a_usual_key_stay_a_finding(has_other_limits: bool | None) -> None:
    """None: in records of earlier versions."""
    records = [each._replace(has_other_limits=has_other_limits) for each in records_of(3)]
    records += records_of(1, has_other_limits=False, key="0123456789ab")
    report = audit(records)
    assert dict(report.findings.counts) == {"success without a decision": 3}
    assert report.keys_not_judged == 0


def test_it_is_saved_and_can_be_read_again(tmp_path: Path) -> None:
    write_info(tmp_path, run_info())
    write_records(tmp_path / REQUESTS_NAME, records_of(10))
    assert audit_directory(tmp_path).verdict.startswith("audit: INCOMPLETE ")
    assert '"keys_not_judged": 1' in (tmp_path / "audit.json").read_text("utf-8")


def test_a_report_of_such_a_run_shows_what_was_recorded(tmp_path: Path) -> None:
    """Once without the usual three limits, once with three that may be of shared windows."""
    for name, absent in (("absent", True), ("shared", False)):
        records = [
            each._replace(has_other_limits=True) for each in records_of(10, has_other_limits=absent, key="0123456789ab")
        ]
        rejected = Ledger(key="0123456789ab").reject(2_000, 0, exceeded="tokens", has_other_limits=True)
        (tmp_path / name).mkdir()
        write_info(tmp_path / name, run_info())
        write_records(tmp_path / name / REQUESTS_NAME, [*records, rejected._replace(request=10)])
        written = CliRunner().invoke(cli, ["report", str(tmp_path / name), "--html", str(tmp_path / f"{name}.html")])
        assert written.exit_code == 0, written.output
        page = (tmp_path / f"{name}.html").read_text("utf-8")
        assert "not judged: 11 requests of 1 key" in page
        assert "rejected: tokens" in page
