"""The protocol of a policy that decides while the store can't be asked; `limiter.policies` has the policies."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from limiter_node.decisions import Decision, Need, Usage
from limiter_node.limiter.own_window import OwnWindow
from limiter_node.limits import Amounts
from limiter_node.plans import Plan


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


class KnownWindow:
    """Hold a node's own knowledge of one window of an account."""

    __slots__ = ("ends_ms", "own", "since_told", "told")

    def __init__(self, own: OwnWindow) -> None:
        self.own = own
        self.told: Amounts | None = None
        """The usage of all nodes by the store's last reply; None before the first."""
        self.since_told = [0, 0, 0]
        """The amounts of this node that the reply doesn't tell: admitted since, or still to be charged."""
        self.ends_ms = 0
        """When everything told has left the window."""


class KnownPath(NamedTuple):
    """A node's own knowledge of the windows that a request touches, in the order of the plan's windows."""

    plan: Plan
    now_ms: int
    """The store's clock, as estimated: never ahead of it."""
    latest_ms: int
    """The store's clock at the latest: never behind it."""
    windows: Sequence[KnownWindow]


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

    def decide_path(self, known: KnownPath, need: Need) -> Decision:
        """Do the same as `decide` for a request that touches the windows of an account."""
        ...

    def usage_of_path(self, known: KnownPath) -> Usage:
        """Return the known usage of an account's windows. Raises `StoreUnavailable` if none is known."""
        ...

    def usage(self, known: KnownKey) -> Usage:
        """Return the known usage of a key. Raises `StoreUnavailable` if none is known."""
        ...
