"""What one node itself had admitted of one key in the last window: what it can still vouch for when the store is away.

Coarser than the store's: a sixtieth of a window to a cell, and a cell counts until the last moment of it has left. Its
weakness: it knows nothing of what other nodes admitted.
"""

from __future__ import annotations

from collections.abc import Sequence

from limiter_node.model import Amounts, Decision, Outcome

_CELLS = 60
_BUCKET_MS = 100
_ADMITTED = Outcome.ADMITTED  # enum look-ups aren't free


class OwnWindow:
    """Sums per cell. Times are the store's clock, in ms."""

    __slots__ = ("_cell", "_cell_buckets", "_cell_ms", "_cells", "_key", "_window_ms")

    def __init__(self, window_buckets: int) -> None:
        self._window_ms = window_buckets * _BUCKET_MS
        self._cell_buckets = max(window_buckets // _CELLS, 1)
        self._cell_ms = self._cell_buckets * _BUCKET_MS
        self._cells: dict[int, list[int]] = {}
        # The one that was written last: the same again, as a rule. Every request passes here twice.
        self._key, self._cell = -1, [0, 0, 0]

    def note(self, decisions: Sequence[Decision]) -> None:
        """Remember what the store admitted in one batch."""
        if not decisions:
            return
        key = decisions[0][7] // self._cell_ms
        cell = self._cell if key == self._key else self._turn_to(key)
        for decision in decisions:
            if decision[0] is _ADMITTED:
                _, input_tokens, output_tokens = decision[6]
                cell[0] += 1
                cell[1] += input_tokens
                cell[2] += output_tokens

    def add(self, time_ms: int, needed: Amounts) -> None:
        """Remember one admission."""
        cell = self._turn_to(time_ms // self._cell_ms)
        for dimension in range(3):
            cell[dimension] += needed[dimension]

    def give_back(self, bucket: int, input_tokens: int, output_tokens: int, requests: int = 0) -> None:
        """So much of what was admitted in that bucket was not used; negative numbers add."""
        key = bucket // self._cell_buckets
        cell = self._cell if key == self._key else self._cells.get(key)
        if cell is not None:
            if requests:
                cell[0] = max(cell[0] - requests, 0)
            if input_tokens:
                cell[1] = max(cell[1] - input_tokens, 0)
            left = cell[2] - output_tokens
            cell[2] = left if left > 0 else 0

    def clear(self) -> None:
        """Nothing counts any more."""
        self._cells.clear()
        self._key = -1

    def used(self, now_ms: int) -> Amounts:
        """What counts now."""
        self._forget(now_ms)
        return Amounts(*(sum(cell[dimension] for cell in self._cells.values()) for dimension in range(3)))

    def reset_ms(self, now_ms: int) -> Amounts:
        """Time until each dimension is wholly free."""
        return Amounts(
            *(
                max((self._leaves_ms(key) for key, cell in self._cells.items() if cell[dimension]), default=now_ms)
                - now_ms
                for dimension in range(3)
            )
        )

    def frees_in_ms(self, dimension: int, excess: int, now_ms: int) -> int | None:
        """Time until so much has left; None if it never will, for it isn't there."""
        for key in sorted(self._cells):
            excess -= self._cells[key][dimension]
            if excess <= 0:
                return self._leaves_ms(key) - now_ms
        return None

    def charges(self, now_ms: int) -> list[tuple[int, Amounts]]:
        """What counts now, by bucket: of each cell the last, so that it doesn't leave earlier than it may."""
        self._forget(now_ms)
        per_cell = self._cell_buckets
        newest = now_ms // _BUCKET_MS
        return [
            (min(key * per_cell + per_cell - 1, newest), Amounts(*cell))
            for key, cell in sorted(self._cells.items())
            if any(cell)
        ]

    def _leaves_ms(self, key: int) -> int:
        return (key + 1) * self._cell_ms + self._window_ms

    def _turn_to(self, key: int) -> list[int]:
        cell = self._cells.get(key)
        if cell is None:
            # The usual way by which old cells go: a key that is used keeps no more than a window's.
            if len(self._cells) > _CELLS + 1:
                self._forget(key * self._cell_ms)
            cell = self._cells[key] = [0, 0, 0]
        self._key, self._cell = key, cell
        return cell

    def _forget(self, now_ms: int) -> None:
        for key in [key for key in self._cells if self._leaves_ms(key) <= now_ms]:
            del self._cells[key]
            if key == self._key:
                self._key = -1
