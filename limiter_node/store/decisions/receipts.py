"""Receipts: the hold of an admission in the store, until the request has ended and gives it back.

A receipt is opaque to everybody else. It is the bucket in which the store has counted an admission, or the `Charge` of
one that was made without the store. After a loss (`store.decisions.losses`) both refer to the charge made again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence

from limiter_node.decisions import Receipt
from limiter_node.limits import BUCKET_MS, Amounts
from limiter_node.store.accounts.charges import PathCharge, PathReceipt, PathSettle
from limiter_node.store.accounts.member import Member
from limiter_node.store.accounts.queue import AccountQueue
from limiter_node.store.batch import SendQueue
from limiter_node.store.charges import Charge
from limiter_node.store.codec import pack_settle, settled_amounts
from limiter_node.store.decisions.forwarding import Forwarding, Part
from limiter_node.store.decisions.linger import LingeringSettles
from limiter_node.store.decisions.queues import KeyQueues
from limiter_node.store.decisions.schedule import Schedule
from limiter_node.store.key_queue import KeyQueue
from limiter_node.store.unsent_charges import UnsentCharges

_OF_ACCOUNTS = (PathReceipt, PathCharge)


class Receipts:
    """Take receipts back, for one node. `forwarding` sends them after keys that have moved: set it first."""

    forwarding: Forwarding

    def __init__(self, queues: KeyQueues, charges: UnsentCharges, linger: LingeringSettles, schedule: Schedule) -> None:
        self._loop = asyncio.get_running_loop()
        self._queues, self._charges, self._linger, self._schedule = queues, charges, linger, schedule.add

    def give_back(self, kid: str, receipt: Receipt, input_tokens: int, output_tokens: int) -> None:
        """Give back tokens of a request that was admitted with that receipt; negative numbers add.

        The tokens join the key's next batch, or start one.
        """
        # Each request passes here: a plain key's receipt is told by its class, and its queue by an exact match, because
        # other checks against an abstract class cost four times as much.
        if receipt.__class__ is not int and isinstance(receipt, _OF_ACCOUNTS):
            self._take_back_path(receipt, Amounts(0, input_tokens, output_tokens))
            return
        queue = self._queues[kid]
        if not isinstance(queue, KeyQueue):
            self._take_back_adopted(queue.member, receipt, Amounts(0, input_tokens, output_tokens))
            return
        knowledge = queue.knowledge
        if knowledge.recharges is None and receipt.__class__ is int:  # usually: counted by the store, and never lost
            knowledge.own.give_back(receipt, input_tokens, output_tokens)
            self.settle(queue, receipt, input_tokens, output_tokens)
        else:
            self.take_back(queue, receipt, input_tokens, output_tokens)

    def take_back(
        self, queue: SendQueue, receipt: Receipt, input_tokens: int, output_tokens: int, requests: int = 0
    ) -> None:
        """Give back where the receipt is counted now, including `requests` whose callers were refused."""
        if isinstance(receipt, _OF_ACCOUNTS):
            self._take_back_path(receipt, Amounts(requests, input_tokens, output_tokens))
            return
        if not isinstance(queue, KeyQueue):  # a plain key has become an account's since
            return
        charge = receipt if isinstance(receipt, Charge) else None
        bucket = receipt if isinstance(receipt, int) else charge.held_in if charge is not None else 0
        knowledge = queue.knowledge
        knowledge.own.give_back(bucket, input_tokens, output_tokens, requests)
        if charge is None or charge.is_counted:
            charge = knowledge.recharged(bucket, 0 if charge is None else charge.losses) or charge
        if charge is None:
            self.settle(queue, bucket, input_tokens, output_tokens, requests)
        elif charge.give_back(input_tokens, output_tokens, requests):
            self.settle(queue, charge.receipt, input_tokens, output_tokens, requests)
        else:
            self._queues.drop_unmet(queue)

    def move(self, queue: KeyQueue, member: Member, settles: Sequence[bytes], charges: Iterable[Charge]) -> None:
        """Let an account of its own take over what a plain key still had to settle and to charge.

        Without a minute window in the account, nothing of the plain key counts any more.
        """
        left = [charge for charge, _ in self._charges.take(queue, len(queue.charges or ()))]
        for charge in (*charges, *left):
            adopted = member.adopted(charge.bucket)
            charge.drop()
            if adopted is not None and member.policy is not None:  # it has moved on, into another account
                part = Part(member.kid, adopted.windows, adopted.time_ms, charge.amounts, is_charge=True)
                self.forwarding.add(member.kid, part)
            elif adopted is not None:
                account, kid, windows, _ = adopted
                charge.successor = PathCharge(account, kid, windows, charge.bucket, charge.amounts)
                self._charges.add(account, charge.successor)
        for settle in settles:
            bucket, input_tokens, output_tokens, requests = settled_amounts(settle)
            self._take_back_adopted(member, bucket, Amounts(requests, input_tokens, output_tokens))

    def _take_back_adopted(self, member: Member, receipt: Receipt, amounts: Amounts) -> None:
        """Give back what was counted, or charged, while the account was a plain key."""
        if isinstance(receipt, Charge):
            moved = receipt.successor
            if isinstance(moved, PathCharge):
                self._take_back_path(moved, amounts)
                return
            receipt = receipt.receipt if receipt.is_counted else None
        if isinstance(receipt, int) and (adopted := member.adopted(receipt)) is not None:
            if member.policy is None:
                self._take_back_path(adopted, amounts)
            else:
                part = Part(member.kid, adopted.windows, adopted.time_ms, amounts, is_charge=False)
                self.forwarding.add(member.kid, part)

    def _take_back_path(self, receipt: PathReceipt | PathCharge, amounts: Amounts) -> None:
        """Do the same for a request of an account's key."""
        account, kid, windows = receipt.account, receipt.kid, receipt.windows
        assert isinstance(account, AccountQueue)
        requests, input_tokens, output_tokens = amounts
        counted = receipt.receipt if isinstance(receipt, PathCharge) else receipt
        assert isinstance(counted, PathReceipt)
        tick = receipt.held_in if isinstance(receipt, PathCharge) else receipt.time_ms // BUCKET_MS
        account.knowledge.give_back(kid, windows, tick, amounts)
        if isinstance(receipt, PathCharge) and not receipt.give_back(input_tokens, output_tokens, requests):
            account.knowledge.note_owed(kid, windows, (-each for each in amounts))
            return
        kept, losses = [], receipt.losses if isinstance(receipt, PathCharge) else 0
        for window in windows:  # after a loss, each window has a charge of its own
            recharged = account.knowledge.recharged(kid, window, tick, losses)
            if recharged is None:
                kept.append(window)
            elif recharged.give_back(input_tokens, output_tokens, requests):
                self.settle(account, recharged.receipt, input_tokens, output_tokens, requests)
            else:
                account.knowledge.note_owed(kid, (window,), (-each for each in amounts))
        if len(kept) < len(windows):
            counted = counted._replace(windows=tuple(kept))
        if kept:
            self.settle(account, counted, input_tokens, output_tokens, requests)

    def settle(
        self, queue: SendQueue, receipt: Receipt, input_tokens: int, output_tokens: int, requests: int = 0
    ) -> None:
        """Give back what the store has counted, after the node's own window has; negative numbers charge."""
        if input_tokens < 0 or output_tokens < 0:
            # A charge, as for usage admitted elsewhere: if the store loses it, the node notices and charges again.
            beyond = Amounts(0, max(-input_tokens, 0), max(-output_tokens, 0))
            self._charges.add(queue, _charge(receipt, beyond))
            if isinstance(receipt, PathReceipt) and isinstance(queue, AccountQueue):
                queue.knowledge.note_owed(receipt.kid, receipt.windows, beyond)
            input_tokens, output_tokens = max(input_tokens, 0), max(output_tokens, 0)
            if not (input_tokens or output_tokens or requests):
                if queue.in_flight is None and not queue.is_scheduled:
                    self._schedule(queue)
                return
        if receipt.__class__ is int:
            assert isinstance(queue, KeyQueue)
            queue.settles.append(pack_settle(receipt, input_tokens, output_tokens, requests))
        else:
            assert isinstance(queue, AccountQueue)
            assert isinstance(receipt, PathReceipt)
            amounts = Amounts(requests, input_tokens, output_tokens)
            queue.settles.append(PathSettle(receipt.kid, receipt.windows, receipt.time_ms, amounts))
        if queue.in_flight is None and not queue.is_scheduled:
            if self._linger.is_busy and self._linger.add(queue, input_tokens, output_tokens, self._loop.time()):
                return
            self._schedule(queue)


def _charge(receipt: Receipt, amounts: Amounts) -> Charge:
    """Return a charge in the bucket, or the windows, of a receipt."""
    if isinstance(receipt, PathReceipt):
        account, kid, windows, time_ms = receipt
        return PathCharge(account, kid, windows, time_ms // BUCKET_MS, amounts)
    assert isinstance(receipt, int)
    return Charge(receipt, amounts)
