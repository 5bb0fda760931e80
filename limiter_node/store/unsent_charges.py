"""The charges that a node still has to send. A key has at most one batch under way, so they wait in the key's queue.

Bounded: a charge that has left the window is forgotten, because it no longer counts. A node with very many
charges widens them: later admissions then join a charge of up to `WIDE` buckets before, which moves on with them. A
charge is never counted in an older bucket than it was made in, so it leaves the window late, never early. Charges of an
account may count for a month: beyond `MOST`, no further ones are made, and requests are refused instead.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable

from limiter_node.limits import Amounts
from limiter_node.store.batch import SendQueue
from limiter_node.store.charges import Charge

MANY = 100_000
"""The charges of a node, some 30 MB, from which on it widens them."""
WIDE = 50
MOST = 300_000
"""The charges of a node from which on requests of accounts are refused while the store is away."""

HasRoom = Callable[[Charge], bool]


class UnsentCharges:
    """The unsent charges of one node, oldest first in each `SendQueue.charges`; `size` is how many there are in all."""

    def __init__(self, window_buckets: int) -> None:
        self._window_buckets = window_buckets
        self.size = 0

    def charge(self, queue: SendQueue, charge: Charge, now_bucket: int) -> Charge:
        """Add the charge of an admission of this moment. Return the charge that holds it: it may join an earlier one.

        `now_bucket` may be earlier than the charge's bucket: charges that had left the window by then are forgotten.
        """
        joined = queue.join(charge, 1 if self.size < MANY else WIDE)
        if joined is not None:
            return joined
        self.add(queue, charge)
        self.forget(queue, now_bucket)
        return charge

    def is_full_for(self, queue: SendQueue) -> bool:
        """Whether a queue can't have one more charge."""
        return self.size >= MOST and queue.keeps_charges

    def add(self, queue: SendQueue, charge: Charge) -> None:
        """Add a charge, to be sent with the key's next batch."""
        _charges_of(queue).append(charge)
        self.size += 1

    def forget(self, queue: SendQueue, now_bucket: int) -> None:
        """Forget the charges that have left the window."""
        charges = queue.charges
        while charges and charges[0].has_left(now_bucket, self._window_buckets):
            charges.popleft().drop()
            self.size -= 1

    def drop_all(self, queue: SendQueue) -> None:
        """Forget all charges of a queue: they will never be counted."""
        self.size -= len(queue.charges or ())
        for charge in queue.charges or ():
            charge.drop()
        queue.charges = None

    def put_back(self, queue: SendQueue, charges: Iterable[Charge]) -> None:
        """Add charges before all others: they were sent, and the store has not counted them."""
        unsent, taken = _charges_of(queue), list(charges)
        for charge in reversed(taken):
            charge.mark_unsent()
            unsent.appendleft(charge)
        self.size += len(taken)

    def take(self, queue: SendQueue, most: int, has_room: HasRoom = lambda _: True) -> list[tuple[Charge, Amounts]]:
        """Take the queue's first charges, `most` at most, as long as `has_room`. Return each with the amounts sent."""
        charges = queue.charges
        taken: list[tuple[Charge, Amounts]] = []
        while charges and len(taken) < most and has_room(charges[0]):
            charge = charges.popleft()
            taken.append((charge, charge.mark_sent()))
        self.size -= len(taken)
        if not charges:
            queue.charges = None
        return taken


def _charges_of(queue: SendQueue) -> deque[Charge]:
    """Return the deque of a queue's charges, to be added to; most queues never have any."""
    if queue.charges is None:
        queue.charges = deque()
    return queue.charges
