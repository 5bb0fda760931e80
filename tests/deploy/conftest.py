"""The fleet that the tests of deploy/ share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from fleet import Fleet, running_fleet


@pytest.fixture(scope="session")
def streaming_fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """Two nodes on a single store. Answers have 20 tokens; streams begin after a silence, take two seconds and fit any
    buffer. A node that is told to stop goes on for longer than a balancer's checks take to notice."""
    with running_fleet(
        tmp_path_factory.mktemp("streaming"), "--store", "single", "--mock-length", "fixed:20",
        "--mock-tokens-per-s", "15", "--mock-ttft-ms", "700", "--decision-timeout-ms", "20000",
        "--drain-delay", "2",
    ) as running:  # fmt: skip
        yield running
