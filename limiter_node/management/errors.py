"""The errors of managing keys, accounts and teams, beside ConfigError (wrong input) and StoreUnavailable.

No message holds a secret: keys are called by their names and digests.
"""

from __future__ import annotations

from collections.abc import Sequence

from limiter_node.errors import LimiterError


class NotFound(LimiterError):
    """Raised when there is no key, account or team of that name, digest or secret."""


class Ambiguous(LimiterError):
    """Raised when several keys have that name or a digest that begins so. `candidates`: their digests and names."""

    def __init__(self, message: str, candidates: Sequence[str]) -> None:
        super().__init__(f"{message}: {', '.join(candidates)}")
        self.candidates = tuple(candidates)


class Conflict(LimiterError):
    """Raised when something that is stored stands in the way: a name that is taken, members of an account."""
