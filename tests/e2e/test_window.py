"""The window slides: in real time, over HTTP, on two nodes."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from fleet import many_connections, running_fleet
from full_window import LIMIT, FullWindow, admissions

BUCKET_MS = 100


def assert_slides(times: list[int], limit: int, window_ms: int) -> None:
    spans = [later - earlier for earlier, later in zip(times, times[limit:], strict=False)]
    assert min(spans) >= window_ms, "more than the limit in a window"


async def test_a_short_window_slides(tmp_path: Path) -> None:
    with running_fleet(tmp_path, "--window-ms", "1000", "--decision-timeout-ms", "20000") as fleet:
        by_requests = fleet.new_key(rpm=8)
        by_output = fleet.new_key(output_tpm=60)
        async with many_connections() as session:
            requests, output = await asyncio.gather(
                admissions(session, fleet, by_requests, 40), admissions(session, fleet, by_output, 30)
            )
        assert_slides(requests, 8, 1_000)
        assert_slides(output, 6, 1_000)


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_the_full_window_slides(full_window: FullWindow) -> None:
    """60 s of real time: admissions half a second apart free their places in the same rhythm a minute later."""
    assert full_window.status == 429
    # What is told is exact: the first place frees with its bucket, 60.0 to 60.1 s after it was taken.
    assert full_window.frees_ms == (full_window.times_ms[0] // BUCKET_MS + 601) * BUCKET_MS
    assert len(full_window.times_ms) == LIMIT + 10
    assert_slides(full_window.times_ms, LIMIT, 60_000)
