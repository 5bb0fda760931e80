"""Runs over several accounts and models: what is sent, recorded and summed up."""

from __future__ import annotations

import json
from array import array
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from bench_fakes import KEY, FakeLimiter, application, run_info, serving

from bench_client import cli
from bench_client.errors import BenchError
from bench_client.load.keys import key_id
from bench_client.load.prompts import RequestRenderer
from bench_client.load.workload import Workload
from bench_client.records.record import Record
from bench_client.records.record_file import RecordReader
from bench_client.records.run_directory import convert_spool, open_records, prepare, read_info
from bench_client.records.spool import OK, SpoolWriter, read_spool, spool_name
from bench_client.report.gather import gather
from bench_client.report.provenance import commands, setup_rows
from bench_client.report.sources import find_sources

KEYS = """
[accounts.acme]
rpm = 1_000
[accounts.acme.teams.research]
[accounts.globex]
limits = [{ requests = 9, per = "1h" }]
[keys.sk-plain]
[keys.sk-a]
name = "a"
account = "acme"
[keys.sk-r]
name = "r"
account = "acme"
team = "research"
[keys.sk-g]
name = "g"
account = "globex"
"""


@pytest.fixture
def limiter() -> FakeLimiter:
    return FakeLimiter(limits=(10_000, 1_000_000, 1_000_000))


@pytest.fixture
def url(limiter: FakeLimiter) -> Iterator[str]:
    with serving(application(limiter.chat)) as address:
        yield address


@pytest.fixture
def accounts_file(tmp_path: Path) -> Path:
    path = tmp_path / "accounts.toml"
    path.write_text(KEYS)
    return path


def run(url: str, keys: Path, out: Path, *more: object) -> None:
    arguments = ("run", "--target", url, "--keys", keys, "--qps", 200, "--duration", 0.5, "--out", out, *more)
    assert cli._run_cli([str(argument) for argument in arguments]) == 0


def records_of(out: Path) -> list[Record]:
    return sorted(RecordReader(out / "requests.jsonl"))


@pytest.mark.parametrize("processes", [1, 2])
def test_each_request_asks_for_the_model_that_its_record_says(
    limiter: FakeLimiter, url: str, keys_file: Path, tmp_path: Path, processes: int
) -> None:
    """Sizes from 10 on tell requests of equal models apart."""
    out = tmp_path / "out"
    sizes = ("--input-tokens", "uniform:10:900")
    run(url, keys_file, out, "--models", "gpt-4o:3,o3", "--processes", processes, "--warmup", 0.1, *sizes)
    records = records_of(out)
    asked = Counter((body["model"], len(body["messages"][0]["content"].split()) + 7) for body in limiter.requests)
    assert Counter((record.model, record.input_tokens) for record in records) == asked
    counts = Counter(record.model for record in records)
    assert set(counts) == {"gpt-4o", "o3"}
    assert counts["gpt-4o"] > counts["o3"] > 0
    info = read_info(out)
    assert (info.settings["model"], info.settings["models"]) == (None, {"gpt-4o": 3, "o3": 1})
    measured = Counter(record.model for record in records if record.request >= info.warmup)
    summary = json.loads((out / "summary.json").read_bytes())
    assert {model: told["requests"] for model, told in summary["models"].items()} == dict(measured)


def test_a_run_of_one_model_records_it_in_the_settings_only(
    limiter: FakeLimiter, url: str, keys_file: Path, tmp_path: Path
) -> None:
    for number, options in enumerate([(), ("--model", "m:1"), ("--models", "o3:5")]):
        run(url, keys_file, tmp_path / str(number), *options)
        settings = read_info(tmp_path / str(number)).settings
        model = ("first-model", "m:1", "o3")[number]
        assert settings["model"] == model
        assert list(settings["models"]) == [model]
        assert {body["model"] for body in limiter.requests} == {model}
        assert {record.model for record in records_of(tmp_path / str(number))} == {None}
        limiter.requests.clear()


def test_models_change_nothing_else_of_the_schedule(url: str, keys_file: Path, tmp_path: Path) -> None:
    run(url, keys_file, tmp_path / "one")
    run(url, keys_file, tmp_path / "two", "--models", "a,b")
    planned = ("due_us", "target", "key", "input_tokens", "max_tokens")
    one, two = (
        [[getattr(record, name) for name in planned] for record in records_of(tmp_path / name)]
        for name in ("one", "two")
    )
    assert one == two


