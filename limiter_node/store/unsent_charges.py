"""The charges that a node still has to send. A key has at most one batch under way, so they wait in the key's queue.

Bounded: a charge that has left the window is forgotten, because it no longer counts. A node with very many
charges widens them: later admissions then join a charge of up to `WIDE` buckets before, which moves on with them. A
charge is never counted in an older bucket than it was made in, so it leaves the window late, never early.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from limiter_node.limits import Amounts
from limiter_node.store.batch import KeyQueue
from limiter_node.store.charges import Charge
from limiter_node.store.codec import pack_charge

MANY = 100_000
"""The charges of a node, some 30 MB, from which on it widens them."""
WIDE = 50


class UnsentCharges:
    """The unsent charges of one node, oldest first in each `KeyQueue.charges`; `size` is how many there are in all."""

    def __init__(self, window_buckets: int) -> None:
        self._window_buckets = window_buckets
        self.size = 0

    def charge(self, queue: KeyQueue, bucket: int, needed: Amounts, now_bucket: int) -> Charge:
        """Add an admission of this moment, to be counted in `bucket`. Return the charge that holds it.

        `now_bucket` may be an earlier one: charges that had left the window by then are forgotten.
        """
        charges = queue.charges
        if charges and charges[-1].join(bucket, needed, 1 if self.size < MANY else WIDE):
            return charges[-1]
        charge = Charge(bucket, needed)
        self.add(queue, charge)
        self.forget(queue, now_bucket)
        return charge

    def add(self, queue: KeyQueue, charge: Charge) -> None:
        """Add a charge, to be sent with the key's next batch."""
        _charges_of(queue).append(charge)
        self.size += 1

    def forget(self, queue: KeyQueue, now_bucket: int) -> None:
        """Forget the charges that have left the window."""
        charges, oldest = queue.charges, now_bucket - self._window_buckets
        while charges and charges[0].bucket < oldest:
            charges.popleft().drop()
            self.size -= 1

    def put_back(self, queue: KeyQueue, charges: Iterable[Charge]) -> None:
        """Add charges before all others: they were sent, and the store has not counted them."""
        unsent, taken = _charges_of(queue), list(charges)
        for charge in reversed(taken):
            charge.mark_unsent()
            unsent.appendleft(charge)
        self.size += len(taken)

    def take(self, queue: KeyQueue, most: int) -> tuple[list[bytes], list[tuple[Charge, Amounts]]]:
        """Take the key's first charges, `most` at most. Return them packed, and each with the amounts sent.

        The queue must have some.
        """
        charges = queue.charges
        assert charges is not None
        taken = [charges.popleft() for _ in range(min(most, len(charges)))]
        self.size -= len(taken)
        if not charges:
            queue.charges = None
        operations = [pack_charge(each.bucket, each.requests, each.input_tokens, each.output_tokens) for each in taken]
        return operations, [(each, each.mark_sent()) for each in taken]


def _charges_of(queue: KeyQueue) -> deque[Charge]:
    """Return the deque of a queue's charges, to be added to; most queues never have any."""
    if queue.charges is None:
        queue.charges = deque()
    return queue.charges
