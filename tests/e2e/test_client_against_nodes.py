"""The benchmark client against real nodes: what it records proves the limiter right, on both kinds of store."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from fleet import running_fleet

from bench_client.records.run_directory import open_records, read_info
from bench_client.report.shown_limits import TreeLimit, tree_limits
from bench_client.report.windows import window_series

TRACE = "\r\n".join(
    ["TIMESTAMP,ContextTokens,GeneratedTokens"]
    + [f"2023-11-16 18:15:{i // 20:02d}.{i % 20 * 5:02d}00000,{20 + i * 7 % 900},{5 + i * 3 % 200}" for i in range(200)]
)


def bench(*arguments: str, timeout_s: float = 90) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("LIMITER_", "BENCH_"))}
    command = [sys.executable, "-m", "bench_client", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, env=environment)


@pytest.fixture
def limited_keys(tmp_path: Path) -> Path:
    """Thirty keys, each third of them limited in another dimension."""
    limits = ("rpm = 20", "input_tpm = 1_000", "output_tpm = 2_000")
    keys = tmp_path / "limited.toml"
    keys.write_text("".join(f'[keys."sk-e2e-{n}"]\nname = "e2e-{n}"\n{limits[n % 3]}\n' for n in range(30)))
    return keys


@pytest.mark.parametrize("store", ["cluster", "single"])
def test_the_audit_proves_a_run_above_all_limits(tmp_path: Path, limited_keys: Path, store: str) -> None:
    with running_fleet(
        tmp_path, "--store", store, "--keys", str(limited_keys), "--decision-timeout-ms", "20000"
    ) as fleet:
        targets = [argument for node in fleet.nodes for argument in ("--target", node)]
        results = str(tmp_path / "results")
        run = bench("run", *targets, "--keys", str(limited_keys), "--qps", "300", "--duration", "6", "--zipf", "0.5",
                    "--input-tokens", "uniform:10:90", "--out", results)  # fmt: skip
        assert run.returncode == 0, run.stderr
    audit = bench("audit", results)
    assert audit.returncode == 0, audit.stdout + audit.stderr
    assert "audit: PROVED" in audit.stdout
    total = json.loads((Path(results) / "summary.json").read_text())["total"]
    assert not total["errors"]
    assert min(total["rejected"][reason] for reason in ("requests", "input_tokens", "output_tokens")) > 0
    told = json.loads((Path(results) / "audit.json").read_text())
    assert told["rejections_held"] == told["rejected"] == total["rejected_total"]
    assert told["worst_fill"]["requests"]["ratio"] == 1, "as many as the limit allows were admitted, and not one more"


def test_a_trace_is_replayed(tmp_path: Path, limited_keys: Path) -> None:
    trace = tmp_path / "trace.csv"
    trace.write_bytes((TRACE + "\r\n").encode())
    with running_fleet(tmp_path, "--store", "single", "--keys", str(limited_keys), nodes=1) as fleet:
        results = str(tmp_path / "results")
        replayed = ("--trace", str(trace), "--speed", "4")
        run = bench("run", "--target", fleet.nodes[0], "--keys", str(limited_keys), *replayed, "--out", results)
        assert run.returncode == 0, run.stderr
        assert "200" in run.stdout
    assert bench("audit", results).returncode == 0


def assert_counted_alike(directory: Path) -> None:
    """Each window that the audit found is the same in the page's own count."""
    info = read_info(directory)
    limits = tree_limits(info.tree, str(info.settings["model"]))
    windows = window_series(open_records(directory, info), limits, clock_ms=0, until_s=0)
    counted = {
        window.shown.limit[:4]: (window.worst_used, window.worst_limit, window.worst_time_ms, sum(window.rejected))
        for window in windows
        if isinstance(window.shown, TreeLimit)
    }
    audited = json.loads((directory / "audit.json").read_bytes())["limits"]
    assert len(audited) >= 3 + 2 + 3 * 2
    for each in audited:
        name = (each["subject"], each["unit"], each["per_ms"], tuple(each["models"]))
        assert counted[name] == (each["used"], each["limit"], each["time_ms"], each["rejected"])


def test_compare_runs_the_same_workload_on_both_stores(tmp_path: Path) -> None:
    done = bench("compare", "--qps", "200", "--duration", "3", "--keys-count", "20", "--rpm", "20",
                 "--out", str(tmp_path / "both"))  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"report: {tmp_path / 'both' / 'report.html'}\n" in done.stderr
    assert "✓ PROVED" in (tmp_path / "both" / "report.html").read_text("utf-8")
    told = json.loads((tmp_path / "both" / "compare.json").read_text())["stores"]
    assert set(told) == {"cluster", "single"}
    assert told["cluster"]["summary"]["planned"] == told["single"]["summary"]["planned"] > 500
    for name, store in told.items():
        assert store["audit"]["proved"]
        subjects = {limit["subject"] for limit in store["audit"]["limits"] if limit["rejected"]}
        assert subjects & {"acme", "acme/research", "acme/sales"}, "limits that keys share bind for some"
        assert_counted_alike(tmp_path / "both" / name)
        assert store["summary"]["total"]["rejected_total"] > 0
        servers = json.loads((tmp_path / "both" / name / "servers.json").read_text())
        assert all(each["cpu_s"] > 0 for each in servers["processes"])
        kinds = [each["kind"] for each in servers["processes"]]
        assert kinds == ["node", "node", *["store"] * (3 if name == "cluster" else 1), "client"]
        samples = [target["samples"] for target in servers["targets"]]
        assert all(len(each) >= 4 and not each[0]["decisions"] for each in samples)
        decided = sum(each[-1]["decisions"] for each in samples)
        assert 0.8 * store["summary"]["planned"] < decided <= store["summary"]["planned"]
