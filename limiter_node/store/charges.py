"""What was admitted without the store and has to be counted there later: charges, and what is given back of them.

A charge belongs to one bucket of one key. Until it is sent its amounts may change: admissions of the same bucket join
it, settles lessen it. What is given back after that waits until the store has answered and then goes as a settle of
the bucket in which the store has counted it. So each admission is counted once, in one bucket, and ends at what it
produced.

Bounded: what has left the window is forgotten, for it would count for nothing. A node that owes many charges widens
them: later admissions then join a charge of up to `WIDE` buckets before, which moves on with them. A charge is never
counted in an older bucket than it was made in, so it leaves the window late, never early.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from enum import Enum, auto

from limiter_node.limits import Amounts
from limiter_node.store.codec import pack_charge

MANY = 100_000
"""Charges of a whole node: some 30 MB."""
WIDE = 50


class _State(Enum):
    OWED = auto()
    """Nothing of it is in the store, as far as anybody knows."""
    SENT = auto()
    COUNTED = auto()
    GONE = auto()


class Charge:
    """Usage of `bucket`, by the node's own window. `input_tokens` and `output_tokens` are what it holds by now.

    `counted_in` is the bucket in which the store has counted it: a later one, where the store decided later.
    """

    __slots__ = ("_since", "_state", "bucket", "counted_in", "input_tokens", "output_tokens", "requests")

    def __init__(self, bucket: int, needed: Amounts) -> None:
        self.bucket = self.counted_in = self._since = bucket
        self.requests, self.input_tokens, self.output_tokens = needed
        self._state = _State.OWED

    def joined(self, bucket: int, needed: Amounts, width: int) -> bool:
        """Add an admission of `bucket` if this is a charge for it, too: it is still owed, and less than `width`
        older."""
        if self._state is not _State.OWED or not 0 <= bucket - self._since < width:
            return False
        self.bucket = max(self.bucket, bucket)
        self.requests += needed[0]
        self.input_tokens += needed[1]
        self.output_tokens += needed[2]
        return True

    @property
    def amounts(self) -> Amounts:
        """Return the requests and tokens that it holds by now."""
        return Amounts(self.requests, self.input_tokens, self.output_tokens)

    @property
    def is_counted(self) -> bool:
        """Whether the store has counted it."""
        return self._state is _State.COUNTED

    @property
    def since(self) -> int:
        """The first bucket whose admissions it holds; the last one is `bucket`."""
        return self._since

    def give_back(self, input_tokens: int, output_tokens: int, requests: int = 0) -> bool:
        """Lessen it; True if the store has counted it, so that it has to be told by a settle of `counted_in`."""
        if self._state is _State.COUNTED:
            return True
        self.requests = max(self.requests - requests, 0)
        self.input_tokens = max(self.input_tokens - input_tokens, 0)
        self.output_tokens = max(self.output_tokens - output_tokens, 0)
        return False

    def sent(self) -> Amounts:
        """Return what leaves for the store: it as it is now."""
        self._state = _State.SENT
        return self.amounts

    def counted(self, bucket: int, amounts: Amounts) -> Amounts:
        """The store has counted that much of it in `bucket`; return what of that is to be given back there."""
        self._state = _State.COUNTED
        self.counted_in = bucket
        requests, input_tokens, output_tokens = amounts
        return Amounts(requests - self.requests, input_tokens - self.input_tokens, output_tokens - self.output_tokens)

    def not_counted(self) -> None:
        """It was sent, and the store has not counted it."""
        self._state = _State.OWED

    def gone(self) -> None:
        """It will not be counted any more."""
        self._state = _State.GONE


class Ledger:
    """The charges that one node owes, in a queue per key, oldest first; `size` is how many there are in all."""

    def __init__(self, window_buckets: int) -> None:
        self._window_buckets = window_buckets
        self.size = 0

    def charge(self, owed: deque[Charge], bucket: int, needed: Amounts, now_bucket: int) -> Charge:
        """An admission of this moment, to be counted in `bucket`; the charge that it is part of.

        `now_bucket` may be an earlier one: what has left the window by then is forgotten.
        """
        if owed and owed[-1].joined(bucket, needed, 1 if self.size < MANY else WIDE):
            return owed[-1]
        charge = Charge(bucket, needed)
        self.owe(owed, charge)
        self.forget(owed, now_bucket)
        return charge

    def owe(self, owed: deque[Charge], charge: Charge) -> None:
        """Add one that was made outside."""
        owed.append(charge)
        self.size += 1

    def forget(self, owed: deque[Charge], now_bucket: int) -> None:
        """Forget those that count for nothing any more."""
        oldest = now_bucket - self._window_buckets
        while owed and owed[0].bucket < oldest:
            owed.popleft().gone()
            self.size -= 1

    def put_back(self, owed: deque[Charge], charges: Iterable[Charge]) -> None:
        """Owe these again, before all others: they were sent, and the store has not counted them."""
        taken = list(charges)
        for charge in reversed(taken):
            charge.not_counted()
            owed.appendleft(charge)
        self.size += len(taken)

    def take(self, owed: deque[Charge], most: int) -> tuple[list[bytes], list[tuple[Charge, Amounts]]]:
        """At most so many, packed as operations, and each with the tokens with which it leaves."""
        taken = [owed.popleft() for _ in range(min(most, len(owed)))]
        self.size -= len(taken)
        operations = [pack_charge(each.bucket, each.requests, each.input_tokens, each.output_tokens) for each in taken]
        return operations, [(each, each.sent()) for each in taken]
