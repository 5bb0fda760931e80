"""The holds of an account's requests in the store, and the settles and charges that still have to reach it.

All three name the windows that were counted in, not a path of today: a settle must find what its admission touched,
whatever the policies say by then.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from limiter_node.decisions import Receipt
from limiter_node.limits import BUCKET_MS, Amounts
from limiter_node.plans import PlannedWindow
from limiter_node.store.batch import SendQueue
from limiter_node.store.charges import Charge


class PathReceipt(NamedTuple):
    """The hold of a request that the store has counted at `time_ms`, by the account's time, in all of `windows`.

    `account` is the queue of the account that counted it. A key keeps the receipts of its requests when it moves.
    """

    account: SendQueue
    kid: str
    windows: Sequence[PlannedWindow]
    time_ms: int


class PathSettle(NamedTuple):
    """Amounts to give back in `windows`, where they were counted at `time_ms`."""

    kid: str
    windows: Sequence[PlannedWindow]
    time_ms: int
    amounts: Amounts


class PathCharge(Charge):
    """Usage to be counted in `windows`; its buckets are ticks of 100 ms of the account's time."""

    __slots__ = ("account", "kid", "windows")

    def __init__(
        self, account: SendQueue, kid: str, windows: Sequence[PlannedWindow], bucket: int, needed: Amounts
    ) -> None:
        super().__init__(bucket, needed)
        self.account, self.kid, self.windows = account, kid, windows

    def absorb(self, other: Charge, width: int) -> bool:
        """See `Charge`. Only charges of the same windows are joined."""
        is_same = isinstance(other, PathCharge) and other.kid == self.kid and other.windows is self.windows
        return is_same and super().absorb(other, width)

    @property
    def receipt(self) -> Receipt:
        """See `Charge`."""
        return PathReceipt(self.account, self.kid, self.windows, self.counted_in * BUCKET_MS)

    def has_left(self, now_bucket: int, window_buckets: int) -> bool:
        """See `Charge`. It has left when the longest of its windows no longer counts it."""
        return all((self.bucket + 1) * BUCKET_MS + each.life_ms <= now_bucket * BUCKET_MS for each in self.windows)
