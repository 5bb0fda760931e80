"""Bounds how many requests wait for a verdict, and for how long.

A request is due when the budget of its decision is over. If a batch of its key has been under way for that long, the
store is to blame, and the request is decided without it (`store.outage.outage`). If not, the request waits behind
others of its own key, which arrive faster than the store decides them: then it may wait as long again.
"""

from __future__ import annotations

import asyncio

from limiter_node.errors import Overloaded
from limiter_node.store.batch import Admit
from limiter_node.store.outage.outage import Outage
from limiter_node.store.pending import PendingAdmits

_COMPACT_EVERY_S = 0.005
_STALLED_PART = 0.7
"""The part of the budget from which on a batch under way counts as the reason why its key's requests are late."""


class Deadlines:
    """Hold the pending requests of one node to their deadlines: `budget_s` is how long a decision may take."""

    def __init__(self, pending: PendingAdmits, outage: Outage, budget_s: float) -> None:
        self._loop = asyncio.get_running_loop()
        self._pending, self._outage, self._budget_s = pending, outage, budget_s
        self._compact_at_s = 0.0

    def make_room(self) -> None:
        """Forget answered requests, also behind one that waits: one slow key must not make the node refuse all.

        Raises:
            Overloaded: no room was left.
        """
        now_s, most = self._loop.time(), self._pending.most
        self.sweep(now_s)
        admits = self._pending.admits
        if len(admits) >= most and now_s >= self._compact_at_s:
            unanswered = [admit for admit in admits if not admit.future.done()]
            admits.clear()
            admits.extend(unanswered)
            # O(pending): if it frees little, it isn't repeated for each request.
            self._compact_at_s = now_s + _COMPACT_EVERY_S if len(admits) * 2 > most else 0.0
        if len(admits) >= most:
            raise Overloaded(f"{most} requests already wait for a decision")

    def sweep(self, now_s: float) -> None:
        """Decide or fail the requests whose time is up."""
        admits, overtime = self._pending.admits, self._pending.overtime
        while admits:
            admit = admits[0]
            if not admit.future.done():
                if admit.deadline_s > now_s:
                    break
                if admit.is_held or not self._is_stalled(admit, now_s):
                    overtime.append((now_s + self._budget_s, admit))
            admits.popleft()
        for _ in range(len(overtime)):
            until_s, admit = overtime.popleft()
            if admit.future.done() or (not admit.is_held and self._is_stalled(admit, now_s)):
                continue
            if admit.is_held:
                overtime.append((now_s + self._budget_s, admit))
            elif until_s > now_s:
                overtime.append((until_s, admit))
            else:
                admit.future.set_exception(Overloaded("too many requests of this key wait for a decision"))

    def _is_stalled(self, admit: Admit, now_s: float) -> bool:
        """Return whether the key's batch is overdue. If it is, all of the key's requests have been decided."""
        batch = admit.queue.sender.in_flight
        if batch is None or now_s - batch.since_s < self._budget_s * _STALLED_PART:
            return False
        self._outage.on_overdue(batch)
        return True
