"""A node's knowledge of one API key, and the only place where the node learns or forgets it.

The store is the truth; a node needs its own knowledge when the store can't be asked, or has lost data. A reply carries
facts: the key's limits, the store's time, and which of this node's batches the store has a record of. That last number
says what the store must still have: a record that is older, or gone, means that the store has lost what it had counted
(a flush, a server that came back empty, an old snapshot, a failover before replication), and this object says what of
it this node has to charge again.

Neighbours: `store.decisions.replies` learns here, `store.outage.outage` decides and charges by it,
`store.decisions.redeclare` declares by it what the store has lost, `store.decisions.queues` keeps it for as long as it
has room.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Sequence
from typing import Protocol

from limiter_node.decisions import Decision
from limiter_node.limiter.fallback import KnownKey
from limiter_node.limiter.own_window import OwnWindow
from limiter_node.limits import BUCKET_MS, Amounts, KeyLimits, bucket_life_ms
from limiter_node.store import codec
from limiter_node.store.charges import Charge, number_of_loss
from limiter_node.store.codec import DECIDED, unpack_limits_and_used


class Asked(Protocol):
    """Describe the batch that a reply belongs to: `store.batch.Batch`."""

    @property
    def number(self) -> int:
        """The batch's number; it rises with every batch of the node."""

    @property
    def operations(self) -> Sequence[bytes]:
        """The batch's operations, packed."""

    @property
    def since_s(self) -> float:
        """The time when the batch was made, by `time.monotonic`."""


