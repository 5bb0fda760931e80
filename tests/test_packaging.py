"""The wheel, installed elsewhere, is the whole product: both commands, the store's scripts, no checkout needed.

The version is said once, in setup.cfg: the commands tell it, and the changelog begins with it.
"""

from __future__ import annotations

import configparser
import os
import re
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest
from fleet import running_fleet

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("wheel")
    source = directory / "source"  # a copy: setuptools builds beside the sources
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout
    for name in tracked.decode().split("\0"):
        if name and (ROOT / name).is_file():
            target = source / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes((ROOT / name).read_bytes())
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    environment = {**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    subprocess.run([*command, "-w", str(directory), str(source)], check=True, env=environment)
    (built,) = directory.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh environment with the wheel in it; what it depends on is taken from ours. The path of its python."""
    directory = tmp_path_factory.mktemp("elsewhere")
    venv.create(directory, with_pip=False)
    python = directory / "bin" / "python"
    (site,) = directory.glob("lib/python*/site-packages")
    # A path file adds our libraries without running their .pth files: the editable install of the checkout stays out.
    (site / "dependencies.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    subprocess.run(
        [str(python), "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", str(wheel)],
        check=True,
        env={**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1"},
    )
    return python


def test_the_wheel_carries_packages_scripts_and_types(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {
        "lua/decide.lua",
        "lua/peek.lua",
        "limiter_node/py.typed",
        "limiter_node/cli.py",
        "bench_client/cli.py",
    } <= names
    assert not [name for name in names if name.startswith(("tests/", "benchmarks/"))]


def test_the_changelog_begins_with_the_packages_version(wheel: Path) -> None:
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    version = setup["metadata"]["version"]
    assert wheel.name.split("-")[1] == version
    sections = re.findall(r"^## \[([^]]+)\] - (\d{4}-\d\d-\d\d)$", (ROOT / "CHANGELOG.md").read_text("utf-8"), re.M)
    assert sections[0][0] == version
    assert sections == sorted(sections, key=lambda section: section[1], reverse=True)


@pytest.mark.parametrize("command", ["limiter-node", "bench-client"])
def test_a_command_tells_the_wheels_version(wheel: Path, installed: Path, command: str) -> None:
    shown = subprocess.run([str(installed.parent / command), "--version"], capture_output=True, text=True, check=True)
    assert shown.stdout.split()[-1] == wheel.name.split("-")[1]


@pytest.mark.timeout(240)
def test_the_installed_wheel_runs_up_and_a_benchmark(installed: Path, tmp_path: Path) -> None:
    script = "import limiter_node, lua; print(limiter_node.__file__, lua.__file__)"
    found = subprocess.run([str(installed), "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert str(ROOT) not in found.stdout, "the checkout is not what runs"
    scripts = installed.parent
    keys = tmp_path / "bench.toml"
    generate = [str(scripts / "limiter-node"), "keys", "generate", "--count", "5", "--rpm", "20", "--out", str(keys)]
    subprocess.run(generate, check=True, cwd=tmp_path)
    with running_fleet(tmp_path, "--keys", str(keys), program=[str(scripts / "limiter-node")]) as fleet:
        targets = [argument for node in fleet.nodes for argument in ("--target", node)]
        results = str(tmp_path / "results")
        run = [str(scripts / "bench-client"), "run", *targets, "--keys", str(keys)]
        done = subprocess.run(
            [*run, "--qps", "100", "--duration", "3", "--out", results], cwd=tmp_path, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        audit = subprocess.run(
            [str(scripts / "bench-client"), "audit", results], cwd=tmp_path, capture_output=True, text=True
        )
        assert audit.returncode == 0, audit.stdout + audit.stderr
        assert "audit: PROVED" in audit.stdout
