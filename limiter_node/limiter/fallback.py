"""The protocol of a policy that decides while the store can't be asked; `limiter.policies` has the policies."""

from __future__ import annotations

from typing import NamedTuple, Protocol

from limiter_node.decisions import Decision, Need, Usage
from limiter_node.limiter.own_window import OwnWindow
from limiter_node.limits import Amounts


class KnownKey(NamedTuple):
    """A node's own knowledge of a key: all that a policy may decide by."""

    limits: Amounts
    """From the store's last reply."""
    output_reserve: int
    now_ms: int
    """The store's clock, as estimated: never ahead of it."""
    latest_ms: int
    """The store's clock at the latest: never behind it."""
    window: OwnWindow


class Fallback(Protocol):
    """Decide requests while the store can't be asked."""

    @property
    def name(self) -> str:
        """The policy's name in ``--on-store-failure``, headers and logs."""
        ...

    def decide(self, known: KnownKey, need: Need) -> Decision:
        """Decide a request; add an admitted one to the window, at `latest_ms`: it must not leave the window too early.

        Raises `StoreUnavailable` if the policy can't decide.
        """
        ...

    def usage(self, known: KnownKey) -> Usage:
        """Return the known usage of a key. Raises `StoreUnavailable` if none is known."""
        ...
