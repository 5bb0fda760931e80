"""The policies of ``--on-store-failure``, which decide while a key's shard can't be asked.

`local`, the default: each node goes on with its own share of the limits, limit ÷ live nodes, against what it itself
admitted in the last window. A balanced fleet stays within the limits. Its weakness: a node doesn't know what others
admitted before, so that in the worst case, all of the limit used through one node just before the store failed, the
others' shares come on top: less than twice the limit. A limit below the number of nodes admits nothing meanwhile.

`open` admits every request of a key that the node knows. Its weakness is its purpose: there is no limit.

`closed` has no code: requests get a 503.
"""

from __future__ import annotations

from collections.abc import Callable

from limiter_node.decisions import Decision, Need, Outcome, Usage
from limiter_node.errors import StoreUnavailable
from limiter_node.limiter.fallback import Fallback, KnownKey, KnownPath
from limiter_node.limiter.path_policies import RETRY_MS, admit_path, decide_path, path_usage
from limiter_node.limits import Amounts


class OpenPolicy:
    """Admit everything. The store counts the admissions once it is back."""

    name = "open"

    def decide(self, known: KnownKey, need: Need) -> Decision:
        """Admit the request, and add it to the node's own window."""
        needed = _needed(known, need)
        known.window.add(known.latest_ms, needed, known.now_ms)
        return _decision(self.name, known, Outcome.ADMITTED, -1, 0, known.window.used(known.now_ms), needed)

    def decide_path(self, known: KnownPath, need: Need) -> Decision:
        """Admit the request, and add it to the node's own windows."""
        return admit_path(self.name, known, need)

    def usage(self, known: KnownKey) -> Usage:
        """Return what this node itself admitted."""
        return _usage(self.name, known, known.window.used(known.now_ms))

    def usage_of_path(self, known: KnownPath) -> Usage:
        """Return what this node itself admitted."""
        return path_usage(self.name, known)


class LocalPolicy:
    """Admit within limit ÷ `live_nodes()`, rounded down.

    `live_nodes()` is 0 until the store has reported the number; until then the methods raise `StoreUnavailable`.
    """

    name = "local"

    def __init__(self, live_nodes: Callable[[], int]) -> None:
        self._live_nodes = live_nodes

    def decide(self, known: KnownKey, need: Need) -> Decision:
        """Decide by this node's own window and share. Raises `StoreUnavailable` if the share isn't known."""
        share = self._share(known)
        needed = _needed(known, need)
        window, now_ms = known.window, known.now_ms
        if too_small := [each for each in range(3) if needed[each] > known.limits[each]]:
            smallest = min(too_small, key=known.limits.__getitem__)
            return _decision(self.name, known, Outcome.NEVER_FITS, smallest, 0, self._used(known, share), needed)
        own = window.used(now_ms)
        binding, retry_ms = -1, 0
        for dimension in range(3):
            excess = own[dimension] + needed[dimension] - share[dimension]
            if excess > 0 and needed[dimension]:  # a need of 0 fits, also where the share was lowered
                frees_ms = window.frees_in_ms(dimension, excess, now_ms)
                free_ms = RETRY_MS if frees_ms is None else frees_ms
                if binding < 0 or free_ms > retry_ms:
                    binding, retry_ms = dimension, free_ms
        if binding >= 0:
            used = self._used(known, share)
            return _decision(self.name, known, Outcome.REJECTED, binding, retry_ms, used, needed)
        window.add(known.latest_ms, needed, now_ms)
        return _decision(self.name, known, Outcome.ADMITTED, -1, 0, self._used(known, share), needed)

    def decide_path(self, known: KnownPath, need: Need) -> Decision:
        """Decide by this node's share of each window; see `limiter.path_policies`."""
        return decide_path(self.name, known, need, self._nodes())

    def usage_of_path(self, known: KnownPath) -> Usage:
        """Return the usage by which `decide_path` decides. Raises `StoreUnavailable` if the share isn't known."""
        return path_usage(self.name, known, self._nodes())

    def usage(self, known: KnownKey) -> Usage:
        """Return the usage by which `decide` decides. Raises `StoreUnavailable` if the share isn't known."""
        return _usage(self.name, known, self._used(known, self._share(known)))

    def _nodes(self) -> int:
        nodes = self._live_nodes()
        if not nodes:
            raise StoreUnavailable("the store has not reported the number of nodes yet")
        return nodes

    def _share(self, known: KnownKey) -> Amounts:
        nodes = self._nodes()
        return Amounts(*(limit // nodes for limit in known.limits))

    def _used(self, known: KnownKey, share: Amounts) -> Amounts:
        """Return the limits less what this node will still admit: callers see what is left for them here."""
        own = known.window.used(known.now_ms)
        return Amounts(
            *(limit - max(part - mine, 0) for limit, part, mine in zip(known.limits, share, own, strict=True))
        )


def policy(name: str, live_nodes: Callable[[], int]) -> Fallback | None:
    """Return the policy of that name; None for ``closed``."""
    if name == LocalPolicy.name:
        return LocalPolicy(live_nodes)
    return OpenPolicy() if name == OpenPolicy.name else None


def _needed(known: KnownKey, need: Need) -> Amounts:
    return Amounts(1, need.input_tokens, need.output_tokens + need.default_choices * known.output_reserve)


def _decision(
    name: str, known: KnownKey, outcome: Outcome, dimension: int, retry_ms: int, used: Amounts, needed: Amounts
) -> Decision:
    reset_ms = known.window.reset_ms(known.now_ms)
    return Decision(outcome, dimension, retry_ms, known.limits, used, reset_ms, needed, known.now_ms, "", degraded=name)


def _usage(name: str, known: KnownKey, used: Amounts) -> Usage:
    reset_ms = known.window.reset_ms(known.now_ms)
    return Usage(known.limits, used, reset_ms, known.output_reserve, known.now_ms, "", (), name)
