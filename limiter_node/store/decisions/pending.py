"""The requests that wait for a verdict: how many may at once, and for how long.

A request is due when the budget of its decision is over. If a batch of its key has been away for that long, the store
is to blame, and the request is decided without it (`store.outage.outage`). If not, it waits behind others of its own
key, which arrive faster than the store decides them: then it may wait as long again.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from limiter_node.errors import Overloaded
from limiter_node.store.batch import Admit, Batch

_COMPACT_EVERY_S = 0.005
_STALLED_PART = 0.7
"""Of the budget: a batch that has been away for less is not why its key's requests are late."""


class Waiting:
    """`admits` holds at most `most`, in the order of their deadlines; answered ones linger until swept.

    `on_overdue` is called with each batch that is outstanding for longer than `budget_s`, and has to answer for its
    requests.
    """

    def __init__(self, most: int, budget_s: float, on_overdue: Callable[[Batch], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self.most = most
        self.admits: deque[Admit] = deque()
        self._patient: deque[tuple[float, Admit]] = deque()
        self._budget_s, self._on_overdue = budget_s, on_overdue
        self._compact_at_s = 0.0

    def __bool__(self) -> bool:
        return bool(self.admits or self._patient)

    def make_room(self) -> None:
        """Forget the answered ones behind one that waits, too: one slow key must not make the node refuse all.

        Raises:
            Overloaded: as many wait as may.
        """
        now_s = self._loop.time()
        self.sweep(now_s)
        admits = self.admits
        if len(admits) >= self.most and now_s >= self._compact_at_s:
            unanswered = [admit for admit in admits if not admit.future.done()]
            admits.clear()
            admits.extend(unanswered)
            # O(waiting): where it doesn't help it isn't done again for each request that is refused.
            self._compact_at_s = now_s + _COMPACT_EVERY_S if len(admits) * 2 > self.most else 0.0
        if len(admits) >= self.most:
            raise Overloaded(f"{self.most} requests wait for a decision already")

    def sweep(self, now_s: float) -> None:
        """Look at those whose time is up."""
        admits, patient = self.admits, self._patient
        while admits:
            admit = admits[0]
            if not admit.future.done():
                if admit.deadline_s > now_s:
                    break
                if not self._is_stalled(admit, now_s):
                    patient.append((now_s + self._budget_s, admit))
            admits.popleft()
        for _ in range(len(patient)):
            until_s, admit = patient.popleft()
            if admit.future.done() or self._is_stalled(admit, now_s):
                continue
            if until_s > now_s:
                patient.append((until_s, admit))
            else:
                admit.future.set_exception(Overloaded("too many requests of this key wait for a decision"))

    def _is_stalled(self, admit: Admit, now_s: float) -> bool:
        batch = admit.queue.in_flight
        if batch is None or now_s - batch.since_s < self._budget_s * _STALLED_PART:
            return False
        self._on_overdue(batch)
        return True

    def unanswered(self) -> list[Admit]:
        """Those that wait."""
        waiting = [*self.admits, *(admit for _, admit in self._patient)]
        return [admit for admit in waiting if not admit.future.done()]
