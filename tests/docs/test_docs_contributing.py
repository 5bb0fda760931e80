"""CONTRIBUTING.md and the Makefile name files, names and targets that are there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
MAKEFILE = (ROOT / "Makefile").read_text("utf-8")

IN_LINES = {word for code in re.findall(r"`([^`\n]+)`", TEXT) for word in code.split() if "/" in word or "." in word}
IN_BLOCKS = set(re.findall(r"\b(?:tests|limiter_node|bench_client)/[\w/.]+", TEXT))
OTHER_THINGS = {"Scene.under_load", "NodeSettings.__post_init__", "requirements/*.in", ".venv/bin/python"}


@pytest.mark.parametrize("path", sorted((IN_LINES | IN_BLOCKS) - OTHER_THINGS))
def test_a_path_is_there(path: str) -> None:
    path = path.removeprefix("M=")
    assert (ROOT / path).is_dir() if path.endswith("/") else (ROOT / path).exists()


def test_a_target_of_make_is_there() -> None:
    targets = set(re.findall(r"^([a-z-]+):", MAKEFILE, re.MULTILINE))
    named = {word for line in re.findall(r"(?m)(?:^|`)make ([a-z -]+)", TEXT) for word in line.split()}
    assert {"setup-dev", "test-module", "lint", "chaos"} <= named <= targets


@pytest.mark.parametrize(
    ("path", "names"),
    [
        ("limiter_node/settings.py", ("class NodeSettings", "def setting", "def __post_init__", "CLIENTS")),
        ("limiter_node/limits.py", ("class Amounts", "class KeyLimits", "DIMENSIONS =")),
        ("limiter_node/decisions.py", ("class Need",)),
        ("limiter_node/store/keyspace.py", ("STORAGE_FORMAT =",)),
        ("tests/chaos/chaos_scene.py", ("class Scene", "def under_load", "class Outcome")),
    ],
)
def test_a_file_has_the_names_that_are_looked_for_there(path: str, names: tuple[str, ...]) -> None:
    source = (ROOT / path).read_text("utf-8")
    assert not [name for name in names if name not in source]


def test_the_selection_for_the_newest_python_is_there() -> None:
    named = re.findall(r"tests/[\w/.]+", MAKEFILE.partition("NEWEST_TESTS :=")[2].partition("\ntest-newest:")[0])
    assert len(named) > 5
    assert not [path for path in named if not (ROOT / path).exists()]


def test_it_is_short() -> None:
    assert len(TEXT.splitlines()) <= 150


def test_the_next_number_of_a_fault_is_free() -> None:
    page = (ROOT / "docs" / "failures.md").read_text("utf-8")
    faults = page.partition("## Faults, as tested")[2].partition("\n## ")[0]
    cells = re.findall(r"(?m)^\| ([\d, –]+) \|", faults)
    taken = {int(number) for cell in cells for number in re.findall(r"\d+", cell)}
    (following,) = re.findall(r"The next fault gets number (\d+)\.", faults)
    assert int(following) == max(taken) + 1
