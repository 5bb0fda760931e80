"""Turns of the event loop for large bodies: one to each, in order, and none lost to whoever leaves."""

from __future__ import annotations

import asyncio

from limiter_node.http.bodies.body_turns import BodyTurns


async def test_each_turn_is_given_to_one_in_order() -> None:
    turns, taken, in_turn = BodyTurns(), list[str](), list[int]()

    async def takes(name: str) -> None:
        for _ in range(3):
            await turns.wait()
            taken.append(name)
            in_turn[-1] += 1

    tasks = [asyncio.create_task(takes(name)) for name in "abcd"]
    while not all(task.done() for task in tasks):
        in_turn.append(0)
        await asyncio.sleep(0)
    assert max(in_turn) == 1
    assert "".join(taken) == "aabcdabcdbcd", "in the order in which they asked"


async def test_who_leaves_while_waiting_keeps_no_turn() -> None:
    turns, taken = BodyTurns(), list[int]()

    async def takes(number: int) -> None:
        await turns.wait()
        taken.append(number)

    await turns.wait()
    tasks = [asyncio.create_task(takes(number)) for number in range(4)]
    await asyncio.sleep(0)
    tasks[1].cancel()
    tasks[3].cancel()
    await asyncio.wait(tasks)
    assert taken == [0, 2]
    async with asyncio.timeout(5):
        await turns.wait()  # nobody has it any more
