"""The audit of real nodes under a tree of limits: what they do is proved; each fault that is made in it is found."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fleet import running_fleet

from bench_client.audit import audit_directory
from bench_client.records.record import Record
from bench_client.records.record_file import REQUESTS_NAME, RecordReader, write_records

KEYS = """
[accounts.acme]
rpm = 260
limits = [
  { requests = 40, per = "1s" },
  { tokens = 60_000, per = "1h" },
  { output_tokens = 3_000, per = "1m", models = ["o3*"] },
  { output_tokens = 6_000, per = "1m", models = ["gpt-4*"], name = "big models" },
  { tokens = 2_000, per = "1s", mode = "audit", name = "too much, at once" },
]
[accounts.acme.teams.research]
limits = [{ input_tokens = 4_000, per = "1h" }, { tokens = 2_500, per = "1s" }]
[accounts.acme.teams."research/vision"]
limits = [{ requests = 30, per = "1h", models = ["O3*"] }, { requests = 5, per = "1s", mode = "audit" }]
[accounts.acme.teams.sales]
rpm = 100
[accounts.globex]
show = "own"
key_defaults = { rpm = 30 }
limits = [
  { requests = 7, per = "1s" },
  { tokens = 3_000, per = "1m" },
  { output_tokens = 100, per = "1s", mode = "audit" },
]
"""


def keys_file() -> str:
    text, teams = KEYS, ("research", "research/vision", "sales", "")
    for n in range(24):
        team = f'team = "{teams[n % 4]}"\n' if teams[n % 4] else ""
        text += f'[keys."sk-tree-{n}"]\nname = "k{n}"\naccount = "acme"\n{team}'
        text += 'rpm = 12\nlimits = [{ requests = 2, per = "1s" }]\n' if n % 3 == 0 else ""
    for n in range(6):
        text += f'[keys."sk-globex-{n}"]\nname = "g{n}"\naccount = "globex"\n'
    for n in range(3):
        text += f'[keys."sk-flat-{n}"]\nname = "flät, {n}"\nlimits = [{{ requests = 3, per = "1s" }}]\n'
    return text + "".join(f'[keys."sk-plain-{n}"]\nname = "plain{n}"\nrpm = 20\n' for n in range(3))


def bench_run(*arguments: str) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("LIMITER_", "BENCH_"))}
    command = [sys.executable, "-m", "bench_client", "run", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=90, env=environment, check=False)
    assert done.returncode == 0, done.stderr


def make_run(directory: Path, store: str) -> Path:
    """Return the directory of a run of six seconds on two nodes, far above the limits."""
    keys = directory / "keys.toml"
    keys.write_text(keys_file())
    keys.chmod(0o600)
    with running_fleet(directory, "--store", store, "--keys", str(keys), "--decision-timeout-ms", "20000") as fleet:
        targets = [argument for node in fleet.nodes for argument in ("--target", node)]
        shape = ("--input-tokens", "uniform:10:90", "--output-tokens", "uniform:5:100", "--zipf", "0.5")
        load = ("--qps", "200", "--duration", "6", "--models", "gpt-4o:3,o3-mini:2,gpt-5:1", *shape)
        bench_run(*targets, "--keys", str(keys), *load, "--out", str(directory / "run"))
    return directory / "run"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("tree"), "single")


def audited(directory: Path) -> tuple[str, dict[str, Any]]:
    """Return the last line of the audit, and what it wrote."""
    report = audit_directory(directory)
    return report.verdict, json.loads((directory / "audit.json").read_text())


def test_nodes_on_a_cluster_are_proved(tmp_path: Path) -> None:
    verdict, told = audited(make_run(tmp_path, "cluster"))
    assert verdict.startswith("audit: PROVED no window over its limit ("), json.dumps(told, indent=1)
    assert told["rejections_held"] == told["rejected"] > 300


def test_nodes_are_proved_on_all_levels_and_lengths(run: Path) -> None:
    verdict, told = audited(run)
    assert verdict.startswith("audit: PROVED no window over its limit ("), json.dumps(told, indent=1)
    assert told["rejections_held"] == told["rejected"] > 300
    assert told["keys_not_judged"] == 0
    limits = {(each["subject"], each["unit"], each["per_ms"], *each["models"]): each for each in told["limits"]}
    assert not any(each["over"] for each in limits.values())
    rejecting = {name for name, each in limits.items() if each["rejected"]}
    assert {("acme", "requests", 1_000), ("globex", "tokens", 60_000), ("flät, 0", "requests", 1_000)} <= rejecting
    assert {per for _, _, per, *_ in rejecting} == {1_000, 60_000, 3_600_000}
    assert {name[0] for name in rejecting} >= {"acme", "acme/research", "globex"}
    assert any(name[3:] for name in rejecting), "limits for some models only"
    assert limits["acme", "tokens", 1_000]["would_have_rejected"] > 0
    assert limits["acme", "tokens", 1_000]["name"] == "too much, at once"
    assert [limits["acme", "requests", per]["slid"] for per in (1_000, 60_000)] == [True, False]
    assert "no 60 s, 1h window has slid" in told["never_slid"]
    ratios = [each["ratio"] for each in told["limits"]]
    assert ratios == sorted(ratios, reverse=True)


@pytest.fixture
def copy(run: Path, tmp_path: Path) -> Path:
    """A copy of the run to be tampered with."""
    return Path(shutil.copytree(run, tmp_path / "copy"))


def change_limit(directory: Path, subject: str, **values: Any) -> None:
    """Change a limit in the tree that the client read from the keys file."""
    path = directory / "run.json"
    document = json.loads(path.read_text())
    fields = ("subject", "unit", "per_ms", "models", "amount")
    (limit,) = (
        each
        for each in document["tree"]["limits"]
        if each[0] == subject and each[1] == "requests" and each[2] == 1_000 and each[5] == "enforce"
    )
    for name, value in values.items():
        limit[fields.index(name)] = value
    path.write_text(json.dumps(document))


def change_records(directory: Path, change: Callable[[list[Record]], list[Record]]) -> None:
    path = directory / REQUESTS_NAME
    records = list(RecordReader(path))
    write_records(path, change(records))


def test_a_lower_limit_than_the_nodes_had_is_refuted_where_they_hide_theirs(copy: Path) -> None:
    """Limits that they announce count as announced: then a note says how many differ."""
    change_limit(copy, "globex", amount=6)
    verdict, told = audited(copy)
    assert "windows over the limit" in verdict
    assert [each["subject"] for each in told["limits"] if each["over"]] == ["globex"]


def test_a_lower_limit_is_noted_where_they_announce_theirs(copy: Path) -> None:
    change_limit(copy, "acme", amount=1)
    verdict, told = audited(copy)
    assert verdict.startswith("audit: PROVED")
    amounts = {(each["subject"], each["unit"], each["per_ms"]): each["limit"] for each in told["limits"]}
    assert amounts["acme", "requests", 1_000] == 40


def test_another_length_than_the_nodes_had_is_not_judged(copy: Path) -> None:
    change_limit(copy, "acme", per_ms=2_000)
    verdict, told = audited(copy)
    assert verdict.startswith("audit: INCOMPLETE not judged: ")
    assert "whose responses announce acme requests/1s, which the keys file doesn't declare" in verdict
    assert told["keys_not_judged"] == 24


def test_dropped_records_are_missed(copy: Path) -> None:
    """Every tenth admission: they are in the counters of all windows on their paths, and there are too few records."""

    def drop(records: list[Record]) -> list[Record]:
        admitted = [each.request for each in records if each.status == 200]
        return [each for each in records if each.request not in set(admitted[::10])]

    change_records(copy, drop)
    verdict, told = audited(copy)
    assert verdict.startswith("audit: INCOMPLETE there are records of ")
    assert not told["complete"]
    document = json.loads((copy / "run.json").read_text())
    document["dispatched"] = document["planned"] = told["admitted"] + told["rejected"]
    (copy / "run.json").write_text(json.dumps(document))
    verdict, told = audited(copy)
    assert verdict.startswith("audit: REFUTED")
    assert set(told["findings"]) <= {"counted too much", "unjustified 429", "wrong x-limiter-audit"}


def first_with(records: list[Record], name: str) -> int:
    """Return the index of an admission in the middle of the run that announces a limit that is in use."""
    order = sorted(range(len(records)), key=lambda index: records[index].time_ms or 0)
    return next(n for n in order[len(order) // 2 :] if records[n].status == 200 and name in (records[n].states or ""))


@pytest.mark.parametrize(("by", "found"), [(9, "counted too little"), (-9, "counted too much")])
def test_one_count_that_is_changed_is_found(copy: Path, by: int, found: str) -> None:
    """Of one limit in one response, by more than what is under way at a time."""

    def change(records: list[Record]) -> list[Record]:
        index = first_with(records, '"acme tokens/1h"')
        before, name, rest = (records[index].states or "").partition('"acme tokens/1h";r=')
        left, _, after = rest.partition(";")
        states = f"{before}{name}{int(left) + by * 1_000};{after}"
        records[index] = records[index]._replace(states=states)
        return records

    change_records(copy, change)
    verdict, told = audited(copy)
    assert verdict == f"audit: REFUTED 1 {found}"
    assert told["examples"][0]["message"].startswith("acme tokens/1h: at ")


def test_one_admission_too_many_is_found(copy: Path) -> None:
    """A rejection by the account's second is made an admission: its window is over by one, and no counter has it."""

    def change(records: list[Record]) -> list[Record]:
        index = next(n for n, each in enumerate(records) if each.limit == "acme requests/1s")
        admitted = {"status": 200, "exceeded": None, "limit": None, "retry_after_ms": None, "requested": None}
        tokens = {"prompt_tokens": 20, "completion_tokens": 1, "told_input": 20, "told_input_at_most": 20}
        records[index] = records[index]._replace(**admitted, **tokens)  # type: ignore[arg-type]
        return records

    change_records(copy, change)
    verdict, told = audited(copy)
    assert "windows over the limit" in verdict
    assert ("acme", "requests", 1_000) in {(e["subject"], e["unit"], e["per_ms"]) for e in told["limits"] if e["over"]}
