"""Packages of Node.js that tests use where they are installed: ``npm install --prefix .node openai``, as CI does."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


def node_package(name: str) -> Path:
    """The folder of an installed package, in LIMITER_TEST_NODE_MODULES or `.node`; skips the test if it isn't there."""
    default = Path(__file__).parent.parent / ".node" / "node_modules"
    folder = Path(os.environ.get("LIMITER_TEST_NODE_MODULES", default)) / name
    if not (folder / "package.json").is_file():
        pytest.skip(f"the npm package {name} is not installed: npm install --prefix .node {name}")
    return folder
