"""Faults of the fleet: nodes die, and nodes are told that they are more or fewer than they are. As in `faults`."""

from __future__ import annotations

import asyncio

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