class KeyKnowledge:
    """Hold what one node knows of one key. Seconds are `time.monotonic`'s."""

    __slots__ = (
        "_asked_s",
        "_heard_s",
        "_last_reply",
        "_life_s",
        "_name",
        "_window_buckets",
        "check_mark_s",
        "exists",
        "mark",
        "own",
        "recharges",
        "recorded",
        "recorded_until_s",
    )

    def __init__(self, window_buckets: int) -> None:
        self._window_buckets, self._life_s = window_buckets, bucket_life_ms(window_buckets) / 1000
        self.exists: bool | None = None
        """Whether the key exists, by the store's last reply; None before the first."""
        self.mark, self.check_mark_s = "", 0.0
        """See `mark_of_deletion`; and when to look for the mark again, by `time.monotonic`."""
        self.own = OwnWindow(window_buckets)
        """The admissions of this node, for a window."""
        self.recorded = 0
        """The number that this node's record in the store has at least until `recorded_until_s`; 0 if there is none."""
        self.recorded_until_s = 0.0
        self.recharges: dict[int, Charge] | None = None
        """After a loss: a cell of `own` → the charge that counts it again, from which later give-backs are taken."""
        self._last_reply: bytes | None = None
        self._asked_s = self._heard_s = 0.0
        self._name: str | None = None

    @property
    def mark_of_deletion(self) -> str:
        """The content of the mark that the key was deleted, by the store's last reply; empty if it told none."""
        return self.mark if self.exists is False else ""

    # ---- learning --------------------------------------------------------------------------------------------------

    def learn(
        self, reply: bytes, batch: Asked, heard_s: float, recorded: int = 0, decisions: Sequence[Decision] = ()
    ) -> None:
        """Learn from the reply to a decided batch, which was heard at `heard_s`.

        `recorded` is read from the reply: the number of this node's record in the store; 0 if it was not read, because
        the batch asked for nothing to be counted. `decisions`: those that are not in `own` yet, because no policy made
        them meanwhile.
        """
        if reply[0] == DECIDED or not self.exists:  # else the reply is an earlier one, from the record
            self._last_reply, self._asked_s, self._heard_s, self.exists = reply, batch.since_s, heard_s, True
        if recorded != self.recorded and recorded:
            # A record lives longer than this (see `decide.lua`), and by then its batch has left the window.
            self.recorded, self.recorded_until_s = recorded, heard_s + self._life_s
        if decisions:
            if self.own.note(decisions, batch.number):
                self.known()  # a clock may have stepped back: admissions that it left in the future are moved
            if name := decisions[-1][8]:
                self._name = name
        if self._name is None and codec.is_named(reply):
            self._name = codec.unpack_reply(reply, len(batch.operations), self._window_buckets).name

    def learn_limits(self, limits: KeyLimits, time_ms: int, asked_s: float, heard_s: float) -> None:
        """Learn that the key exists, and its limits, without a decision of the store."""
        self.exists, self._name = True, limits.name
        self._last_reply = codec.pack_limits_reply(limits, time_ms)
        self._asked_s, self._heard_s = asked_s, heard_s

    def forget(self) -> None:
        """Learn from the store that the key doesn't exist: its earlier usage no longer counts."""
        self.exists, self._heard_s, self.mark = False, time.monotonic(), ""
        self._last_reply = self.recharges = None
        self.recorded, self.recorded_until_s = 0, 0.0
        self.own.clear()

    # ---- knowing ---------------------------------------------------------------------------------------------------

    def known(self) -> KnownKey | None:
        """Return the knowledge that a policy decides by; None if the store has reported no limits of the key.

        The store's clock was at the last reply's time at some moment between asking and hearing, so that it lies
        between two estimates: `now_ms`, which is never ahead of it, and `latest_ms`, which is never behind.
        """
        if self._last_reply is None:
            return None
        reply, now_s = codec.unpack_reply(self._last_reply, 0, self._window_buckets), time.monotonic()
        now_ms = reply.time_ms + int((now_s - self._heard_s) * 1000)
        latest_ms = reply.time_ms + math.ceil((now_s - self._asked_s) * 1000)
        self.own.bring_back(latest_ms)
        return KnownKey(reply.limits, reply.output_reserve, now_ms, latest_ms, self.own)

    def tokens_left(self) -> int:
        """Return the tokens that the last reply leaves in the tighter of the two limits; -1 if there was none."""
        if self._last_reply is None:
            return -1
        _, limit_input, limit_output, _, used_input, used_output = unpack_limits_and_used(self._last_reply)
        left_input, left_output = limit_input - used_input, limit_output - used_output
        return left_input if left_input < left_output else left_output

    def heard_s_ago(self) -> float:
        """Return the seconds since the store's last reply about the key."""
        return time.monotonic() - self._heard_s

    def last_limits(self) -> KeyLimits | None:
        """Return the key's limits by the store's last reply; None if that had none."""
        if self._last_reply is None:
            return None
        reply = codec.unpack_reply(self._last_reply, 0, self._window_buckets)
        return KeyLimits(*reply.limits, reply.output_reserve, self._name or "")

    # ---- a loss ----------------------------------------------------------------------------------------------------

    def lose(self, recorded: int, unsent: Iterable[Charge]) -> tuple[list[Charge], set[int]]:
        """Learn that the store has lost the counts of this node's batches after `recorded`.

        Return the charges to send again, beside those that are `unsent` anyway, and the cells of `own` that were lost.
        """
        self.recorded = recorded
        known = self.known()
        if known is None:
            return [], set()
        loss = number_of_loss()
        unsent_of: dict[int, list[int]] = {}
        for charge in unsent:
            charge.losses = loss
            amounts = unsent_of.setdefault(self.own.cell_of(charge.bucket), [0, 0, 0])
            for dimension, amount in enumerate(charge.amounts):
                amounts[dimension] += amount
        recharged: dict[int, Charge] = {}
        lost: set[int] = set()
        for bucket, counted in self.own.counted_after(recorded, known.now_ms):
            cell = self.own.cell_of(bucket)
            lost.add(cell)
            beside = unsent_of.get(cell, (0, 0, 0))
            left = Amounts(*(max(amount - other, 0) for amount, other in zip(counted, beside, strict=True)))
            if any(left):
                recharged[cell] = Charge(min(bucket, known.latest_ms // BUCKET_MS), left)
                recharged[cell].losses = loss
        self.recharges = {**(self.recharges or {}), **recharged} or None
        self.forget_recharges()
        return list(recharged.values()), lost

    def forget_recharges(self) -> None:
        """Forget recharges that have left the window."""
        known = self.known()
        if self.recharges is not None and known is not None:
            oldest = known.now_ms // BUCKET_MS - self._window_buckets
            kept = {cell: charge for cell, charge in self.recharges.items() if charge.bucket >= oldest}
            self.recharges = kept or None

    def recharged(self, bucket: int, losses: int = 0) -> Charge | None:
        """Return the charge that counts the admissions of `bucket` again after a loss; usually None.

        `losses`: that of the charge that has counted them (`Charge.losses`): it may have outlasted the loss.
        """
        if self.recharges is None:
            return None
        charge = self.recharges.get(cell := self.own.cell_of(bucket))
        if charge is None or losses >= charge.losses:
            return None
        # Later admissions of the same cell, made after the store had counted the charge, have their own buckets.
        last = charge.counted_in if self.own.cell_of(charge.counted_in) == cell else charge.bucket
        return charge if bucket <= last else None
