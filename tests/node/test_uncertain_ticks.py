"""Admissions of a node that didn't know the store's clock for sure: the store counts them in an earlier bucket.

The node adds them to its own windows at the latest that the clock can show, and finds them again where they are
counted: for what they give back, and for what a loss takes of them.
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable
from time import monotonic
from typing import Any

from accounts_in_store import put_account
from store_tools import declare, new_api_key, store_client
from test_accounts import a_key, a_name
from test_degraded import behind_proxy, local, recovered
from test_losses import restore, snapshot

from limiter_node.decisions import Decision, Need, Outcome
from limiter_node.limiter.admission import Limiter, Reservation
from limiter_node.limiter.own_window import OwnWindow
from limiter_node.limits import BUCKET_MS, WINDOW_BUCKETS, Amounts, KeyLimits
from limiter_node.plans import NO_LIMIT, PlannedWindow
from limiter_node.policy import REQUESTS, AccountPolicy, Limit, PolicyWindow, Subject
from limiter_node.policy_body import body_of
from limiter_node.store.accounts.charges import PathCharge, PathReceipt
from limiter_node.store.accounts.codec import Layout
from limiter_node.store.accounts.peek_codec import pack_peek, unpack_peek
from limiter_node.store.accounts.queue import AccountQueue
from limiter_node.store.charges import Charge
from limiter_node.store.decisions.dispatcher import Dispatcher
from limiter_node.store.key_queue import KeyQueue
from limiter_node.store.keyspace import member_key, policy_key, shared_key
from limiter_node.store.knowledge import KeyKnowledge
from limiter_node.store.scripts import load_script
from limiter_node.store.wire.script_target import ScriptTarget

NOW_MS = 1_700_000_000_000
NOTHING = Amounts(0, 0, 0)
NEED = Need(10, 100, 0, ("gpt-4o",))
WINDOW_MS = 11_000
"""The own window of such a window has cells of one bucket."""
BUCKETS = WINDOW_MS // BUCKET_MS
UNCERTAIN_S = 1.5
TARGET = ScriptTarget(load_script("policy"), 0, (), (), 0)
AMOUNTS = Amounts(1, 10, 100)


def decided(time_ms: int, need: Amounts = AMOUNTS) -> Decision:
    return Decision(Outcome.ADMITTED, -1, 0, NOTHING, NOTHING, NOTHING, need, time_ms, "")


# ---- the own window --------------------------------------------------------------------------------------------------


def test_an_uncertain_admission_stays_where_it_is_when_the_clock_is_known_better() -> None:
    window = OwnWindow(BUCKETS)
    window.note([decided(NOW_MS)], 1)
    window.add(NOW_MS + 2_000, AMOUNTS, NOW_MS)
    window.bring_back(NOW_MS + 100)
    assert window.reset_ms(NOW_MS).requests == 2_000 + WINDOW_MS + BUCKET_MS


def test_it_moves_to_where_the_store_has_counted_it() -> None:
    window, late = OwnWindow(BUCKETS), NOW_MS // BUCKET_MS + 20
    window.note([decided(NOW_MS)], 1)
    window.add(NOW_MS + 2_000, AMOUNTS, NOW_MS)
    window.note([decided(NOW_MS + 2_000)], 2)
    window.give_back(late, 0, 60)
    window.move(late, late, NOW_MS // BUCKET_MS + 3, Amounts(1, 10, 40))
    window.mark_counted(late - 17, late - 17, 3)
    assert window.counted_after(0, NOW_MS) == [
        (late - 20, AMOUNTS),
        (late - 17, Amounts(1, 10, 40)),
        (late, AMOUNTS),
    ]
    assert window.counted_after(2, NOW_MS) == [(late - 17, Amounts(1, 10, 40))]
    window.move(late, late, late - 17, Amounts(9, 99, 999))
    assert window.used(NOW_MS + 2_000) == Amounts(3, 30, 240), "it moves no more than there is"


def test_it_moves_from_all_the_buckets_of_a_charge() -> None:
    window, first = OwnWindow(BUCKETS), NOW_MS // BUCKET_MS
    for later in (10, 20, 30):
        window.add(NOW_MS + later * BUCKET_MS, AMOUNTS, NOW_MS)
    window.move(first + 20, first + 30, first + 5, Amounts(2, 20, 150))
    window.mark_counted(first, first + 40, 1)
    assert window.counted_after(0, NOW_MS) == [
        (first + 5, Amounts(2, 20, 150)),
        (first + 10, AMOUNTS),
        (first + 20, Amounts(0, 0, 50)),
        (first + 30, NOTHING),
    ]


# ---- what a node knows -----------------------------------------------------------------------------------------------


def account_queue(per_ms: int = WINDOW_MS) -> tuple[AccountQueue, PlannedWindow]:
    buckets = per_ms // BUCKET_MS
    window = PlannedWindow(b"window", False, "acme", per_ms, BUCKET_MS, buckets, (), (), (NO_LIMIT,) * 4, 0, 0)
    queue = AccountQueue("@acme", TARGET, body_of(AccountPolicy("acme")))
    queue.knowledge.learn_time(NOW_MS, monotonic(), monotonic())
    return queue, window


def key_queue() -> KeyQueue:
    knowledge = KeyKnowledge(BUCKETS)
    knowledge.learn_limits(KeyLimits(), NOW_MS, monotonic(), monotonic())
    return KeyQueue("kid", TARGET, knowledge)


def test_it_is_charged_again_after_a_loss_of_its_batch_alone() -> None:
    """The bucket in which it is counted has other admissions, of a batch that the store still has."""
    now, late = NOW_MS // BUCKET_MS, NOW_MS // BUCKET_MS + 20
    queue = key_queue()
    account, window = account_queue()
    for owner, own, charge in (
        (queue, queue.knowledge.own, Charge(late, AMOUNTS)),
        (
            account,
            account.knowledge._of(("", window.id), window).own,
            PathCharge(account, "k", (window,), late, AMOUNTS),
        ),
    ):
        own.note([decided(NOW_MS)], 1)
        own.add(NOW_MS + 2_000, AMOUNTS, NOW_MS)
        own.bring_back(NOW_MS)
        charge.mark_sent()
        owner.mark_counted(charge, now, 2)
        charge.mark_counted(now, AMOUNTS)
        assert sum(each.requests for each in owner.lose(1)) == 2


def test_what_it_gives_back_is_not_given_back_again_after_a_loss() -> None:
    """It waits to be sent when the loss is noticed, and the charges made again are already less by it."""
    now, late = NOW_MS // BUCKET_MS, NOW_MS // BUCKET_MS + 20
    account, window = account_queue()
    charge = PathCharge(account, "k", (window,), late, AMOUNTS)
    own = account.knowledge._of(("", window.id), window).own
    own.add(NOW_MS + 2_000, AMOUNTS, NOW_MS)
    charge.mark_sent()
    account.mark_counted(charge, now, 2)
    charge.mark_counted(now, AMOUNTS)
    receipt = charge.receipt
    assert isinstance(receipt, PathReceipt)
    account.knowledge.give_back("k", receipt.windows, charge.counted_in, Amounts(0, 0, 60))
    [again] = account.lose(1)
    assert again.amounts == Amounts(1, 10, 40)
    assert account.knowledge.recharged("k", window, charge.counted_in, charge.losses) is again


def test_what_is_admitted_after_a_loss_gives_back_in_its_own_bucket() -> None:
    """The node charges a cell again at the latest that it can be; the store counts that, and goes on from there."""
    first = NOW_MS // BUCKET_MS
    knowledge = KeyKnowledge(WINDOW_BUCKETS)
    knowledge.learn_limits(KeyLimits(), NOW_MS, monotonic() - 0.9, monotonic())
    knowledge.own.note([decided(NOW_MS)], 1)
    [plain], _ = knowledge.lose(0, [])
    account, window = account_queue(60_000)
    account.knowledge.learn_time(NOW_MS, monotonic() - 0.9, monotonic())
    account.knowledge._of(("", window.id), window).own.note([decided(NOW_MS)], 1)
    [again], _ = account.knowledge.lose(account, 0, [])
    for charge in (plain, again):
        assert charge.bucket == first + 9
        charge.mark_sent()
        charge.mark_counted(first + 3, charge.amounts)
    assert [knowledge.recharged(first + at) for at in (0, 3, 4)] == [plain, plain, None]
    assert [account.knowledge.recharged("k", window, first + at, 0) for at in (0, 3, 4)] == [again, again, None]


# ---- in the store ----------------------------------------------------------------------------------------------------

Ask = Callable[[], Awaitable[Reservation]]
Counted = dict[int, Amounts]


async def rolled_back_counts(
    dispatcher: Dispatcher, proxy: Any, knowledge: Any, ask: Ask, save: Callable[[], Callable[[], None]]
) -> Counted:
    """Return what each bucket has to hold after a rollback to before an outage; some of it ends only afterwards."""
    expected: defaultdict[int, list[int]] = defaultdict(lambda: [0, 0, 0])

    def expect(hold: Reservation, output_tokens: int) -> None:
        receipt = hold._receipt.receipt if isinstance(hold._receipt, Charge) else hold._receipt
        bucket = receipt.time_ms // BUCKET_MS if isinstance(receipt, PathReceipt) else receipt
        for dimension, amount in enumerate((1, 10, output_tokens)):
            expected[bucket][dimension] += amount

    expect(await ask(), 100)
    take_back = save()
    proxy.pass_requests = False
    cut_off = await ask()
    knowledge._asked_s -= UNCERTAIN_S  # as if the last reply had taken so long
    early, refunded, overrun = [await ask() for _ in range(3)]
    late = early._receipt.bucket
    knowledge._asked_s += UNCERTAIN_S
    refunded.settle(90)
    proxy.pass_requests = True
    await recovered(dispatcher)
    assert early._receipt.counted_in < late, "the machine is too slow for this test"
    held = []
    while time.time() * 1000 < (late + 1) * BUCKET_MS:
        held.append(await ask())
        await asyncio.sleep(0.02)
    take_back()
    held.append(await ask())
    early.settle(40)
    overrun.settle(130)
    assert await dispatcher.drain(20)
    for hold, output_tokens in ((cut_off, 100), (early, 40), (refunded, 90), (overrun, 130)):
        expect(hold, output_tokens)
    for hold in held:
        expect(hold, 100)
    return {bucket: Amounts(*amounts) for bucket, amounts in expected.items()}


async def test_a_plain_keys_admissions_end_where_they_are_counted(embedded_single: str) -> None:
    kid = declare(embedded_single, new_api_key())
    async with behind_proxy(embedded_single, policy=local(1), window_buckets=BUCKETS) as (proxy, dispatcher):
        limiter = Limiter(dispatcher)

        async def ask() -> Reservation:
            return limiter.reservation(kid, await limiter.admit(kid, NEED))

        def save() -> Callable[[], None]:
            before = snapshot(embedded_single, kid)
            return lambda: restore(embedded_single, kid, before)

        await ask()
        knowledge = dispatcher._queues[kid].knowledge
        first = await dispatcher.peek(kid)
        assert first is not None
        expected = await rolled_back_counts(dispatcher, proxy, knowledge, ask, save)
        usage = await dispatcher.peek(kid)
        assert usage is not None
        counted = {each.bucket: Amounts(*each[1:]) for each in usage.buckets}
        for each in first.buckets:
            here = expected.get(each.bucket, NOTHING)
            expected[each.bucket] = Amounts(*(one + other for one, other in zip(here, each[1:], strict=True)))
        assert counted == expected


async def test_an_accounts_admissions_end_where_they_are_counted(embedded_single: str) -> None:
    window = PolicyWindow(WINDOW_MS, (), (Limit(REQUESTS, 1_000_000),))
    alice, account = a_key("alice", window), AccountPolicy(a_name(), (Subject("", (window,)),))
    put_account(embedded_single, account, [alice])
    names = [shared_key(account.tag), member_key(account.tag, alice.kid)]
    async with behind_proxy(embedded_single, policy=local(1)) as (proxy, dispatcher):
        limiter = Limiter(dispatcher)
        assert await limiter.find(alice.kid) is None
        member = dispatcher._queues[alice.kid]

        async def ask() -> Reservation:
            return limiter.reservation(alice.kid, await limiter.admit(alice.kid, NEED))

        def save() -> Callable[[], None]:
            with store_client(embedded_single) as client:
                values = [client.dump(each) for each in names]

            def take_back() -> None:
                with store_client(embedded_single) as client:
                    for each, value in zip(names, values, strict=True):
                        client.restore(each, 900_000, value, replace=True)

            return take_back

        expected = await rolled_back_counts(dispatcher, proxy, member.account.knowledge, ask, save)
        layout = Layout()
        assert layout.path(alice.kid, member.whole_plan().windows)
        script = load_script("peek_paths").source
        found: list[list[Amounts]] = []
        buckets = range(min(expected), max(expected) + 2)
        with store_client(embedded_single) as client:
            for bucket in buckets:  # once all before it have left
                asked = pack_peek(layout, (bucket + BUCKETS) * BUCKET_MS)
                keys = [policy_key(account.tag), *names]
                reply = client.eval(script, len(keys), *keys, asked, alice.kid)
                found.append([each.used for each in unpack_peek(reply[-1])[1]])
        for at in range(2):
            counted = {
                bucket: Amounts(*(one - other for one, other in zip(now[at], after[at], strict=True)))
                for bucket, now, after in zip(buckets, found[:-1], found[1:], strict=False)
            }
            assert {bucket: amounts for bucket, amounts in counted.items() if any(amounts)} == expected
