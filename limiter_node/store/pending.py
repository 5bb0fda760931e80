"""The requests that wait for a verdict; `store.decisions.deadlines` bounds how long each of them waits."""

from __future__ import annotations

from collections import deque

from limiter_node.store.batch import Admit


class PendingAdmits:
    """Hold the waiting requests of one node, at most `most`; decided ones stay until the next sweep."""

    __slots__ = ("admits", "most", "overtime")

    def __init__(self, most: int) -> None:
        self.most = most
        self.admits: deque[Admit] = deque()
        """The waiting requests, in the order of their deadlines."""
        self.overtime: deque[tuple[float, Admit]] = deque()
        """The requests past their deadline, each with the time until which it may wait: the store isn't to blame."""

    def __bool__(self) -> bool:
        return bool(self.admits or self.overtime)

    def unanswered(self) -> list[Admit]:
        """Return the requests without a verdict. O(pending)."""
        pending = [*self.admits, *(admit for _, admit in self.overtime)]
        return [admit for admit in pending if not admit.future.done()]
