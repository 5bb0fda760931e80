"""Sends settles and charges after a key that has moved: to its own windows, which went along.

What a key's account and teams have counted stays there, and is settled there. The account's reply names the settles
and charges whose key has moved away (``decide_paths.lua``). Their part in the key's own windows goes into a batch of
the account where the key is now, with the times at which the windows have it there.

Weakness: these parts are in this node's memory alone until then, as all settles and charges are.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from time import monotonic
from typing import NamedTuple

from limiter_node.errors import StoreUnavailable
from limiter_node.limits import BUCKET_MS, Amounts
from limiter_node.plans import PlannedWindow
from limiter_node.policy_body import Forward
from limiter_node.store.accounts.accounts import Missing
from limiter_node.store.accounts.charges import PathCharge, PathReceipt
from limiter_node.store.accounts.member import Member
from limiter_node.store.accounts.queue import AccountQueue
from limiter_node.store.batch import SendQueue
from limiter_node.store.decisions.following import PATIENCE_S, Follower
from limiter_node.store.decisions.key_exists import KeyExistence
from limiter_node.store.unsent_charges import UnsentCharges

log = logging.getLogger(__name__)

_AGAIN_S, _MOST_AGAIN_S = 0.1, 5.0
_MISSING_S = 60.0
"""How long parts are kept for a key that is nowhere, and that this node can't declare again: another one may."""


class Part(NamedTuple):
    """Amounts to give back, or to count, in windows of a key, at the time `time_ms` of the account that it has left."""

    kid: str
    windows: Sequence[PlannedWindow]
    time_ms: int
    amounts: Amounts
    is_charge: bool


