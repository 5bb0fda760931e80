"""The fleet that the end-to-end tests share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from fleet import Fleet, running_fleet


@pytest.fixture(scope="session")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """Two nodes on an embedded cluster; use keys of your own. Answers have 1,000 tokens, so every cap is reached."""
    directory = tmp_path_factory.mktemp("fleet")
    with running_fleet(directory, "--mock-length", "fixed:1000", "--decision-timeout-ms", "20000") as running:
        yield running
