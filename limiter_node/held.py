"""The bytes that a node holds for its callers: bodies from their first byte until their request is sent, and answers
beyond 64 KiB each.

They share one budget, so that no number of requests, however large, takes more memory than the node was given.
Weakness: one key that sends large bodies slowly can take the room that others need. Therefore large bodies leave an
eighth of the budget to small ones, which most are.
"""

from __future__ import annotations

from typing import Final

from limiter_node.errors import Overloaded

SMALL_BYTES: Final = 65_536
"""Up to this size a body or an answer is small: it may take the last eighth of the budget, and this process reads it.

Larger bodies go unread to the second process."""


class HeldBytes:
    """Hold the budget of one node: `most` bytes, of which `held` are taken."""

    __slots__ = ("held", "most", "most_of_large")

    def __init__(self, most: int) -> None:
        self.most, self.most_of_large = most, most - most // 8
        self.held = 0


class Hold:
    """Count the `size` bytes that one request holds of `budget`. Release it in the end; a second time does nothing."""

    __slots__ = ("_budget", "size")

    def __init__(self, budget: HeldBytes) -> None:
        self._budget = budget
        self.size = 0

    def take(self, size: int) -> None:
        """Hold `size` bytes more. Raises `Overloaded`, and holds no more than before, if the budget lacks them."""
        budget = self._budget
        held, total = budget.held + size, self.size + size
        if held > budget.most_of_large and (total > SMALL_BYTES or held > budget.most):
            raise Overloaded("the node has no room for more bodies and answers")
        self.size, budget.held = total, held

    def expect(self, size: int) -> None:
        """Raise `Overloaded` if `size` bytes more can't be held now."""
        self.take(size)
        self.give(size)

    def give(self, size: int) -> None:
        """Give back `size` bytes."""
        self.size -= size
        self._budget.held -= size

    def release(self) -> None:
        """Give back all bytes."""
        self._budget.held -= self.size
        self.size = 0
