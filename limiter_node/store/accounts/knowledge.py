"""A node's knowledge of one account: its own admissions in each window, and what the store has last told of them.

As `store.knowledge` for a plain key, but by window, because the requests of many keys meet in the windows of their
account and teams. A window of any length has sixty cells here, so a node can charge again all that it admitted in it.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from time import monotonic

from limiter_node.decisions import Decision
from limiter_node.limiter.fallback import KnownPath, KnownWindow
from limiter_node.limiter.own_window import OwnWindow
from limiter_node.limits import BUCKET_MS, Amounts, bucket_life_ms
from limiter_node.plans import NO_LIMIT, Plan, PlannedWindow
from limiter_node.store.accounts.charges import PathCharge
from limiter_node.store.accounts.codec import WindowUse
from limiter_node.store.batch import SendQueue
from limiter_node.store.charges import Charge, number_of_loss

_LOOKED_AT = 2
"""The number of windows to check for each new one, in turn, whether anything counts in them."""
_LEAST_LIFE_S = bucket_life_ms() / 1000
_ANY_WIDTH = 2**53
_MOST_CELLS, _MOST_RECHARGES = 61, 10_000
"""The cells of a window in which anything counts; the charges after a loss, unless there are more windows."""

Place = tuple[str, bytes]
"""A window of an account: the key that it belongs to, empty for the account's and teams' windows; and its id."""


def place_of(kid: str, window: PlannedWindow) -> Place:
    """Return where a window of a key's path is."""
    return (kid if window.is_own else "", window.id)


