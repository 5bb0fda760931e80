"""`retry-after-ms` is exact: with no other traffic, who waits that long is admitted, who comes 200 ms earlier is not.

All by the store's clock as the answers tell it: where a request came later or earlier than meant, it proves nothing and
the scenario is played again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from aiohttp import ClientSession
from fleet import Fleet, chat, many_connections, running_fleet

WINDOW_MS = 2_000
BUCKET_MS = 100
EARLIER_MS = 200
ATTEMPTS = 20


@pytest.fixture(scope="module")
def short_window(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    arguments = ("--window-ms", str(WINDOW_MS), "--decision-timeout-ms", "20000", "--mock-length", "fixed:1000")
    with running_fleet(tmp_path_factory.mktemp("fleet"), *arguments) as running:
        yield running


# Limits; the requests before, as (words of input, output tokens), each in a bucket of its own; the request that is
# refused; the dimension that frees last.
SCENARIOS: dict[str, tuple[dict[str, int], list[tuple[int, int]], tuple[int, int], str]] = {
    "requests": ({"rpm": 3}, [(1, 1)] * 3, (1, 1), "requests"),
    "input": ({"input_tpm": 100}, [(30, 1)] * 2, (60, 1), "input_tokens"),
    "output": ({"output_tpm": 100}, [(1, 40)] * 2, (1, 50), "output_tokens"),
    "input, all of the window": ({"input_tpm": 100}, [(20, 1)] * 3, (93, 1), "input_tokens"),
    "output, all of the window": ({"output_tpm": 100}, [(1, 30)] * 3, (1, 100), "output_tokens"),
    "requests free first, then output": ({"rpm": 3, "output_tpm": 100}, [(1, 30)] * 3, (1, 60), "output_tokens"),
    "output frees first, then input": (
        {"input_tpm": 100, "output_tpm": 100},
        [(1, 60), (40, 1), (20, 1)],
        (70, 50),
        "input_tokens",
    ),
    "all at once": ({"rpm": 1, "input_tpm": 50, "output_tpm": 50}, [(30, 30)], (30, 30), "requests"),
}


async def ask(session: ClientSession, node: str, api_key: str, words: int, output: int) -> tuple[int, int, Any]:
    """The status of a request of so many tokens, the store's time at its decision, and the headers."""
    response, _ = await chat(session, node, api_key, " the" * words, max_tokens=output)
    return response.status, int(response.headers["x-limiter-time-ms"]), response.headers


async def play(fleet: Fleet, name: str) -> bool:
    """One round: refused; refused again 200 ms too early; admitted in time. False if the machine was too slow."""
    limits, before, (words, output), dimension = SCENARIOS[name]
    api_key = fleet.new_key(**limits)
    first, second = fleet.nodes
    async with many_connections() as session:
        started_ms = 0
        for number, (input_words, output_tokens) in enumerate(before):
            if number:
                await asyncio.sleep(0.3)
            status, time_ms, _ = await ask(session, first, api_key, input_words, output_tokens)
            assert status == 200
            started_ms = started_ms or time_ms
        if time_ms - started_ms > WINDOW_MS - 2 * BUCKET_MS - EARLIER_MS:
            return False

        status, asked_ms, headers = await ask(session, first, api_key, words, output)
        if asked_ms - started_ms > WINDOW_MS - BUCKET_MS - EARLIER_MS:
            return False
        assert (status, headers["x-limiter-exceeded"]) == (429, dimension)
        wait_ms = int(headers["retry-after-ms"])
        assert 0 < wait_ms <= WINDOW_MS + BUCKET_MS
        assert int(headers["retry-after"]) == -(-wait_ms // 1000)
        promised_ms = asked_ms + wait_ms

        await asyncio.sleep((wait_ms - EARLIER_MS) / 1000)
        status, early_ms, headers = await ask(session, second, api_key, words, output)
        if early_ms >= promised_ms:
            return False
        assert status == 429, f"promised for {promised_ms}, admitted at {early_ms}"
        assert early_ms + int(headers["retry-after-ms"]) == promised_ms, "the promise changed though nothing happened"

        await asyncio.sleep(int(headers["retry-after-ms"]) / 1000)
        status, admitted_ms, _ = await ask(session, second, api_key, words, output)
        if admitted_ms < promised_ms:  # a timer may fire a little early
            assert status == 429
            return False
        assert status == 200, f"promised for {promised_ms}, refused at {admitted_ms}"
    return True


async def test_who_waits_is_admitted_and_who_comes_earlier_is_not(short_window: Fleet) -> None:
    async def until_played(name: str) -> bool:
        for _ in range(ATTEMPTS):
            if await play(short_window, name):
                return True
        return False

    played = await asyncio.gather(*map(until_played, SCENARIOS))
    assert all(played), f"not one of {ATTEMPTS} rounds ran as it was meant: {dict(zip(SCENARIOS, played, strict=True))}"
