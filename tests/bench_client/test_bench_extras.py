"""Without the library of the extra ``bench`` the commands that need it say how to get it, and the others work."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from bench_client import cli

BLOCKED = "import sys; sys.modules['hdrh'] = None; from bench_client.cli import main; main()"
SAYS = (
    "error: hdrhistogram is not installed; in the project's folder run `make setup-dev`, "
    "or `pip install '.[bench]'` for an environment of your own\n"
)


def without_the_library(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", BLOCKED, *arguments], capture_output=True, text=True, timeout=30)


@pytest.mark.parametrize(
    "arguments",
    [
        ("run", "--target", "http://127.0.0.1:1", "--keys", "keys.toml", "--out", "results"),
        ("find-max", "--target", "http://127.0.0.1:1", "--keys", "keys.toml", "--slo-p99-ms", "10"),
        ("compare", "--out", "results"),
        ("report", "results", "--html", "page.html"),
    ],
    ids=lambda arguments: arguments[0],
)
def test_a_command_that_needs_it_says_how_to_get_it(arguments: tuple[str, ...]) -> None:
    done = without_the_library(*arguments)
    assert (done.returncode, done.stdout, done.stderr) == (1, "", SAYS)


def test_the_other_commands_work_without_it(tmp_path: Path) -> None:
    assert without_the_library("--version").returncode == 0
    assert without_the_library("run", "--help").returncode == 0
    audited = without_the_library("audit", str(tmp_path))
    assert "hdrhistogram" not in audited.stderr
    assert "run.json" in audited.stderr


def test_it_is_imported_by_one_module() -> None:
    paths = Path(cli.__file__).parent.rglob("*.py")
    importers = [path.name for path in paths if re.search(r"^\s*(from|import) hdrh", path.read_text("utf-8"), re.M)]
    assert importers == ["histograms.py"]
