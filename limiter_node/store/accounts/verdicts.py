"""From the reply to an account's batch to the decisions of its requests."""

from __future__ import annotations

from limiter_node.decisions import EXPIRED_KEY, UNKNOWN_KEY, Decision, Outcome, PathUsage
from limiter_node.limits import Amounts
from limiter_node.plans import PlannedWindow
from limiter_node.store.accounts.batch import PathBatch
from limiter_node.store.accounts.charges import PathReceipt
from limiter_node.store.accounts.codec import ENDED, NEVER, NO_SUCH_KEY, POLICY_OLD, PathsReply, WindowUse
from limiter_node.store.accounts.queue import AccountQueue

_NOTHING = Amounts(0, 0, 0)


def decisions_of(batch: PathBatch, reply: PathsReply) -> list[Decision | None]:
    """Return the decisions of a batch's requests; None for one that was not decided, because its policy was old.

    The reply has the usage after the batch; going backward, each admitted request is taken off for those before it.
    """
    account = batch.queue
    assert isinstance(account, AccountQueue)
    taken, time_ms = batch.path_admits, reply.time_ms
    all_places = batch.layout.places()
    used = [list(each.used) for each in reply.windows]
    resets = [reset_ms(window, use, time_ms) for window, use in zip(batch.layout.windows(), reply.windows, strict=True)]
    decisions: list[Decision | None] = []
    for at in range(len(taken.admits) - 1, -1, -1):
        verdict, window, retry_ms = reply.results[at]
        if verdict == POLICY_OLD:
            decisions.append(None)
            continue
        if verdict == NO_SUCH_KEY:
            decisions.append(UNKNOWN_KEY)
            continue
        if verdict == ENDED:
            decisions.append(EXPIRED_KEY)
            continue
        plan, places, needed = taken.plans[at], all_places[taken.paths[at] - 1], taken.needed(at)
        exceeded = places.index(window) if verdict else -1
        path = PathUsage(
            plan,
            tuple([Amounts(*used[place]) for place in places]),
            tuple([resets[place] for place in places]),
            exceeded,
        )
        if verdict == 0:
            receipt = PathReceipt(account, taken.admits[at].queue.kid, plan.windows, time_ms)
            outcome, unit = Outcome.ADMITTED, -1
            for place in places:
                sums = used[place]
                for dimension in range(3):
                    sums[dimension] = max(sums[dimension] - needed[dimension], 0)
        elif verdict < NEVER:
            outcome, unit, receipt = Outcome.REJECTED, verdict - 1, None
        else:
            outcome, unit, receipt, retry_ms = Outcome.NEVER_FITS, verdict - NEVER - 1, None, 0
        name = plan.who if verdict else ""
        decisions.append(
            Decision(outcome, unit, retry_ms, _NOTHING, _NOTHING, _NOTHING, needed, time_ms, name, receipt, "", path)
        )
    decisions.reverse()
    return decisions


def reset_ms(window: PlannedWindow, use: WindowUse, now_ms: int) -> Amounts:
    """Return the time until each dimension of a window is wholly free."""
    life = window.buckets + 1
    ends = [max((each + life) * window.bucket_ms - now_ms, 0) if each else 0 for each in use.newest]
    return Amounts(ends[0], ends[1], ends[2])
