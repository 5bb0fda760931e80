"""When an admission is held, and how much it holds, as the judge sees it."""

from __future__ import annotations

from .records import Op, Triple, least


def enters_ms(op: Op) -> int:
    """Return the time from which on it is held: a node's own decision was over when it was told."""
    return int(op.told_ms) if op.degraded else op.time_ms


def leaves_ms(op: Op, window_ms: int) -> int:
    """Return the first time at which no window holds it: a node's own decision was not before it was asked."""
    return (int(op.asked_ms) if op.degraded else op.time_ms) + window_ms + 1


def is_sure(op: Op, window_ms: int) -> bool:
    """Return whether some window is sure to hold it.

    None is where a node decided alone and its process stood still, so that it told this more than a window's length
    after it was asked.
    """
    return leaves_ms(op, window_ms) > enters_ms(op)


def holds(op: Op, at_ms: float) -> Triple:
    """Return what it holds at a time; a settle may be of the admission's own millisecond."""
    return least(op.need, op.settled) if op.settled_ms is not None and int(op.settled_ms) <= at_ms else op.need
