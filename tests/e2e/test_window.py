"""The window slides: in real time, over HTTP, on two nodes."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import pytest
from aiohttp import ClientSession
from fleet import Fleet, chat, many_connections, running_fleet

BUCKET_MS = 100


async def admissions(session: ClientSession, fleet: Fleet, api_key: str, count: int) -> list[int]:
    """The store's times of `count` admissions of a client that asks as soon as it is told to; nodes at random."""
    chooser, times, promised_ms = random.Random(2), [], 0
    while len(times) < count:
        response, _ = await chat(session, chooser.choice(fleet.nodes), api_key, max_tokens=10)
        time_ms = int(response.headers["x-limiter-time-ms"])
        if response.status == 200:
            times.append(time_ms)
            promised_ms = 0
        else:
            # Nobody else uses the key, so a client that has waited as long as told is admitted.
            assert not promised_ms or time_ms < promised_ms, f"rejected again at {time_ms}, promised {promised_ms}"
            wait_ms = int(response.headers["retry-after-ms"])
            promised_ms = time_ms + wait_ms
            await asyncio.sleep(wait_ms / 1000)
    return times


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
async def test_the_full_window_slides(fleet: Fleet) -> None:
    """60 s of real time: admissions half a second apart free their places in the same rhythm a minute later."""
    limit = 30
    api_key = fleet.new_key(rpm=limit)
    async with many_connections() as session:
        times = []
        for _ in range(limit):
            times += await admissions(session, fleet, api_key, 1)
            await asyncio.sleep(0.5)
        response, _ = await chat(session, fleet.nodes[0], api_key)
        assert response.status == 429
        # What is told is exact: the first place frees with its bucket, 60.0 to 60.1 s after it was taken.
        frees_ms = int(response.headers["x-limiter-time-ms"]) + int(response.headers["retry-after-ms"])
        assert frees_ms == (times[0] // BUCKET_MS + 601) * BUCKET_MS
        times += await admissions(session, fleet, api_key, 10)
    assert_slides(times, limit, 60_000)
