"""Losses of the store: this node charges its own admissions again before anything else of the key is decided.

`store.knowledge` says what has to be charged, `store.unsent_charges` keeps it, `store.decisions.replies` finds losses.
"""

from __future__ import annotations

import asyncio
import logging

from limiter_node.limits import bucket_life_ms
from limiter_node.store.batch import Batch, SendQueue
from limiter_node.store.decisions.reconciliation import Reconciliation
from limiter_node.store.unsent_charges import UnsentCharges

log = logging.getLogger(__name__)

_LOG_EVERY_S = 60.0


class Losses:
    """Charge again what the store has lost, for one node."""

    def __init__(self, reconciliation: Reconciliation, charges: UnsentCharges, window_buckets: int) -> None:
        self._loop = asyncio.get_running_loop()
        self._reconciliation, self._charges = reconciliation, charges
        self._window_s = bucket_life_ms(window_buckets) / 1000
        self._logged_s = float("-inf")
        self.recharged = 0
        """The number of windows charged again."""

    def on_loss(self, batch: Batch, recorded: int) -> None:
        """Charge again what the store has lost of a key: all after this node's batch `recorded`. `batch` has not run.

        The key's next batch charges what this node admitted since then, and asks again. Tokens given back so far are
        already subtracted; those given back later are settled in the bucket that counts them by then.
        """
        queue = batch.queue
        self._reconciliation.on_not_run(batch)
        recharged = queue.lose(recorded)
        for charge in recharged:
            self._charges.add(queue, charge)
        if recharged:
            self.recharged += 1
            self._forget_later(queue)
            self._log()

    def _forget_later(self, queue: SendQueue) -> None:
        """Forget the recharges once they have left their windows: there may be many, each of use for one window."""

        def forget() -> None:
            if queue.forget_recharges():
                self._forget_later(queue)

        self._loop.call_later(self._window_s, forget)

    def _log(self) -> None:
        if self._loop.time() - self._logged_s > _LOG_EVERY_S:
            self._logged_s = self._loop.time()
            log.warning(
                "the store has lost counts: each node charges again what it had admitted",
                extra={"event": "store_lost_counts"},
            )
