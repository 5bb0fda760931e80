"""Faults of the fleet, as in `faults`: nodes die, stand still, or are told that there are more or fewer of them."""

from __future__ import annotations

import asyncio
import time

from .records import clock_ms
from .scene import Scene


async def death(scene: Scene) -> None:
    """A node dies without draining, and another takes its place."""
    async with scene.store.commands:  # a new node has to find its store once, as it does in life
        await scene.replace_node(scene.rng.randrange(len(scene.nodes)))


async def miscount(scene: Scene) -> None:
    """Nodes are told that they are more or fewer than they are, or as many again."""
    record, rng = scene.record, scene.rng
    for _ in range(rng.choice((1, 1, 3))):
        nodes = rng.choice((record.nodes, rng.randint(1, record.nodes + 3)))
        record.sharing.change(clock_ms(), nodes)
        record.note(f"limits are shared by {nodes} nodes")
        await asyncio.sleep(rng.uniform(0.0, 0.3))


async def stand_still(scene: Scene) -> None:
    """All nodes stand still, as on a machine that has no time for them; the store goes on."""
    rng = scene.rng
    for _ in range(rng.choice((1, 1, 5))):
        length_s = rng.choice((0.05, 0.12, 0.3, rng.uniform(0.5, 1.3) * scene.window_s))
        scene.record.note(f"the nodes stand still for {length_s:.2f} s")
        time.sleep(length_s)  # noqa: ASYNC251 on purpose: nothing of this process runs
        await asyncio.sleep(rng.uniform(0.0, 0.2))
