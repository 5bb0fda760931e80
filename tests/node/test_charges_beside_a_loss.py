"""A charge that waited while the store lost data is counted in its own bucket, and so is what it gives back.

What was lost of the same cell of the node's own window is charged again in another bucket.
"""

from __future__ import annotations

from collections.abc import Sequence
from time import monotonic
from typing import NamedTuple

from limiter_node.limits import BUCKET_MS, WINDOW_BUCKETS, Amounts, KeyLimits, bucket_life_ms
from limiter_node.plans import NO_LIMIT, PlannedWindow
from limiter_node.policy import AccountPolicy
from limiter_node.policy_body import body_of
from limiter_node.store.accounts.charges import PathCharge
from limiter_node.store.accounts.knowledge import AccountKnowledge
from limiter_node.store.accounts.queue import AccountQueue
from limiter_node.store.charges import Charge
from limiter_node.store.codec import pack_limits_reply
from limiter_node.store.knowledge import KeyKnowledge
from limiter_node.store.scripts import load_script
from limiter_node.store.wire.script_target import ScriptTarget


class Asked(NamedTuple):
    """The batch of a reply."""

    number: int
    operations: Sequence[bytes] = ()
    since_s: float = 100.0


NOW_MS = 1_700_000_000_000
HOUR = PlannedWindow(b"window", False, "acme", 3_600_000, 6_000, 600, (), (), (NO_LIMIT,) * 4, 0, 0)
FIRST = NOW_MS // BUCKET_MS
"""The first tick of a cell of both windows."""


def test_of_an_account() -> None:
    target = ScriptTarget(load_script("policy"), 0, (), (), 0)
    account = AccountQueue("@acme", target, body_of(AccountPolicy("acme")))
    knowledge = account.knowledge
    knowledge.learn_time(NOW_MS + 30_000, monotonic(), monotonic())
    windows = (HOUR,)
    lost = knowledge._of(("", HOUR.id), HOUR)
    lost.own.add(FIRST * BUCKET_MS, Amounts(1, 0, 100), NOW_MS)
    lost.own.mark_counted(FIRST, FIRST, 7)
    unsent = PathCharge(account, "kid", windows, FIRST + 1, Amounts(1, 0, 50))
    lost.own.add(unsent.bucket * BUCKET_MS, unsent.amounts, NOW_MS)
    [recharge], _ = knowledge.lose(account, 0, [unsent])
    assert recharge.amounts == Amounts(1, 0, 100)
    assert knowledge.recharged("kid", HOUR, FIRST, 0) is recharge
    assert knowledge.recharged("kid", HOUR, unsent.bucket, unsent.losses) is None
    unsent.mark_sent()
    unsent.mark_counted(unsent.bucket, unsent.amounts)
    lost.own.mark_counted(unsent.bucket, unsent.bucket, 9)
    [again], _ = knowledge.lose(account, 0, [])
    assert again.amounts == Amounts(2, 0, 150)
    assert knowledge.recharged("kid", HOUR, unsent.bucket, unsent.losses) is again


def test_of_a_plain_key() -> None:
    knowledge = KeyKnowledge(WINDOW_BUCKETS)
    knowledge.learn_limits(KeyLimits(), NOW_MS + 500, monotonic(), monotonic())
    knowledge.own.add(FIRST * BUCKET_MS, Amounts(1, 0, 100), NOW_MS)
    knowledge.own.mark_counted(FIRST, FIRST, 7)
    unsent = Charge(FIRST + 1, Amounts(1, 0, 50))
    knowledge.own.add(unsent.bucket * BUCKET_MS, unsent.amounts, NOW_MS)
    [recharge], _ = knowledge.lose(0, [unsent])
    assert recharge.amounts == Amounts(1, 0, 100)
    assert knowledge.recharged(FIRST) is recharge
    assert knowledge.recharged(unsent.bucket, unsent.losses) is None
    unsent.mark_sent()
    unsent.mark_counted(unsent.bucket, unsent.amounts)
    knowledge.own.mark_counted(unsent.bucket, unsent.bucket, 9)
    [again], _ = knowledge.lose(0, [])
    assert knowledge.recharged(unsent.bucket, unsent.losses) is again


def test_a_record_is_expected_until_its_batch_has_left_the_window() -> None:
    """A bucket leaves as a whole, up to a bucket after a window's length: until then a loss has to be noticed."""
    knowledge = KeyKnowledge(10)
    knowledge.learn(pack_limits_reply(KeyLimits(), NOW_MS), Asked(7), 100.0, 7)
    assert (knowledge.recorded, knowledge.recorded_until_s) == (7, 100.0 + bucket_life_ms(10) / 1000)
    account, before_s = AccountKnowledge(), monotonic()
    account.learn_record(7)
    assert account.recorded_until_s >= before_s + bucket_life_ms() / 1000
