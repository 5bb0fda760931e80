"""Large requests don't hold up the others of their node."""

from __future__ import annotations

import asyncio
import random

from fleet import Fleet, chat, many_connections

from limiter_node.tokens import vocabulary

LARGE_CHARS = 1_000_000


def noise(seed: int) -> str:
    """The text that takes the longest known to count, among ASCII; nothing in it needs to be escaped."""
    alphabet = [chr(code) for code in range(32, 127) if chr(code) not in '"\\']
    return "".join(random.Random(seed).choices(alphabet, k=LARGE_CHARS))


async def test_others_are_answered_while_a_large_request_is_counted(fleet: Fleet) -> None:
    """By the order of answers, not by time: several rounds of a small request fit into one large one."""
    api_key, node = fleet.new_key(output_tpm=1_000_000, input_tpm=4_000_000), fleet.nodes[0]
    content = noise(1)
    async with many_connections() as session:
        large = asyncio.create_task(chat(session, node, api_key, content, max_tokens=1))
        answered = 0
        while not large.done():
            response, _ = await chat(session, node, api_key, max_tokens=1)
            assert response.status == 200
            answered += 1
        response, body = await large
    assert response.status == 200
    usage = body["usage"]
    assert isinstance(usage, dict)
    assert usage["prompt_tokens"] == 7 + vocabulary.counter_of(vocabulary.O200K_BASE)(content)
    assert answered >= 5


async def test_a_large_request_that_comes_again_is_not_counted_again(fleet: Fleet) -> None:
    api_key = fleet.new_key(input_tpm=4_000_000)
    content = noise(2)
    async with many_connections() as session:
        counts = []
        for node in (*fleet.nodes, *fleet.nodes):
            response, body = await chat(session, node, api_key, content, max_tokens=1)
            assert response.status == 200
            counts.append(body["usage"])
    assert counts[1:] == counts[:-1]