class _Known(KnownWindow):
    """Hold a node's knowledge of one window. `recharges`: a cell of `own` → the charge that counts it again."""

    __slots__ = ("recharges", "window")

    def __init__(self, window: PlannedWindow) -> None:
        super().__init__(OwnWindow(max(window.per_ms // BUCKET_MS, 1)))
        self.window = window
        self.recharges: dict[int, PathCharge] = {}


class AccountKnowledge:
    """Hold what one node knows of one account. Seconds are `time.monotonic`'s, times in ms the account's."""

    __slots__ = (
        "_asked_s",
        "_heard_s",
        "_life_s",
        "_new",
        "_time_ms",
        "_windows",
        "recorded",
        "recorded_until_s",
        "tokens_left",
    )

    def __init__(self) -> None:
        self._windows: OrderedDict[Place, _Known] = OrderedDict()
        self._new = 0
        self._time_ms = -1
        self._asked_s = self._heard_s = 0.0
        self._life_s = _LEAST_LIFE_S
        self.recorded = 0
        """The number that this node's record in the store has at least until `recorded_until_s`; 0 if there is none."""
        self.recorded_until_s = 0.0
        self.tokens_left = -1
        """The tokens that the last reply left in the tightest of its limits; -1 if there was none."""

    # ---- learning --------------------------------------------------------------------------------------------------

    def learn_time(self, time_ms: int, asked_s: float, heard_s: float) -> None:
        """Learn the store's time from a reply to something asked at `asked_s`."""
        self._time_ms, self._asked_s, self._heard_s = time_ms, asked_s, heard_s

    def learn(self, windows: Iterable[tuple[Place, PlannedWindow, WindowUse]], *, is_complete: bool) -> None:
        """Learn the usage that the reply to a batch tells: as of now, also if the batch was decided before.

        `is_complete`: whether it tells all that this node has admitted. It doesn't if the batch was under way when its
        shard was cut off, or if charges wait: those still count beside it.
        """
        left = NO_LIMIT
        for place, window, (used, newest) in windows:
            known = self._of(place, window)
            known.told = used
            if is_complete:
                known.since_told = [0, 0, 0]
            known.ends_ms = (max(newest) + window.buckets + 1) * window.bucket_ms
            _, limit_input, limit_output, limit_tokens = window.enforced
            left = min(left, limit_input - used[1], limit_output - used[2], limit_tokens - used[1] - used[2])
        self.tokens_left = left
        if self._new:
            self._forget()

    def learn_record(self, recorded: int) -> None:
        """Learn the number of this node's record in the store."""
        if recorded and recorded != self.recorded:
            # The script keeps a record for two thirds of its longest window: other nodes clean up by the remaining life
            # of the account's hash, see `decide_paths.lua`. For a minute's window, it keeps it longer than the window.
            self.recorded = recorded
            self.recorded_until_s = monotonic() + max(_LEAST_LIFE_S, self._life_s * 2 / 3)

    def expected(self) -> int:
        """Return the lowest number that this node's record can have now; 0 if there may be none."""
        return self.recorded if monotonic() < self.recorded_until_s else 0

    def note(self, paths: Iterable[tuple[str, Plan, Sequence[Decision]]], number: int) -> None:
        """Remember the decisions of batch `number`, by key and plan."""
        is_earlier = False
        for kid, plan, decisions in paths:
            for window in plan.windows:
                known = self._of(place_of(kid, window), window)
                is_earlier |= known.own.note(decisions, number)
        if is_earlier:  # a clock may have stepped back: admissions that it left in the future are moved
            self._bring_back()

    def give_back(self, kid: str, windows: Sequence[PlannedWindow], tick: int, amounts: Amounts) -> None:
        """Take amounts that were admitted at `tick` off the node's own windows."""
        requests, input_tokens, output_tokens = amounts
        for window in windows:
            if (known := self._windows.get(place_of(kid, window))) is not None:
                known.own.give_back(tick, input_tokens, output_tokens, requests)

    def note_owed(self, kid: str, windows: Sequence[PlannedWindow], amounts: Iterable[int]) -> None:
        """Note amounts that wait to be charged, beside what the store's last reply tells; negative: that less waits."""
        change = tuple(amounts)
        for window in windows:
            place = place_of(kid, window)
            known = self._of(place, window) if any(each > 0 for each in change) else self._windows.get(place)
            if known is not None:
                known.since_told = [max(sum(each), 0) for each in zip(known.since_told, change, strict=True)]

    def mark_counted(self, charge: PathCharge, tick: int, number: int) -> None:
        """Remember that batch `number` has counted a charge at `tick`."""
        for window in charge.windows:
            if (known := self._windows.get(place_of(charge.kid, window))) is not None:
                known.own.move(charge.since, charge.bucket, tick, charge.amounts)
                known.own.mark_counted(min(charge.since, tick), max(charge.bucket, tick), number)
        self.note_owed(charge.kid, charge.windows, (-each for each in charge.amounts))

    # ---- knowing ---------------------------------------------------------------------------------------------------

    def now_ms(self) -> int | None:
        """Return the account's time, as estimated: never ahead of it; None before the first reply."""
        return None if self._time_ms < 0 else self._time_ms + int((monotonic() - self._heard_s) * 1000)

    def latest_ms(self) -> int:
        """Return the account's time at the latest: never behind it."""
        return self._time_ms + math.ceil((monotonic() - self._asked_s) * 1000)

    def known(self, kid: str, plan: Plan) -> KnownPath | None:
        """Return the knowledge by which a policy decides a request; None before the first reply."""
        now_ms = self.now_ms()
        if now_ms is None:
            return None
        latest_ms = self.latest_ms()
        windows = [self._of(place_of(kid, each), each) for each in plan.windows]
        for known in windows:
            known.own.bring_back(latest_ms)
        return KnownPath(plan, now_ms, latest_ms, windows)

    def heard_s_ago(self) -> float:
        """Return the seconds since the store's last reply."""
        return monotonic() - self._heard_s

    # ---- a loss ----------------------------------------------------------------------------------------------------

    def lose(
        self, account: SendQueue, recorded: int, unsent: Iterable[Charge]
    ) -> tuple[list[PathCharge], set[tuple[Place, int]]]:
        """Learn that the store has lost the counts of this node's batches after `recorded`.

        Return the charges to send, each of one window, for what isn't in an unsent charge anyway; and the cells that
        were lost. No request is decided before all of them are sent, so if there are very many windows, several cells
        share one in the latest of their buckets: what counts there leaves late, never early.
        """
        self.recorded = recorded
        now_ms = self.now_ms()
        if now_ms is None:
            return [], set()
        self._bring_back()
        latest = self.latest_ms() // BUCKET_MS
        loss = number_of_loss()
        beside: dict[tuple[Place, int], list[int]] = {}
        for other in unsent:
            assert isinstance(other, PathCharge)
            other.losses = loss
            for window in other.windows:
                if (known := self._windows.get(place := place_of(other.kid, window))) is not None:
                    sums = beside.setdefault((place, known.own.cell_of(other.bucket)), [0, 0, 0])
                    for dimension, amount in enumerate(other.amounts):
                        sums[dimension] += amount
        charges, lost = [], set()
        width = -(-_MOST_CELLS * len(self._windows) // _MOST_RECHARGES)
        for place, known in self._windows.items():
            recharge: PathCharge | None = None
            windows, joined = (known.window,), 0
            for bucket, counted in known.own.counted_after(recorded, now_ms):
                cell = known.own.cell_of(bucket)
                lost.add((place, cell))
                others = beside.get((place, cell), (0, 0, 0))
                left = Amounts(*(max(amount - other, 0) for amount, other in zip(counted, others, strict=True)))
                if not any(left):
                    continue
                charge = PathCharge(account, place[0], windows, min(bucket, latest), left)
                charge.losses = loss
                if recharge is None or joined == width or not recharge.absorb(charge, _ANY_WIDTH):
                    recharge, joined = charge, 0
                    charges.append(charge)
                joined += 1
                known.recharges[cell] = recharge
        return charges, lost

    def cell_of(self, place: Place, tick: int) -> int:
        """Return the cell of a tick in a window; -1 if the node doesn't know the window."""
        known = self._windows.get(place)
        return -1 if known is None else known.own.cell_of(tick)

    def recharged(self, kid: str, window: PlannedWindow, tick: int, losses: int) -> PathCharge | None:
        """Return the charge that counts the admissions of `tick` in a window again after a loss; usually None.

        `losses`: that of the charge that has counted them (`Charge.losses`), which may have outlasted the loss; else 0.
        """
        known = self._windows.get(place_of(kid, window))
        if known is None or not known.recharges:
            return None
        charge = known.recharges.get(cell := known.own.cell_of(tick))
        if charge is None or losses >= charge.losses:
            return None
        # Later admissions of the same cell, made after the store had counted the charge, have their own ticks.
        last = charge.counted_in if known.own.cell_of(charge.counted_in) == cell else charge.bucket
        return charge if tick <= last else None

    def forget_recharges(self) -> bool:
        """Forget the recharges that have left their windows. Return whether others are left."""
        now_ms, are_left = self.now_ms() or 0, False
        for known in self._windows.values():
            gone = [cell for cell, each in known.recharges.items() if each.has_left(now_ms // BUCKET_MS, 0)]
            for cell in gone:
                del known.recharges[cell]
            are_left |= bool(known.recharges)
        return are_left

    # ---- a key that moves ------------------------------------------------------------------------------------------

    def take_over(
        self, places: Iterable[tuple[Place, Place, PlannedWindow]], other: AccountKnowledge, number: int
    ) -> None:
        """Take over what the node knows of a key's windows that went along from another account.

        `places`: of each window there and here. What the store has counted of them is taken as counted under `number`,
        the latest number of a batch: if the store here loses what it has, they are charged again with it.
        """
        there_ms = other.now_ms()
        by_ms = self.latest_ms() - there_ms if there_ms is not None and self.now_ms() is not None else 0
        for place, here, window in places:
            if (known := other._windows.pop(place, None)) is not None:
                mine = self._of(here, window)
                mine.own.take_over(known.own, by_ms, number)
                if mine.told is None:
                    mine.told, mine.since_told = known.told, known.since_told
                    mine.ends_ms = known.ends_ms + max(by_ms, 0)

    # ---- memory ----------------------------------------------------------------------------------------------------

    def _of(self, place: Place, window: PlannedWindow) -> _Known:
        known = self._windows.get(place)
        if known is None:
            self._new += _LOOKED_AT
            known = self._windows[place] = _Known(window)
            self._life_s = max(self._life_s, window.life_ms / 1000)
        known.window = window
        return known

    def _forget(self) -> None:
        """Forget windows in which nothing counts any more; look at a few for each new one."""
        now_ms = self.now_ms() or 0
        for _ in range(min(self._new, len(self._windows))):
            place, known = next(iter(self._windows.items()))
            if known.ends_ms <= now_ms and not any(known.own.used(now_ms)) and not known.recharges:
                del self._windows[place]
            else:
                self._windows.move_to_end(place)
        self._new = 0

    def _bring_back(self) -> None:
        latest_ms = self.latest_ms()
        for known in self._windows.values():
            known.own.bring_back(latest_ms)
