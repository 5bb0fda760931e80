"""The policies of ``--on-store-failure`` for a request that touches several windows; `limiter.policies` has the rest.

Under `local`, a window of up to a minute admits this node's share of its limit, limit ÷ live nodes, against what the
node itself admitted. In a longer window that would forget most of the usage, so there the share is of what was left by
the store's last reply, against what the node has admitted since. Its weakness: nodes heard that reply at different
times, and what others admitted between is not in it. A window that the store has told nothing of admits nothing.
"""

from __future__ import annotations

from limiter_node.decisions import Decision, Need, Outcome, PathUsage, Usage
from limiter_node.errors import StoreUnavailable
from limiter_node.limiter.fallback import KnownPath, KnownWindow
from limiter_node.limits import WINDOW_MS, Amounts
from limiter_node.plans import NO_LIMIT, PlannedWindow
from limiter_node.policy import TOKENS, UNITS

RETRY_MS = 1_000
"""The ``retry-after`` where nothing tells when there is room again: the store may be back by then."""

_NOTHING = Amounts(0, 0, 0)


def admit_path(policy: str, known: KnownPath, need: Need, nodes: int = 0) -> Decision:
    """Admit a request, and add it to the node's own windows. `nodes`: see `path_usage`."""
    needed = needed_on(known, need)
    for window in known.windows:
        window.own.add(known.latest_ms, needed, known.now_ms)
        for dimension in range(3):
            window.since_told[dimension] += needed[dimension]
    return decision_on(policy, known, Outcome.ADMITTED, needed, nodes)


def decide_path(policy: str, known: KnownPath, need: Need, nodes: int) -> Decision:
    """Decide a request by this node's share of each window.

    Raises:
        StoreUnavailable: the node knows nothing of one of the windows.
    """
    needed = needed_on(known, need)
    by_unit = (*needed, needed.input_tokens + needed.output_tokens)
    smallest = (NO_LIMIT, -1, -1)
    for at, planned in enumerate(known.plan.windows):
        for unit, limit in enumerate(planned.enforced):
            if by_unit[unit] > limit and limit < smallest[0]:
                smallest = (limit, at, unit)
    if smallest[1] >= 0:
        return decision_on(policy, known, Outcome.NEVER_FITS, needed, nodes, smallest[1], smallest[2])
    binding, retry_ms = (-1, -1), 0
    for at, (planned, window) in enumerate(zip(known.plan.windows, known.windows, strict=True)):
        for unit, limit in enumerate(planned.enforced):
            if limit == NO_LIMIT or not by_unit[unit]:
                continue
            excess = by_unit[unit] - _room(planned, window, unit, limit, nodes, known.now_ms)
            if excess > 0:
                frees_ms = None
                if planned.per_ms <= WINDOW_MS:
                    frees_ms = window.own.frees_in_ms(unit, excess, known.now_ms)
                free_ms = RETRY_MS if frees_ms is None else frees_ms
                if binding[0] < 0 or free_ms > retry_ms:
                    binding, retry_ms = (at, unit), free_ms
    if binding[0] >= 0:
        return decision_on(policy, known, Outcome.REJECTED, needed, nodes, *binding, retry_ms)
    return admit_path(policy, known, need, nodes)


def path_usage(policy: str, known: KnownPath, nodes: int = 0) -> Usage:
    """Return the usage that this node knows of each window.

    `nodes`: how many nodes share what is left. Then the usage is the limits less what this node will still admit:
    callers see what is left for them here. 0: the node admits all.
    """
    path = _usage(known, -1, nodes)
    return Usage(_NOTHING, _NOTHING, _NOTHING, known.plan.output_reserve, known.now_ms, "", (), policy, path)


def needed_on(known: KnownPath, need: Need) -> Amounts:
    """Return the amounts that a request asks for, with its reservation worked out."""
    return Amounts(1, need.input_tokens, need.output_tokens + need.default_choices * known.plan.output_reserve)


def decision_on(
    policy: str,
    known: KnownPath,
    outcome: Outcome,
    needed: Amounts,
    nodes: int,
    window: int = -1,
    unit: int = -1,
    retry_ms: int = 0,
) -> Decision:
    """Return a decision of the policy."""
    path, name = _usage(known, window, nodes), "" if window < 0 else known.plan.who
    return Decision(
        outcome,
        unit,
        retry_ms,
        _NOTHING,
        _NOTHING,
        _NOTHING,
        needed,
        known.now_ms,
        name,
        degraded=policy,
        path=path,
    )


def _room(planned: PlannedWindow, window: KnownWindow, unit: int, limit: int, nodes: int, now_ms: int) -> int:
    """Return how much of a unit this node may still admit in a window."""
    if planned.per_ms <= WINDOW_MS:
        return limit // nodes - _of_unit(window.own.used(now_ms), unit)
    if window.told is None:
        raise StoreUnavailable("the store has not told the usage of a window of this key yet")
    told = _NOTHING if window.ends_ms <= now_ms else window.told
    left = max(limit - _of_unit(told, unit), 0) // nodes
    return left - _of_unit(Amounts(*window.since_told), unit)


def _of_unit(amounts: Amounts, unit: int) -> int:
    return amounts[unit] if unit < TOKENS else amounts.input_tokens + amounts.output_tokens


def _usage(known: KnownPath, exceeded: int, nodes: int) -> PathUsage:
    used = [
        _used(planned, window, nodes, known.now_ms)
        for planned, window in zip(known.plan.windows, known.windows, strict=True)
    ]
    resets = [_reset_ms(window, known.now_ms) for window in known.windows]
    amounts, tokens = tuple([Amounts(*each[:TOKENS]) for each in used]), tuple([each[TOKENS] for each in used])
    return PathUsage(known.plan, amounts, tuple(resets), exceeded, tokens)


def _reset_ms(window: KnownWindow, now_ms: int) -> Amounts:
    """Return the time until each dimension is wholly free, as far as this node knows."""
    own = window.own.reset_ms(now_ms)
    told, others_ms = window.told or _NOTHING, max(window.ends_ms - now_ms, 0)
    return Amounts(*(max(mine, others_ms if used else 0) for mine, used in zip(own, told, strict=True)))


def _used(planned: PlannedWindow, window: KnownWindow, nodes: int, now_ms: int) -> list[int]:
    """Return the usage of a window by unit, as callers see it; see `path_usage`.

    It is the node's own where no limit rejects: audited limits are not shared out.
    """
    own = window.own.used(now_ms)
    if planned.per_ms > WINDOW_MS and window.told is not None and window.ends_ms > now_ms:
        own = Amounts(*(told + since for told, since in zip(window.told, window.since_told, strict=True)))
    used = [_of_unit(own, unit) for unit in range(len(UNITS))]
    if nodes:
        is_known = planned.per_ms <= WINDOW_MS or window.told is not None
        for unit, limit in enumerate(planned.enforced):
            if limit != NO_LIMIT:
                room = _room(planned, window, unit, limit, nodes, now_ms) if is_known else 0
                used[unit] = limit - max(room, 0)
    return used
