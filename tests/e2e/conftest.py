"""The fleet that the end-to-end tests share, and what runs beside them."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from fleet import Fleet, running_fleet
from full_window import GIVE_UP_S, FullWindow

BESIDE = "full_window"
"""The fixture whose value takes a minute of waiting: its tests are the last, and it begins with the first."""

_running: list[subprocess.Popen[str]] = []


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: BESIDE in getattr(item, "fixturenames", ()))


def pytest_collection_finish(session: pytest.Session) -> None:
    wanted = any(BESIDE in getattr(item, "fixturenames", ()) for item in session.items)
    if wanted and not session.config.option.collectonly:
        directory = tempfile.TemporaryDirectory()
        session.config.add_cleanup(directory.cleanup)
        program = [sys.executable, str(Path(__file__).with_name("full_window.py")), directory.name]
        _running.append(subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))


def pytest_sessionfinish() -> None:
    for process in _running:
        if process.poll() is None:
            process.terminate()  # it ends what it has started
            process.communicate()


@pytest.fixture
def full_window() -> FullWindow:
    """A window of 60 s as it was seen."""
    (process,) = _running
    output, errors = process.communicate(timeout=GIVE_UP_S)
    assert process.returncode == 0, errors
    return FullWindow(*json.loads(output))


@pytest.fixture(scope="session")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """Two nodes on an embedded cluster; use keys of your own. Answers have 1,000 tokens, so every cap is reached."""
    directory = tmp_path_factory.mktemp("fleet")
    with running_fleet(directory, "--mock-length", "fixed:1000", "--decision-timeout-ms", "20000") as running:
        yield running
