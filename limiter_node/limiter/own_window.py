"""One node's own admissions of one key in the last window: all that the node knows for sure without the store.

Coarser than the store's window: a cell is a sixtieth of a window, and counts until its last moment has left. Its
weakness: it knows nothing of what other nodes admitted.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence

from limiter_node.decisions import Decision, Outcome
from limiter_node.limits import BUCKET_MS, Amounts
from limiter_node.policy import TOKENS

_CELLS = 60
_ADMITTED = Outcome.ADMITTED  # enum look-ups aren't free
_WIDTH = 5
"""Numbers per cell in `OwnWindow._past`: its key, requests, input tokens, output tokens, batch number."""


class OwnWindow:
    """Sums per cell, and per cell the number of the last batch under which the store counted any of it.

    Times are the store's clock in ms, buckets are of `BUCKET_MS`. Only the cell written last is a list; all others are
    one array of numbers, which keeps a key that is always busy at some 2.5 KB.
    """

    __slots__ = ("_cell", "_cell_buckets", "_cell_ms", "_key", "_past", "_seen_ms", "_window_ms")

    def __init__(self, window_buckets: int) -> None:
        self._window_ms = window_buckets * BUCKET_MS
        self._cell_buckets = max(window_buckets // _CELLS, 1)
        self._cell_ms = self._cell_buckets * BUCKET_MS
        # The cell written last is usually the next one written, too: every request passes here twice.
        self._key, self._cell = -1, [0, 0, 0, 0]
        self._past = array("q")  # the other cells, the oldest first
        self._seen_ms = 0  # a time that the clock is known to have reached

    def note(self, decisions: Sequence[Decision], number: int) -> bool:
        """Remember the admissions of batch `number`. Return whether they are older than the cell written last."""
        if not decisions:
            return False
        time_ms = decisions[0][7]
        key = time_ms // self._cell_ms
        is_earlier = False
        if key != self._key:
            is_earlier = key < self._key
            self._turn_to(key)
            self._forget_past(time_ms)  # a key that is used keeps no more than a window's cells
            self._seen_ms = max(self._seen_ms, time_ms)
        cell = self._cell
        for decision in decisions:
            if decision[0] is _ADMITTED:
                _, input_tokens, output_tokens = decision[6]
                cell[0] += 1
                cell[1] += input_tokens
                cell[2] += output_tokens
                cell[3] = number
        return is_earlier

    def add(self, latest_ms: int, needed: Amounts, now_ms: int) -> None:
        """Remember an admission, made between `now_ms` and `latest_ms`, that the store hasn't counted yet."""
        self._seen_ms = max(self._seen_ms, now_ms)
        self._forget_past(now_ms)
        self._turn_to(latest_ms // self._cell_ms)
        for dimension in range(3):
            self._cell[dimension] += needed[dimension]

    def give_back(self, bucket: int, input_tokens: int, output_tokens: int, requests: int = 0) -> None:
        """Subtract amounts that were admitted in `bucket` and not used; negative numbers add."""
        key = bucket // self._cell_buckets
        if key == self._key:
            cell: list[int] | array[int] = self._cell
            at = 0
        else:
            cell = self._past
            at = self._find(key) + 1
            if at == 0:
                return
        if requests:
            cell[at] = max(cell[at] - requests, 0)
        if input_tokens:
            cell[at + 1] = max(cell[at + 1] - input_tokens, 0)
        left = cell[at + 2] - output_tokens
        cell[at + 2] = left if left > 0 else 0

    def mark_counted(self, first: int, last: int, number: int) -> None:
        """Remember that batch `number` counted in the store the admissions of the buckets `first` to `last`."""
        first, last = first // self._cell_buckets, last // self._cell_buckets
        if first <= self._key <= last:
            self._cell[3] = max(self._cell[3], number)
        past, at = self._past, self._find_from(first)
        while at < len(past) and past[at] <= last:
            past[at + 4] = max(past[at + 4], number)
            at += _WIDTH

    def move(self, first: int, last: int, into: int, amounts: Amounts) -> None:
        """Move amounts that were added in the buckets `first` to `last` to `into`, where the store has counted them.

        A node that doesn't know the store's clock for sure adds them at the latest that it can be, and the store may
        still count them in an earlier bucket, or later than that. No more is moved than there is.
        """
        first, last, into = (bucket // self._cell_buckets for bucket in (first, last, into))
        if first <= into <= last:
            return
        self._turn_to(into)  # all others are in `_past` then
        left, past, at = list(amounts), self._past, self._find_from(last + 1) - _WIDTH
        while at >= 0 and past[at] >= first and any(left):
            for dimension in range(3):
                moved = min(past[at + 1 + dimension], left[dimension])
                past[at + 1 + dimension] -= moved
                self._cell[dimension] += moved
                left[dimension] -= moved
            at -= _WIDTH

    def bring_back(self, latest_ms: int) -> None:
        """Move cells later than `latest_ms` back to it, if a clock that stepped back left them there.

        Those of a node that doesn't know the clock for sure stay: charges and receipts refer to them by their bucket.
        """
        if latest_ms + BUCKET_MS >= self._seen_ms:
            return
        self._seen_ms = latest_ms
        latest = latest_ms // self._cell_ms
        if self._key <= latest and not (self._past and self._past[-_WIDTH] > latest):
            return
        beyond = [cell for cell in self._cells() if cell[0] > latest]
        for key, *_ in beyond:
            if (at := self._find(key)) >= 0:
                del self._past[at : at + _WIDTH]
        if self._key > latest:
            self._key, self._cell = -1, [0, 0, 0, 0]
        self._turn_to(latest)
        for _, *amounts, number in beyond:
            for dimension in range(3):
                self._cell[dimension] += amounts[dimension]
            self._cell[3] = max(self._cell[3], number)

    def take_over(self, other: OwnWindow, by_ms: int, number: int) -> None:
        """Add the cells of a window of the same length, whose clock is `by_ms` behind; none leaves too early.

        What the store has counted of them is remembered as counted under `number`.
        """
        by = -(-by_ms // self._cell_ms)
        for key, *amounts, counted in other._cells():
            self._turn_to(key + by)
            for dimension in range(3):
                self._cell[dimension] += amounts[dimension]
            if counted:
                self._cell[3] = max(self._cell[3], number)

    def clear(self) -> None:
        """Forget all admissions: the key is gone from the store."""
        self._key, self._cell, self._seen_ms = -1, [0, 0, 0, 0], 0
        del self._past[:]

    def cell_of(self, bucket: int) -> int:
        """Return the key of the cell that a bucket belongs to."""
        return bucket // self._cell_buckets

    def used(self, now_ms: int) -> Amounts:
        """Return the amounts that count now."""
        self._forget(now_ms)
        return Amounts(*(sum(self._past[1 + d :: _WIDTH]) + self._cell[d] for d in range(3)))

    def reset_ms(self, now_ms: int) -> Amounts:
        """Return the time until each dimension is wholly free."""
        cells = self._cells()
        return Amounts(
            *(max((self._leaves_ms(cell[0]) - now_ms for cell in cells if cell[1 + d]), default=0) for d in range(3))
        )

    def frees_in_ms(self, unit: int, excess: int, now_ms: int) -> int | None:
        """Return the ms until `excess` has left the window; None if the window holds less than that.

        `unit`: a dimension, or `TOKENS` for input and output together.
        """
        for cell in self._cells():
            excess -= cell[2] + cell[3] if unit == TOKENS else cell[1 + unit]
            if excess <= 0:
                return self._leaves_ms(cell[0]) - now_ms
        return None

    def counted_after(self, number: int, now_ms: int) -> list[tuple[int, Amounts]]:
        """Return the amounts, still in the window, that the store counted in batches after `number`, by bucket.

        A cell that was counted partly before and partly after is returned whole. The bucket is the last of its cell,
        so that nothing leaves the window too early.
        """
        self._forget(now_ms)
        per_cell = self._cell_buckets
        return [
            (key * per_cell + per_cell - 1, Amounts(*amounts))
            for key, *amounts, counted in self._cells()
            if counted > number
        ]

    def _cells(self) -> list[list[int]]:
        """Return all cells in order: key, three amounts, batch number."""
        past = self._past
        cells = [past[at : at + _WIDTH].tolist() for at in range(0, len(past), _WIDTH)]
        return sorted([*cells, [self._key, *self._cell]]) if self._key >= 0 else cells

    def _find(self, key: int) -> int:
        """Return the position of a cell in `_past`, -1 if it isn't there."""
        at = self._find_from(key)
        return at if at < len(self._past) and self._past[at] == key else -1

    def _find_from(self, key: int) -> int:
        """Return the position in `_past` of the first cell that isn't before `key`. O(log cells)."""
        past = self._past
        low, high = 0, len(past) // _WIDTH
        while low < high:
            middle = (low + high) // 2
            if past[middle * _WIDTH] < key:
                low = middle + 1
            else:
                high = middle
        return low * _WIDTH

    def _leaves_ms(self, key: int) -> int:
        return (key + 1) * self._cell_ms + self._window_ms

    def _turn_to(self, key: int) -> None:
        """Make the cell of `key` the one to write."""
        if key == self._key:
            return
        past = self._past
        if self._key >= 0 and any(self._cell):
            at = len(past)
            while at and past[at - _WIDTH] > self._key:  # a clock that stepped back; else it is the newest
                at -= _WIDTH
            past[at:at] = array("q", (self._key, *self._cell))
        at = self._find(key)
        self._key = key
        if at < 0:
            self._cell = [0, 0, 0, 0]
        else:
            self._cell = past[at + 1 : at + _WIDTH].tolist()
            del past[at : at + _WIDTH]

    def _forget(self, now_ms: int) -> None:
        self._forget_past(now_ms)
        if self._leaves_ms(self._key) <= now_ms:
            self._key, self._cell = -1, [0, 0, 0, 0]

    def _forget_past(self, now_ms: int) -> None:
        past, gone = self._past, 0
        while gone < len(past) and self._leaves_ms(past[gone]) <= now_ms:
            gone += _WIDTH
        if gone:
            del past[:gone]
