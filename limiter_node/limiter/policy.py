"""What decides where the store can't be asked, as the dispatcher sees it; `limiter.degraded` has the policies."""

from __future__ import annotations

from typing import NamedTuple, Protocol

from limiter_node.decisions import Decision, Need, Usage
from limiter_node.limiter.own_window import OwnWindow
from limiter_node.limits import Amounts


class Known(NamedTuple):
    """What a node knows of a key without the store."""

    limits: Amounts
    """As the store last told them."""
    output_reserve: int
    now_ms: int
    """The store's clock, as estimated: never ahead of it."""
    latest_ms: int
    """The store's clock at the latest: never behind it."""
    window: OwnWindow


class Fallback(Protocol):
    """A policy."""

    @property
    def name(self) -> str:
        """As in ``--on-store-failure``, in headers and logs."""
        ...

    def decide(self, known: Known, need: Need) -> Decision:
        """Decide a request, and add what is admitted to the window, at `Known.latest_ms`: it must not leave too early.

        Raises `StoreUnavailable` where it can't decide.
        """
        ...

    def usage(self, known: Known) -> Usage:
        """What is known of a key's usage. Raises `StoreUnavailable` where nothing is."""
        ...