def test_only_keys_of_the_accounts_given_are_loaded(url: str, accounts_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(url, accounts_file, out, "--accounts", "acme/research:9,globex")
    counts = Counter(record.key for record in records_of(out))
    assert set(counts) == {key_id("sk-r"), key_id("sk-g")}
    assert counts[key_id("sk-r")] > 4 * counts[key_id("sk-g")]
    info = read_info(out)
    assert info.settings["accounts"] == {"acme/research": 9, "globex": 1}
    assert [name for _, name in info.keys] == ["r", "g"]
    assert [limit.subject for limit in info.tree.limits] == ["acme", "globex"]
    assert [path.team for path in info.tree.keys.values()] == ["research", ""]
    assert set(json.loads((out / "summary.json").read_bytes())["accounts"]) == {"acme", "globex"}


def test_all_keys_are_loaded_and_accounts_counted(
    capsys: pytest.CaptureFixture[str], url: str, accounts_file: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    run(url, accounts_file, out, "--zipf", 1)
    assert {record.key for record in records_of(out)} == {key_id(f"sk-{name}") for name in ("plain", "a", "r", "g")}
    assert read_info(out).settings["accounts"] is None
    shown = [line.split()[0] for line in capsys.readouterr().out.splitlines() if line.strip()]
    assert shown[shown.index("account") + 1] == "acme"
    assert {"globex", "(no"} <= set(shown)


def test_a_rate_is_searched_with_models_and_accounts(
    limiter: FakeLimiter, url: str, accounts_file: Path, tmp_path: Path
) -> None:
    search = ("--slo-p99-ms", 5000, "--from", 60, "--to", 60, "--trial", 0.3, "--warmup", 0)
    arguments = ("find-max", "--target", url, "--keys", accounts_file, *search, "--models", "a,b", "--accounts", "acme")
    assert cli._run_cli([str(argument) for argument in arguments]) == 0
    assert {body["model"] for body in limiter.requests} == {"a", "b"}
    assert set(limiter.ledgers) <= {"sk-a", "sk-r"}


def test_the_page_says_accounts_and_models_as_they_were_given(url: str, accounts_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(url, accounts_file, out, "--accounts", "acme:2", "--models", "gpt-4o:3,o3")
    (shown,) = (gather(source) for source in find_sources([out]))
    rows = {row.name: row.cells for row in setup_rows([shown])}
    assert (rows["accounts"], rows["model"]) == (["acme:2"], ["gpt-4o:3,o3:1"])
    assert {"--accounts acme:2", "--models gpt-4o:3,o3:1"} <= set(commands([shown])[0])


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--model", "a", "--models", "a,b"), "--model and --models exclude each other"),
        (("--models", "a:0"), "weights above 0"),
        (("--accounts", "acme:x:"), "no usable key is below acme:x:; there are acme, acme/research, globex"),
        (("--accounts", ""), "weights above 0"),
    ],
)
def test_wrong_weights_are_refused_in_one_line(
    capsys: pytest.CaptureFixture[str], accounts_file: Path, tmp_path: Path, options: tuple[str, ...], says: str
) -> None:
    arguments = ["run", "--target", "http://127.0.0.1:1", "--keys", str(accounts_file), "--qps", "1"]
    assert cli._run_cli([*arguments, "--out", str(tmp_path / "out"), *options]) == 2
    told = capsys.readouterr().err
    assert says in told
    assert told.count("\n") == 1


def workload(models: list[int]) -> Workload:
    count = len(models)
    zeros, sizes = array("I", [0] * count), array("I", [25] * count)
    return Workload(array("q", range(count)), zeros, zeros, sizes, sizes, 1.0, model=array("H", models))


def test_a_request_has_the_model_of_its_place() -> None:
    names = ["a", 'longer "name"']
    renderer = RequestRenderer(
        workload([1, 0]), request_heads=[b"POST / HTTP/1.1\r\n"], secrets=["sk-a"], models=names, cap_output=True
    )
    for index, model in enumerate((1, 0)):
        head, _, body = renderer.render(index).partition(b"\r\n\r\n")
        assert json.loads(body)["model"] == names[model]
        assert head.endswith(b"Content-Length: %d" % len(body))


def spool(directory: Path, models: list[int]) -> None:
    writer = SpoolWriter(directory, workload(models), cap_output=True)
    writer.put(0, [(index, 1, 2, OK, b"HTTP/1.1 200 OK\r\n\r\n{}") for index in range(len(models))])
    writer.close()


def test_a_killed_run_has_the_models_of_its_requests(tmp_path: Path) -> None:
    info = run_info(finished=False, settings={"models": {"a": 1, "b": 2, "c": 1}})
    prepare(tmp_path, info)
    spool(tmp_path, [1, 0, 2, 1])
    assert [entry.model for entry in read_spool(tmp_path / spool_name(0))] == [1, 0, 2, 1]
    assert [record.model for record in open_records(tmp_path, info)] == ["b", "a", "c", "b"]


def test_the_model_of_a_run_of_one_is_not_repeated_in_records(tmp_path: Path) -> None:
    info = run_info(finished=False, settings={"models": {"a": 1}})
    prepare(tmp_path, info)
    spool(tmp_path, [0, 0])
    convert_spool(tmp_path, 0, [KEY], ["a"])
    assert [record.model for record in open_records(tmp_path, info)] == [None, None]


def test_spools_of_an_earlier_version_are_refused(tmp_path: Path) -> None:
    """Their entries had no model, so they would be read as something else."""
    settings: dict[str, Any] = {"model": "gpt-4o"}
    info = run_info(finished=False, settings=settings)
    prepare(tmp_path, info)
    spool(tmp_path, [0])
    with pytest.raises(BenchError, match="made by an earlier version of bench-client; make it again"):
        open_records(tmp_path, info)
