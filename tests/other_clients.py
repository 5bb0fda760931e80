"""Clients that tests ask nodes with where they are installed: `make setup-clients`, as CI does."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

_ROOT = Path(__file__).parent.parent


def node_package(name: str) -> Path:
    """The folder of an installed npm package, in LIMITER_TEST_NODE_MODULES or `.node`; skips the test without it."""
    folder = Path(os.environ.get("LIMITER_TEST_NODE_MODULES", _ROOT / ".node" / "node_modules")) / name
    if not (folder / "package.json").is_file():
        pytest.skip(f"the npm package {name} is not installed: make setup-clients")
    return folder


def node_program() -> str:
    """The path of Node.js; skips the test if it isn't there."""
    if (program := shutil.which("node")) is None:
        pytest.skip("no Node.js on this machine")
    return program


def clients_python(package: str) -> Path:
    """The interpreter of `.clients`, or LIMITER_TEST_CLIENTS; skips the test if that folder lacks the package."""
    folder = Path(os.environ.get("LIMITER_TEST_CLIENTS", _ROOT / ".clients"))
    if not list(folder.glob(f"lib/python3.*/site-packages/{package}/__init__.py")):
        pytest.skip(f"the Python package {package} is not installed: make setup-clients")
    return folder / "bin" / "python"
