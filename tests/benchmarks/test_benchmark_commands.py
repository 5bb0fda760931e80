"""The benchmarks run: each command's options, the short form of one that starts real servers, and what a row says."""

from __future__ import annotations

import importlib
import json
import re
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from random import Random

import pytest

from benchmarks.__main__ import BENCHMARKS, DERIVED
from benchmarks.accounts import measure_calls
from benchmarks.lib.azure_sizes import ANSWER_TOKENS, PROMPT_TOKENS, draw
from benchmarks.lib.measuring import row
from benchmarks.long_prompts import conversation
from benchmarks.paths.earlier import NoEarlierCode, code_of, commit_before, script_of
from benchmarks.scale import account_calls
from benchmarks.scale.account_costs import kind_of


@pytest.mark.parametrize("name", BENCHMARKS)
def test_every_benchmark_says_its_options(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    module = importlib.import_module(f"benchmarks.{name}")
    monkeypatch.setattr(sys, "argv", [name, "--help"])
    with pytest.raises(SystemExit) as ended:
        module.main()
    assert not ended.value.code
    said = capsys.readouterr().out
    assert "--rounds" in said
    assert "--json" in said


@pytest.mark.parametrize("name", DERIVED)
def test_what_is_derived_says_where_it_takes_its_figures(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    module = importlib.import_module(f"benchmarks.{name}")
    monkeypatch.setattr(sys, "argv", [name, "--from", str(tmp_path / "missing.json")])
    with pytest.raises(SystemExit) as ended:
        module.main()
    assert "missing.json" in str(ended.value.code)
    assert "python -m benchmarks." in str(ended.value.code)


def test_a_node_beside_its_peers(tmp_path: Path) -> None:
    written = tmp_path / "rows.json"
    arguments = ("--rounds", "1", "--seconds", "0.3", "--nginx", "/nonexistent/nginx", "--json", str(written))
    for _ in range(5):  # it refuses figures of a machine that was too busy to answer
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.node_ratios", *arguments], capture_output=True, text=True, timeout=100
        )
        if not re.search(r"requests were not answered by 200|no request was answered", done.stderr):
            break
    assert done.returncode == 0, done.stderr
    assert "left out: install nginx" in done.stdout
    rows = {each["name"]: each for each in json.loads(written.read_text())["rows"]}
    assert rows["node, 1,000 keys: requests/s"]["median"] > 0
    ratio = rows["node, 1,000 keys ÷ minimal aiohttp handler"]
    assert ratio["at_least"] == 0.65
    assert ratio["met"] is (ratio["median"] >= 0.65)
    assert not [name for name in rows if "nginx" in name]


def test_a_row_is_met_by_its_median() -> None:
    assert row("a", "", [1, 2, 9], at_least=2).met is True
    assert row("a", "", [1, 2, 9], at_least=2.1).met is False
    assert row("a", "", [1, 2, 9], at_most=1.9).met is False
    assert row("a", "", [1, 2, 9], at_least=1, at_most=2).met is True
    assert row("a", "", [1, 2, 9], "flat").met is None
    assert row("a", "", [1, 2, 9], at_least=1, at_most=2_000).target == "≥ 1, ≤ 2,000"


def test_sizes_are_those_of_the_trace() -> None:
    rng = Random(1)
    for quantiles, median, mean in ((PROMPT_TOKENS, 1_020, 1_167), (ANSWER_TOKENS, 129, 213)):
        sizes = sorted(draw(quantiles, rng) for _ in range(20_000))
        assert quantiles[0] <= sizes[0] <= sizes[-1] <= quantiles[-1]
        assert sizes[10_000] == pytest.approx(median, rel=0.05)
        assert sum(sizes) / len(sizes) == pytest.approx(mean, rel=0.05)


def test_a_conversation_grows_by_an_answer_and_a_question() -> None:
    rng = Random(2)
    requests = max((list(conversation(rng)) for _ in range(20)), key=len)
    assert len(requests) > 2
    for before, after in pairwise(requests):
        assert after[:-2] == before
        assert [message["role"] for message in after[-2:]] == ["assistant", "user"]


def test_limits_on_paths_are_measured_against_each_aim(tmp_path: Path) -> None:
    written = tmp_path / "rows.json"
    command = [sys.executable, "-m", "benchmarks.policies", "--quick", "--json", str(written)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    assert "quartile" in done.stdout
    rows = {each["name"]: each for each in json.loads(written.read_text())["rows"]}
    minute, day = rows["memory of a full window of 1m"], rows["memory of a full window of 1d"]
    assert minute["at_most"] == day["at_most"] == 12 * 1024
    assert 600 * 12 < minute["median"] < 16 * 1024
    for path in (2, 5, 8):
        for kind in ("the bucket stays", "the bucket changes", "the bucket changes and one leaves"):
            assert rows[f"path of {path}, {kind}: time"]["median"] > 0
    aims = {each["at_most"] for each in rows.values()} | {each["at_least"] for each in rows.values()}
    assert {3.0, 3.5, 0.16, 2, 700, 1_000} <= aims


def test_calls_on_paths_are_measured_as_the_model_counts_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is decided on a real server, or this fails; two stand-ins and few calls show no costs worth a look."""
    monkeypatch.setattr(account_calls, "STAND_INS", 2)
    monkeypatch.setattr(account_calls, "PATHS", (5,))
    monkeypatch.setattr(account_calls, "CALLS", [call for call in account_calls.CALLS if call.path in (0, 5)])
    calls, memory = measure_calls(rounds=1, calls=40)
    assert [kind_of(call) for call in calls] == account_calls.CALLS
    assert all(call.call_us >= 0 for call in calls)
    assert [each.buckets for each in memory] == [1, 10, 100, 600]
    assert memory[0].window_bytes < memory[-1].window_bytes < 12 * 1024
    assert all(each.policy_bytes > 0 for each in memory)


def test_a_commit_that_git_doesnt_know_is_told() -> None:
    with pytest.raises(NoEarlierCode):
        commit_before("no-such-commit")


def test_the_code_of_a_commit_is_whole() -> None:
    try:
        commit = commit_before("HEAD")
    except NoEarlierCode:
        pytest.skip("this is no repository of git")
    with code_of(commit) as directory:
        assert (directory / "lua" / "decide.lua").read_bytes() == script_of(commit)
        assert (directory / "limiter_node" / "app.py").exists()


def test_the_middle_half_of_a_rows_rounds() -> None:
    assert row("a", "", [5, 1, 2, 3, 4]).quartiles == (2, 4)
    assert row("a", "", [7]).quartiles == (7, 7)
