"""How long a run goes on: for its time, and until enough has happened in it to be judged."""

from __future__ import annotations

import time
from collections.abc import Callable

_AT_MOST_S = 30.0
"""A run in which nothing happens ends, too: its test then says what was missing."""


class Lasting:
    """The time of one run, from now on: `seconds`, and then for as long as it takes until `is_enough()`.

    A busy machine makes fewer changes in a second; what a test wants to see must not depend on that.
    """

    def __init__(self, seconds: float, is_enough: Callable[[], bool] = lambda: True) -> None:
        self._is_enough = is_enough
        self._from_s = time.monotonic() + seconds
        self._until_s = self._from_s + _AT_MOST_S

    @property
    def is_over(self) -> bool:
        now_s = time.monotonic()
        return now_s >= self._until_s or (now_s >= self._from_s and self._is_enough())
