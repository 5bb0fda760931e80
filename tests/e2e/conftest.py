"""The fleet that the end-to-end tests share, and what was seen beside them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from fleet import Fleet, running_fleet
from full_window import GIVE_UP_S, FullWindow


@pytest.fixture
def full_window(full_window_file: Path) -> FullWindow:
    """A window of 60 s as it was seen, by a process that began with the first test."""
    until_s = time.monotonic() + GIVE_UP_S
    while not full_window_file.exists() and time.monotonic() < until_s:
        time.sleep(0.1)
    return FullWindow.read(full_window_file)


@pytest.fixture(scope="session")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """Two nodes on an embedded cluster; use keys of your own. Answers have 1,000 tokens, so every cap is reached."""
    directory = tmp_path_factory.mktemp("fleet")
    with running_fleet(directory, "--mock-length", "fixed:1000", "--decision-timeout-ms", "20000") as running:
        yield running
