"""Settings of the whole suite: a minute of waiting beside all tests, and a collector that passes over the suite itself.

The minute passes once, whichever of pytest's workers asks for its result.
"""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

BESIDE = "full_window"
"""The fixture whose value takes a minute of waiting: its tests are the last, and it begins with the first."""
PROGRAM = Path(__file__).parent / "e2e" / "full_window.py"


def _takes_a_minute(item: pytest.Item) -> bool:
    return BESIDE in getattr(item, "fixturenames", ())


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=_takes_a_minute)


def _pass_over_what_lives() -> None:
    """Keep all that is alive now out of the collector's rounds until the end of the session.

    The thousands of tests and their modules, and whatever else stays for good: trees of our sources, matplotlib. Each
    round would go through up to a million objects, half a second in each test that calls `gc.collect`. What a test
    makes is collected and found as ever.
    """
    gc.collect()
    gc.freeze()


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()
        _pass_over_what_lives()


@pytest.fixture(scope="module", autouse=True)
def pass_over_what_a_module_leaves() -> Iterator[None]:
    yield
    _pass_over_what_lives()


def pytest_sessionfinish() -> None:
    gc.unfreeze()  # pytest looks for what nobody closed


@pytest.fixture(scope="session", autouse=True)
def full_window_file(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The file in which `full_window.py` says what it has seen, once it has; started where a test wants it."""
    folder, worker = tmp_path_factory.getbasetemp(), os.environ.get("PYTEST_XDIST_WORKER")
    file = (folder.parent if worker else folder) / "full-window.json"
    if worker not in (None, "gw0") or not any(_takes_a_minute(item) for item in request.session.items):
        yield file
        return
    process = subprocess.Popen([sys.executable, str(PROGRAM), str(tmp_path_factory.mktemp(BESIDE)), str(file)])
    try:
        yield file
        if worker:  # another worker may still wait for it
            process.wait()
    finally:
        process.terminate()  # it ends what it has started
        process.wait()
