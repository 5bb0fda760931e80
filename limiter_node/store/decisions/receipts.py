"""Receipts: the hold of an admission in the store, until the request has ended and gives it back.

A receipt is opaque to everybody else. It is the bucket in which the store has counted an admission, or the `Charge` of
one that was made without the store. After a loss (`store.decisions.losses`) both refer to the charge made again.
"""

from __future__ import annotations

import asyncio

from limiter_node.decisions import Receipt
from limiter_node.limits import Amounts
from limiter_node.store.batch import KeyQueue
from limiter_node.store.charges import Charge
from limiter_node.store.codec import pack_settle
from limiter_node.store.decisions.linger import LingeringSettles
from limiter_node.store.decisions.queues import KeyQueues
from limiter_node.store.decisions.schedule import Schedule
from limiter_node.store.unsent_charges import UnsentCharges


class Receipts:
    """Take receipts back, for one node."""

    def __init__(self, queues: KeyQueues, charges: UnsentCharges, linger: LingeringSettles, schedule: Schedule) -> None:
        self._loop = asyncio.get_running_loop()
        self._queues, self._charges, self._linger, self._schedule = queues, charges, linger, schedule.add

    def give_back(self, kid: str, receipt: Receipt, input_tokens: int, output_tokens: int) -> None:
        """Give back tokens of a request that was admitted with that receipt; negative numbers add.

        The tokens join the key's next batch, or start one.
        """
        queue = self._queues[kid]
        knowledge = queue.knowledge
        if receipt.__class__ is int and knowledge.recharges is None:  # usually: counted by the store, and never lost
            knowledge.own.give_back(receipt, input_tokens, output_tokens)
            self.settle(queue, receipt, input_tokens, output_tokens)
        else:
            self.take_back(queue, receipt, input_tokens, output_tokens)

    def take_back(
        self, queue: KeyQueue, receipt: Receipt, input_tokens: int, output_tokens: int, requests: int = 0
    ) -> None:
        """Give back where the receipt is counted now, including `requests` whose callers were refused."""
        charge = receipt if isinstance(receipt, Charge) else None
        bucket = receipt if isinstance(receipt, int) else charge.bucket if charge is not None else 0
        knowledge = queue.knowledge
        knowledge.own.give_back(bucket, input_tokens, output_tokens, requests)
        if (charge is None or charge.is_counted) and (recharged := knowledge.recharged(bucket)) is not None:
            charge = recharged
        if charge is None:
            self.settle(queue, bucket, input_tokens, output_tokens, requests)
        elif charge.give_back(input_tokens, output_tokens, requests):
            self.settle(queue, charge.counted_in, input_tokens, output_tokens, requests)
        else:
            self._queues.drop_unmet(queue)

    def settle(self, queue: KeyQueue, bucket: int, input_tokens: int, output_tokens: int, requests: int = 0) -> None:
        """Give back in the store, after the node's own window has; negative numbers charge."""
        if input_tokens < 0 or output_tokens < 0:
            # A charge, as for usage admitted elsewhere: if the store loses it, the node notices and charges again.
            self._charges.add(queue, Charge(bucket, Amounts(0, max(-input_tokens, 0), max(-output_tokens, 0))))
            input_tokens, output_tokens = max(input_tokens, 0), max(output_tokens, 0)
            if not (input_tokens or output_tokens or requests):
                if queue.in_flight is None and not queue.is_scheduled:
                    self._schedule(queue)
                return
        queue.settles.append(pack_settle(bucket, input_tokens, output_tokens, requests))
        if queue.in_flight is None and not queue.is_scheduled:
            if self._linger.is_busy and self._linger.add(queue, input_tokens, output_tokens, self._loop.time()):
                return
            self._schedule(queue)
