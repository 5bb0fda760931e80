"""Losses of the store: what this node had admitted is charged again before anything else of the key is decided.

`store.knowledge` says what of it has to be, `store.outage.outage` owes it, `store.decisions.replies` is told of losses.
"""

from __future__ import annotations

import asyncio
import logging

from limiter_node.limits import bucket_life_ms
from limiter_node.store import codec
from limiter_node.store.batch import Batch
from limiter_node.store.outage.outage import Outage

log = logging.getLogger(__name__)

_TELL_EVERY_S = 60.0


class Losses:
    """Make good for what the store has lost, for one node."""

    def __init__(self, outage: Outage, window_buckets: int) -> None:
        self._loop = asyncio.get_running_loop()
        self._outage = outage
        self._window_s = bucket_life_ms(window_buckets) / 1000
        self._told_s = float("-inf")
        self.recharged = 0
        """How often a window was charged again."""

    def lost(self, batch: Batch, recorded: int) -> None:
        """The store has lost what it had counted of a key after this node's batch `recorded`, and has not run `batch`.

        It is told what this node had admitted since, and asked again. What was to be given back of that is taken off
        already; what is given back of it later goes to where it is counted then.
        """
        queue = batch.queue
        self._outage.not_run(batch)
        recharged, lost = queue.knowledge.lose(recorded, queue.owed or ())
        for charge in recharged:
            self._outage.owe(queue, charge)
        # What waits to be given back of a cell that was lost must not be taken off what is in its bucket by then; it is
        # taken off what is charged anew already. The rest is still to be sent.
        cell_of = queue.knowledge.own.cell_of
        queue.settles = [each for each in queue.settles if cell_of(codec.settled_bucket(each)) not in lost]
        if recharged:
            self.recharged += 1
            self._loop.call_later(self._window_s, queue.knowledge.forget_recharges)  # many, of use for a window alone
            self._tell()

    def _tell(self) -> None:
        if self._loop.time() - self._told_s > _TELL_EVERY_S:
            self._told_s = self._loop.time()
            log.warning(
                "the store has lost what was counted: nodes charge what they had admitted themselves",
                extra={"event": "store_lost_counts"},
            )
