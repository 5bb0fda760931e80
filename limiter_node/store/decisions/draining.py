"""Waits until everything that a node has sent to the store has been decided, when the node stops."""

from __future__ import annotations

import asyncio

from limiter_node.store.decisions.forwarding import Forwarding
from limiter_node.store.decisions.linger import LingeringSettles
from limiter_node.store.decisions.schedule import Schedule
from limiter_node.store.decisions.sweeper import SWEEP_EVERY_S
from limiter_node.store.outage.outage import Outage


async def drain(
    schedule: Schedule, linger: LingeringSettles, outage: Outage, forwarding: Forwarding, timeout_s: float
) -> bool:
    """Wait until nothing waits and no batch is under way. Return False if `timeout_s` passes first."""
    try:
        async with asyncio.timeout(timeout_s):
            quiet = schedule.quiet
            while linger or outage.holds_any or forwarding.is_busy or not quiet.is_set():
                linger.release_all()
                if (outage.holds_any or forwarding.is_busy) and quiet.is_set():
                    await asyncio.sleep(SWEEP_EVERY_S)
                await quiet.wait()
    except TimeoutError:
        return False
    return True
