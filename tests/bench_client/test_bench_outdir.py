"""Results are not replaced unless asked for: what `--out` may name, and what `--force` removes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from bench_fakes import FakeLimiter, Ledger, application, run_info, serving

from bench_client import cli
from bench_client.commands import compare
from bench_client.commands.compare import CompareSettings
from bench_client.errors import BenchError
from bench_client.records.out_directory import PAGE_NAME, STORES, prepare_comparison
from bench_client.records.record_file import REQUESTS_NAME, write_records
from bench_client.records.run_directory import COMPARE_NAME, RUN_NAME, write_info

FIND_MAX = ("find-max", "--slo-p99-ms", 5000, "--from", 60, "--to", 60, "--trial", 0.2, "--warmup", 0)
RUN = ("run", "--qps", 50, "--duration", 0.2)


def call(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str]:
    code = cli._run_cli([str(argument) for argument in arguments])
    return code, capsys.readouterr().err


@pytest.fixture
def url() -> Iterator[str]:
    with serving(application(FakeLimiter().chat)) as address:
        yield address


def write_run(directory: Path) -> bytes:
    directory.mkdir(parents=True)
    write_info(directory, run_info())
    write_records(directory / REQUESTS_NAME, [Ledger().admit(0)])
    return (directory / REQUESTS_NAME).read_bytes()


def test_a_second_run_replaces_the_first_only_where_that_is_said(
    capsys: pytest.CaptureFixture[str], url: str, keys_file: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    arguments = (*RUN, "--target", url, "--keys", keys_file, "--out", out)
    assert call(capsys, *arguments)[0] == 0
    files = {path: path.read_bytes() for path in out.iterdir()}
    code, said = call(capsys, *arguments, "--seed", 2)
    assert code == 2
    assert said == (f"error: {out} already holds a run (run.json); choose another --out, or replace it with --force\n")
    assert {path: path.read_bytes() for path in out.iterdir()} == files
    assert call(capsys, *arguments, "--seed", 2, "--force")[0] == 0
    assert (out / REQUESTS_NAME).read_bytes() != files[out / REQUESTS_NAME]


@pytest.mark.parametrize("left", ["responses.0.spool", "requests.1.part"])
def test_a_run_that_was_killed_is_one(
    capsys: pytest.CaptureFixture[str], keys_file: Path, tmp_path: Path, left: str
) -> None:
    (tmp_path / left).write_text("records")
    arguments = (*RUN, "--target", "http://127.0.0.1:1", "--keys", keys_file, "--out", tmp_path, "--wait-ready", 0)
    code, said = call(capsys, *arguments)
    assert (code, "already holds a run" in said) == (2, True)
    assert (tmp_path / left).exists()


def test_a_run_that_recorded_nothing_is_none(url: str, keys_file: Path, tmp_path: Path) -> None:
    """Nor are files of others."""
    write_info(tmp_path, run_info(finished=False))
    (tmp_path / "responses.0.spool").touch()
    (tmp_path / PAGE_NAME).write_text("mine")
    assert cli._run_cli([*map(str, RUN), "--target", url, "--keys", str(keys_file), "--out", str(tmp_path)]) == 0
    assert (tmp_path / PAGE_NAME).read_text() == "mine"


def test_a_comparison_is_not_replaced_by_a_run_and_leaves_no_trace_under_one_that_does(
    capsys: pytest.CaptureFixture[str], url: str, keys_file: Path, tmp_path: Path
) -> None:
    (tmp_path / COMPARE_NAME).write_text("{}")
    arguments = (*RUN, "--target", url, "--keys", keys_file, "--out", tmp_path)
    code, said = call(capsys, *arguments)
    assert (code, "already holds a comparison (compare.json)" in said) == (2, True)
    assert call(capsys, *arguments, "--force")[0] == 0
    assert not (tmp_path / COMPARE_NAME).exists(), "or a report would be of the comparison"


def test_a_curve_is_not_replaced(capsys: pytest.CaptureFixture[str], url: str, keys_file: Path, tmp_path: Path) -> None:
    curve = tmp_path / "find-max.json"
    curve.write_text("{}")
    arguments = (*FIND_MAX, "--target", url, "--keys", keys_file, "--out", tmp_path)
    code, said = call(capsys, *arguments)
    assert (code, "already holds find-max.json" in said) == (2, True)
    assert curve.read_text() == "{}"
    call(capsys, *arguments, "--force")
    assert curve.read_text() != "{}"


@pytest.mark.parametrize("held", [f"cluster/{REQUESTS_NAME}", REQUESTS_NAME, COMPARE_NAME, "keys.toml", PAGE_NAME])
def test_a_comparison_replaces_nothing_either(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, held: str
) -> None:
    """Not even a keys file that somebody wrote. With --force it goes on to start a limiter."""
    path = tmp_path / held
    path.parent.mkdir(exist_ok=True)
    path.write_text("mine")
    started: list[CompareSettings] = []

    def start(store: str, settings: CompareSettings, *_: object) -> None:
        started.append(settings)
        raise BenchError("started")

    monkeypatch.setattr(compare, "_measure", start)
    monkeypatch.setattr(compare, "generate_keys", lambda *_, **__: None)
    code, said = call(capsys, "compare", "--qps", 5, "--out", tmp_path)
    assert (code, "already holds" in said, path.read_text()) == (2, True, "mine")
    assert not started
    code, said = call(capsys, "compare", "--qps", 5, "--out", tmp_path, "--force")
    assert (code, said) == (1, "error: started\n")


def test_what_a_comparison_had_is_gone_when_the_next_one_starts(tmp_path: Path) -> None:
    """So that of one that was interrupted nothing old is shown."""
    for directory in (tmp_path / "out", *(tmp_path / "out" / store for store in STORES)):
        write_run(directory)
    (tmp_path / "out" / PAGE_NAME).write_text("old")
    prepare_comparison(tmp_path / "out")
    assert not [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert not (tmp_path / "out" / RUN_NAME).exists()
