"""Only records of all requests, each once, prove anything: what the audit says of a run's files when some are not."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from bench_fakes import Ledger, run_info

from bench_client import cli
from bench_client.audit.completeness import read_once
from bench_client.records.record import Record
from bench_client.records.record_file import REQUESTS_NAME, RecordReader, write_records
from bench_client.records.run_directory import write_info

Lines = list[bytes]
REQUESTS = 10


@pytest.fixture
def directory(tmp_path: Path, ledger: Ledger) -> Path:
    """A run that is proved: nine admissions and a rejection."""
    ledger.limits = (9, 1000, 1000)
    for at_ms in range(0, 900, 100):
        ledger.admit(at_ms)
    ledger.reject(1000, 0)
    return write_run(tmp_path / "run", ledger.records)


def write_run(directory: Path, records: list[Record], **changes: object) -> Path:
    directory.mkdir()
    write_info(directory, run_info(**{"planned": REQUESTS, "dispatched": REQUESTS, **changes}))
    write_records(directory / REQUESTS_NAME, records)
    return directory


def audit(directory: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """The exit code, and the last line."""
    code = cli._run_cli(["audit", str(directory)])
    return code, capsys.readouterr().out.splitlines()[-1]


def test_a_whole_run_is_proved(directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, verdict = audit(directory, capsys)
    assert (code, verdict[:13]) == (0, "audit: PROVED")
    document = json.loads((directory / "audit.json").read_bytes())
    assert document["complete"] is True
    assert document["missing"] == []


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda lines: [*lines[:-1], lines[-1][:-10]], "cut off in line 12"),
        (lambda lines: [*lines[:-2], lines[-2][:30]], "cut off in line 11"),
        (lambda lines: lines[:5], "has no end after line 5"),
        (lambda lines: [*lines[:3], *lines[4:]], "has 9 records, but its end says 10"),
        (lambda lines: [*lines[:3], *lines[2:]], "1 records are duplicates of others"),
        (lambda lines: [*lines, *lines], "goes on after its end"),
    ],
)
def test_records_that_are_missing_or_doubled_prove_nothing(
    directory: Path, capsys: pytest.CaptureFixture[str], change: Callable[[Lines], Lines], says: str
) -> None:
    """The rejection is never held against requests that may not be there."""
    path = directory / REQUESTS_NAME
    path.write_bytes(b"".join(change(path.read_bytes().splitlines(keepends=True))))
    code, verdict = audit(directory, capsys)
    assert code == 1
    assert verdict.startswith("audit: INCOMPLETE ")
    assert says in verdict
    document = json.loads((directory / "audit.json").read_bytes())
    assert (document["proved"], document["complete"], document["findings"]) == (False, False, {})


def test_a_file_with_a_sound_end_may_still_not_be_the_whole_run(ledger: Ledger, tmp_path: Path) -> None:
    """As when one process's records were lost: the digest is right, the numbers of requests aren't."""
    records = [ledger.admit(100 * number) for number in range(4)]
    reader = RecordReader(tmp_path / REQUESTS_NAME)
    write_records(reader.path, records)

    def missing(**changes: object) -> str:
        return "; ".join(read_once(reader, run_info(**{"planned": 4, "dispatched": 4, **changes}))[1].reasons)

    assert missing() == ""
    assert missing(planned=6, interrupted=True) == ""
    assert missing(dispatched=6, planned=6) == "there are records of 4 requests, 6 were sent"
    assert missing(planned=6) == "4 requests were sent, the schedule has 6, and nothing interrupted it"
    assert missing(finished=False, dispatched=0).startswith("the run was killed")


def test_what_incomplete_records_show_is_held_all_the_same(
    tmp_path: Path, ledger: Ledger, capsys: pytest.CaptureFixture[str]
) -> None:
    """More admissions can only make it worse."""
    for at_ms in range(0, 1200, 100):
        ledger.admit(at_ms)
    directory = write_run(tmp_path / "run", ledger.records, dispatched=20, planned=20)
    code, verdict = audit(directory, capsys)
    assert (code, verdict) == (1, "audit: REFUTED 2 windows over the limit")


def test_a_request_that_is_there_twice_is_not_counted_twice(
    tmp_path: Path, ledger: Ledger, capsys: pytest.CaptureFixture[str]
) -> None:
    for at_ms in range(0, 1000, 100):
        ledger.admit(at_ms)
    directory = write_run(tmp_path / "run", ledger.records * 2)
    code, verdict = audit(directory, capsys)
    assert (code, verdict) == (1, "audit: INCOMPLETE 10 records are duplicates of others")


def test_the_verdict_is_shown_where_it_cannot_be_written(directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As in a folder that can only be read: a directory in the file's place keeps root from writing, too."""
    (directory / "audit.json").mkdir()
    assert cli._run_cli(["audit", str(directory)]) == 0
    said = capsys.readouterr()
    assert said.out.splitlines()[-1].startswith("audit: PROVED")
    assert said.err.startswith("note: cannot write")
    assert said.err.count("\n") == 1


def test_a_page_does_not_trust_an_audit_made_before_records_were_lost(
    directory: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "copy"
    assert audit(directory, capsys)[0] == 0
    shutil.copytree(directory, copy)
    (copy / REQUESTS_NAME).write_bytes((copy / REQUESTS_NAME).read_bytes()[:-1])
    assert cli._run_cli(["report", str(directory), str(copy), "--html", str(tmp_path / "page.html")]) == 0
    assert capsys.readouterr().out.endswith("run: PROVED, copy: INCOMPLETE\n")
