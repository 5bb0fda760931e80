"""A charge: usage that was admitted without the store and has to be counted there later.

A charge belongs to one bucket of one key. Until it is sent its amounts may change: admissions of the same bucket join
it, settles lessen it. Tokens that are given back after that wait until the store has replied, and then go as a settle
of the bucket in which the store has counted the charge. So each admission is counted once, in one bucket, and ends at
what it produced. Neighbours: `store.unsent_charges` keeps charges until they are sent, `store.batch` carries them.
"""

from __future__ import annotations

from enum import Enum, auto
from itertools import count

from limiter_node.decisions import Receipt
from limiter_node.limits import Amounts

number_of_loss = count(1).__next__
"""Return the number of a loss of the store that is noticed now: higher than all before."""


class _State(Enum):
    UNSENT = auto()
    """As far as the node knows, the store has not counted the charge."""
    SENT = auto()
    COUNTED = auto()
    DROPPED = auto()
    """The charge will never be counted."""


class Charge:
    """Hold the usage of `bucket`, a bucket of the node's own window; settles lessen the amounts.

    `counted_in`: the bucket in which the store has counted the charge. It is another one if the node didn't know the
    store's clock for sure, or if the store has admitted the request later than the node.
    """

    __slots__ = (
        "_since",
        "_state",
        "bucket",
        "counted_in",
        "input_tokens",
        "losses",
        "output_tokens",
        "requests",
        "successor",
    )

    def __init__(self, bucket: int, needed: Amounts) -> None:
        self.bucket = self.counted_in = self._since = bucket
        self.requests, self.input_tokens, self.output_tokens = needed
        self._state = _State.UNSENT
        self.losses = 0
        """The number of the last loss at which the charge was unsent, or for which it was made; 0 if there was none."""
        self.successor: Charge | None = None
        """The charge that took its place when its key became an account of its own; usually None."""

    def absorb(self, other: Charge, width: int) -> bool:
        """Add a new charge to this one if it is unsent and less than `width` buckets older. Return whether it did."""
        if self._state is not _State.UNSENT or not 0 <= other.bucket - self._since < width:
            return False
        self.bucket = max(self.bucket, other.bucket)
        self.requests += other.requests
        self.input_tokens += other.input_tokens
        self.output_tokens += other.output_tokens
        return True

    def has_left(self, now_bucket: int, window_buckets: int) -> bool:
        """Whether the charge has left a window of `window_buckets` buckets by `now_bucket`."""
        return self.bucket < now_bucket - window_buckets

    @property
    def amounts(self) -> Amounts:
        """The requests and tokens that the charge holds now."""
        return Amounts(self.requests, self.input_tokens, self.output_tokens)

    @property
    def is_counted(self) -> bool:
        """Whether the store has counted the charge."""
        return self._state is _State.COUNTED

    @property
    def receipt(self) -> Receipt:
        """The hold of its admissions, once the store has counted it."""
        return self.counted_in

    @property
    def held_in(self) -> int:
        """The bucket of the node's own window that holds its admissions now."""
        return self.counted_in if self._state is _State.COUNTED else self.bucket

    @property
    def since(self) -> int:
        """The first bucket whose admissions the charge holds; the last one is `bucket`."""
        return self._since

    def give_back(self, input_tokens: int, output_tokens: int, requests: int = 0) -> bool:
        """Subtract amounts. If the store has counted the charge, return True instead: settle them in `counted_in`."""
        if self._state is _State.COUNTED:
            return True
        self.requests = max(self.requests - requests, 0)
        self.input_tokens = max(self.input_tokens - input_tokens, 0)
        self.output_tokens = max(self.output_tokens - output_tokens, 0)
        return False

    def mark_sent(self) -> Amounts:
        """Note that the charge is sent. Return the amounts sent."""
        self._state = _State.SENT
        return self.amounts

    def mark_counted(self, bucket: int, amounts: Amounts) -> Amounts:
        """Note that the store has counted `amounts` in `bucket`. Return the part of them to give back there."""
        self._state = _State.COUNTED
        self.counted_in = bucket
        requests, input_tokens, output_tokens = amounts
        return Amounts(requests - self.requests, input_tokens - self.input_tokens, output_tokens - self.output_tokens)

    def mark_unsent(self) -> None:
        """Note that the store has not counted the charge although it was sent."""
        self._state = _State.UNSENT

    def drop(self) -> None:
        """Note that the charge will never be counted."""
        self._state = _State.DROPPED
