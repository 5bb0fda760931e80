"""Exactness over HTTP: real nodes racing on one key, to the request and to the token."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest
from fleet import Fleet, chat, many_connections, rate_limits
from store_tools import raw_counters

from limiter_node.credentials import key_id

WORD = " hello"  # one token with its space


async def race(fleet: Fleet, api_key: str, requests: Sequence[dict[str, Any]]) -> list[tuple[Any, dict[str, Any]]]:
    """All requests at once, on nodes at random, each on a connection of its own."""
    chooser = random.Random(1)
    async with many_connections() as session:
        return await asyncio.gather(
            *(chat(session, chooser.choice(fleet.nodes), api_key, **request) for request in requests)
        )


async def test_requests_are_admitted_to_the_limit_exactly(fleet: Fleet) -> None:
    api_key = fleet.new_key(rpm=100)
    answers = await race(fleet, api_key, [{"max_tokens": 5}] * 400)
    assert Counter(response.status for response, _ in answers) == {200: 100, 429: 300}
    assert {response.headers["x-limiter-node"] for response, _ in answers} == {"1", "2"}
    rejected = [response for response, _ in answers if response.status == 429]
    assert {response.headers["x-limiter-exceeded"] for response in rejected} == {"requests"}
    remaining = sorted(
        int(response.headers["x-ratelimit-remaining-requests"]) for response, _ in answers if response.status == 200
    )
    assert remaining == list(range(100)), "each admission took one, and told what it left"


async def test_input_tokens_are_admitted_to_the_limit_exactly(fleet: Fleet) -> None:
    tokens = (await race(fleet, fleet.new_key(), [{"max_tokens": 1}]))[0][1]["usage"]["prompt_tokens"]
    api_key = fleet.new_key(input_tpm=60 * tokens + tokens - 1)
    answers = await race(fleet, api_key, [{"max_tokens": 5}] * 300)
    assert Counter(response.status for response, _ in answers) == {200: 60, 429: 240}
    assert {r.headers["x-limiter-exceeded"] for r, _ in answers if r.status == 429} == {"input_tokens"}


async def test_output_tokens_are_admitted_to_the_limit_exactly(fleet: Fleet) -> None:
    api_key = fleet.new_key(output_tpm=50 * 20 + 19)
    answers = await race(fleet, api_key, [{"max_tokens": 20}] * 300)
    assert Counter(response.status for response, _ in answers) == {200: 50, 429: 250}
    assert {r.headers["x-limiter-exceeded"] for r, _ in answers if r.status == 429} == {"output_tokens"}
    assert {b["usage"]["completion_tokens"] for r, b in answers if r.status == 200} == {20}


@pytest.mark.parametrize("seed", range(3))
async def test_mixed_sizes_fill_the_limits_without_passing_them(fleet: Fleet, seed: int) -> None:
    rng = random.Random(seed)
    limits = {"requests": 150, "input_tokens": 6_000, "output_tokens": 3_000}
    api_key = fleet.new_key(rpm=150, input_tpm=6_000, output_tpm=3_000)
    requests = [
        {"content": WORD * rng.choice((1, 10, 100, 400)), "max_tokens": rng.choice((1, 7, 30, 150))} for _ in range(400)
    ]
    answers = await race(fleet, api_key, requests)
    admitted = [body["usage"] for response, body in answers if response.status == 200]
    used = {
        "requests": len(admitted),
        "input_tokens": sum(usage["prompt_tokens"] for usage in admitted),
        "output_tokens": sum(usage["completion_tokens"] for usage in admitted),
    }
    assert all(used[dimension] <= limits[dimension] for dimension in limits)
    async with many_connections() as session:
        # Every answer reaches its cap, so nothing is given back and usage only grows.
        told = await rate_limits(session, fleet.nodes[0], api_key)
        assert told["used"] == used
        assert told["limits"] == limits
        assert told["remaining"] == {dimension: limits[dimension] - used[dimension] for dimension in limits}
        assert (await rate_limits(session, fleet.nodes[1], api_key))["used"] == used
    # Usage only grew, so each that was rejected doesn't fit what is left now in the dimension it was told.
    for (response, body), request in zip(answers, requests, strict=True):
        if response.status == 429:
            dimension = response.headers["x-limiter-exceeded"]
            need = {
                "requests": 1,
                "input_tokens": int(body["error"]["message"].partition("Requested ")[2].partition(".")[0]),
                "output_tokens": request["max_tokens"],
            }[dimension]
            assert used[dimension] + need > limits[dimension]


async def test_what_was_reserved_and_not_produced_comes_back(fleet: Fleet) -> None:
    api_key = fleet.new_key(output_tpm=5_000)
    async with many_connections() as session:
        # Answers have 1,000 tokens: of 3,000 reserved 2,000 come back, so four more fit than without settling.
        for expected in (1_000, 2_000, 3_000):
            response, body = await chat(session, fleet.nodes[0], api_key, max_tokens=2_500)
            assert response.status == 200
            assert body["usage"]["completion_tokens"] == 1_000
            assert response.headers["x-limiter-reserved-output"] == "2500"
            async with asyncio.timeout(10):
                while (await rate_limits(session, fleet.nodes[1], api_key))["used"]["output_tokens"] != expected:
                    pass
        response, _ = await chat(session, fleet.nodes[0], api_key, max_tokens=2_500)
        assert response.status == 429
        response, body = await chat(session, fleet.nodes[0], api_key, n=2, max_tokens=1_000)
        assert response.status == 200
        assert body["usage"]["completion_tokens"] == 2_000
        assert len(body["choices"]) == 2


async def test_rejected_requests_leave_the_counters_byte_identical(fleet: Fleet) -> None:
    api_key = fleet.new_key(rpm=5, output_tpm=100)
    await race(fleet, api_key, [{"max_tokens": 10}] * 5)
    before = raw_counters(fleet.store, key_id(api_key))
    answers = await race(fleet, api_key, [{"max_tokens": 10}, {"max_tokens": 90}, {"max_tokens": 101}] * 50)
    assert {response.status for response, _ in answers} == {429}
    assert raw_counters(fleet.store, key_id(api_key)) == before


async def test_a_429_says_what_to_do(fleet: Fleet) -> None:
    api_key = fleet.new_key(rpm=2, input_tpm=500, output_tpm=1_000, name="alice")
    async with many_connections() as session:
        await chat(session, fleet.nodes[0], api_key, max_tokens=10)
        await chat(session, fleet.nodes[1], api_key, max_tokens=10)
        response, body = await chat(session, fleet.nodes[0], api_key, max_tokens=10)
        assert response.status == 429
        wait_ms = int(response.headers["retry-after-ms"])
        assert 50_000 < wait_ms <= 60_100
        assert int(response.headers["retry-after"]) == min(-(-wait_ms // 1000), 60)
        error: Any = body["error"]
        assert error["code"] == "rate_limit_exceeded"
        assert error["type"] == "requests"
        assert error["message"].startswith(
            "Rate limit reached for alice on requests per min (RPM): Limit 2, Used 2, Requested 1. Please try again in "
        )
        response, body = await chat(session, fleet.nodes[0], api_key, max_tokens=1_001)
        assert response.status == 429
        assert response.headers["x-should-retry"] == "false"
        assert "retry-after" not in response.headers
        assert "retry-after-ms" not in response.headers
        error = body["error"]
        assert error["type"] == "tokens"
        assert error["message"] == (
            "Request too large for alice on output tokens per min (output TPM): Limit 1000, Requested 1001."
        )
