"""By how many nodes limits are shared, as the store tells them: it may be another number than there are."""

from __future__ import annotations

from bisect import bisect_right


class Sharing:
    """The numbers that nodes were told; `first` before any other. Times are as in `records`."""

    def __init__(self, first: int) -> None:
        self._begun_ms, self._nodes = [0.0], [first]

    @property
    def nodes(self) -> int:
        """The number now."""
        return self._nodes[-1]

    def change(self, at_ms: float, nodes: int) -> None:
        """Tell another number from now on."""
        self._begun_ms.append(at_ms)
        self._nodes.append(nodes)

    def fewest(self, since_ms: float, until_ms: float) -> int:
        """Return the smallest number that was told at some time between the two."""
        first = max(bisect_right(self._begun_ms, since_ms) - 1, 0)
        return min(self._nodes[first : max(bisect_right(self._begun_ms, until_ms), first + 1)])
