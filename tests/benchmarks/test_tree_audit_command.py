"""The audit at saturation, in short: a flat and a tree run under the same load, both proved, on one page."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path


def test_plain_keys_and_a_tree_are_proved_side_by_side(tmp_path: Path) -> None:
    load = ("--qps", "120", "--seconds", "4", "--nodes", "4", "--store", "single")
    command = [sys.executable, "-m", "benchmarks.tree_audit", *load, "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=150, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    flat, tree = done.stdout.splitlines()[-2:]
    assert flat.startswith("flat: audit: PROVED no 60 s window over its limit (")
    assert tree.startswith("tree: audit: PROVED no window over its limit (")
    told = {name: json.loads((tmp_path / name / "audit.json").read_text()) for name in ("flat", "tree")}
    planned = {name: json.loads((tmp_path / name / "run.json").read_text())["planned"] for name in told}
    assert planned["flat"] == planned["tree"], "the same load"
    assert told["flat"]["limits"] == []
    limits = told["tree"]["limits"]
    assert {each["per_ms"] for each in limits} == {1_000, 60_000, 3_600_000}
    assert {each["subject"].count("/") for each in limits} == {0, 1}
    assert {each["subject"] for each in limits} > {"acme", "acme/chat", "acme/key-0"}
    assert sum(each["over"] for each in limits) == told["tree"]["unjustified"] == 0
    assert told["tree"]["rejected"] > 20
    page = (tmp_path / "report.html").read_text("utf-8")
    assert "flat" in page
    assert "tree" in page