class Forwarding:
    """Send parts after keys, for one node. `settle` gives amounts back, `schedule` lets a queue's next batch leave.

    `finder` finds keys, and declares those again that the store has lost.
    """

    def __init__(
        self,
        follower: Follower,
        charges: UnsentCharges,
        settle: Callable[[SendQueue, PathReceipt, int, int, int], None],
        schedule: Callable[[SendQueue], None],
        finder: Callable[[], KeyExistence],
    ) -> None:
        self._follower, self._charges, self._settle, self._schedule = follower, charges, settle, schedule
        self._finder = finder
        self._waiting: dict[tuple[str, str], list[tuple[float, Part]]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def is_busy(self) -> bool:
        """Whether parts wait for the way to their keys."""
        return bool(self._waiting)

    def close(self) -> None:
        """Stop sending."""
        for task in self._tasks:
            task.cancel()

    def add(self, account: str, part: Part) -> None:
        """Send a part to where its key is now. `account`: the hash tag of the account that counted it."""
        place = (account, part.kid)
        if place in self._waiting:
            self._waiting[place].append((monotonic(), part))
            return
        self._waiting[place] = [(monotonic(), part)]
        task = asyncio.get_running_loop().create_task(self._send(*place), name=part.kid)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def sent(self, kid: str) -> None:
        """Return once nothing waits for the way to a key: what is asked of the key now is decided after it.

        Raises:
            StoreUnavailable: that takes longer than a request can wait.
        """
        sending = [each for each in self._tasks if each.get_name() == kid]
        if sending and (await asyncio.wait(sending, timeout=PATIENCE_S))[1]:
            raise StoreUnavailable("the store has not counted yet what the key used before")

    def add_settle(self, account: AccountQueue, receipt: PathReceipt, amounts: Amounts) -> None:
        """Send what a settle gives back in its key's own windows."""
        self._add_own(account, receipt, amounts, is_charge=False)

    def add_charge(self, account: AccountQueue, charge: PathCharge, time_ms: int, amounts: Amounts) -> None:
        """Send the part of a charge in its key's own windows; the account has counted it at `time_ms`."""
        receipt = PathReceipt(account, charge.kid, charge.windows, time_ms)
        self._add_own(account, receipt, amounts, is_charge=True)

    def add_all(self, account: AccountQueue) -> None:
        """Send the own parts of all that waits in the queue of an account that is gone; the keys may have moved."""
        for charge in account.charges or ():
            assert isinstance(charge, PathCharge)
            self.add_charge(account, charge, charge.bucket * BUCKET_MS, charge.amounts)
        for settle in account.settles:
            self.add_settle(account, PathReceipt(account, settle.kid, settle.windows, settle.time_ms), settle.amounts)

    def _add_own(self, account: AccountQueue, receipt: PathReceipt, amounts: Amounts, *, is_charge: bool) -> None:
        is_flat = account.policy.key is not None
        windows = tuple(each for each in receipt.windows if each.is_own or is_flat)
        if windows and receipt.kid:
            self.add(account.kid, Part(receipt.kid, windows, receipt.time_ms, amounts, is_charge))

    async def _send(self, account: str, kid: str) -> None:
        place, since_s = (account, kid), monotonic()
        again_s, has_declared = _AGAIN_S, False
        try:
            while self._waiting[place]:
                try:
                    found, marks = await self._follower.follow(kid, account, monotonic(), is_move_over=True)
                except (StoreUnavailable, TimeoutError):
                    self._forget_old(place)
                    await asyncio.sleep(_AGAIN_S)
                    continue
                if not isinstance(found, Missing):
                    self._deliver(found.member, marks, [part for _, part in self._waiting[place]])
                elif not has_declared:
                    has_declared = True
                    with suppress(StoreUnavailable):
                        await self._finder().find(kid, is_missed=True)
                    continue
                elif not found.was_deleted and monotonic() - since_s < _MISSING_S:
                    await asyncio.sleep(again_s)
                    again_s, has_declared = min(2 * again_s, _MOST_AGAIN_S), False
                    continue
                self._waiting[place].clear()  # of a key that was deleted, nothing counts any more
        except Exception:
            extra = {"event": "settles_lost", "key": kid[:12], "operations": len(self._waiting[place])}
            log.exception("failed to send settles and charges after key %s", kid[:12], extra=extra)
        finally:
            del self._waiting[place]

    def _forget_old(self, place: tuple[str, str]) -> None:
        """Forget the parts that have left their windows."""
        now_s = monotonic()
        self._waiting[place] = [
            (since_s, part)
            for since_s, part in self._waiting[place]
            if now_s - since_s < max(each.life_ms for each in part.windows) / 1000
        ]

    def _deliver(self, member: Member, marks: Sequence[Forward], parts: Sequence[Part]) -> None:
        account = member.account
        is_flat = account.policy.key is not None
        # One path for each window: their buckets may have got different numbers.
        own = {each.id: (each,) for each in member.whole_plan().windows if each.is_own or is_flat}
        for part in parts:
            for window in part.windows:
                if (path := own.get(window.id)) is None:
                    continue
                time_ms = time_after(marks, part.time_ms, window)
                requests, input_tokens, output_tokens = part.amounts
                if part.is_charge:
                    self._charges.add(account, PathCharge(account, part.kid, path, time_ms // BUCKET_MS, part.amounts))
                    account.knowledge.note_owed(part.kid, path, part.amounts)
                else:
                    receipt = PathReceipt(account, part.kid, path, time_ms)
                    self._settle(account, receipt, input_tokens, output_tokens, requests)
        if (account.charges or account.has_settles) and account.in_flight is None and not account.is_scheduled:
            self._schedule(account)


def time_after(marks: Sequence[Forward], time_ms: int, window: PlannedWindow) -> int:
    """Return the time at which a window has what it counted at `time_ms`, after the moves that left these marks.

    As ``open.lua`` moves buckets: each by the difference of the clocks, rounded up, into the then current one at most.
    What was counted after the seal, by a node that decided alone, wasn't moved: its time is translated.
    """
    width = window.bucket_ms
    for mark in marks:
        if time_ms <= mark.time_ms:
            bucket = min(time_ms // width - (-mark.shift_ms // width), mark.opened_ms // width)
        else:
            bucket = (time_ms + mark.shift_ms) // width
        time_ms = bucket * width
    return time_ms
