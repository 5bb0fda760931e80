"""What waits in an account: turns of its keys, bounds, and what is forgotten."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections import Counter
from time import monotonic
from typing import Any

import pytest
from accounts_in_store import put_account
from dispatching import dispatching
from store_tools import new_api_key
from test_accounts import a_key, a_name, decide, minute
from test_accounts_once import HOUR, ONE, admitted, used
from test_degraded import behind_proxy

from limiter_node.credentials import key_id
from limiter_node.decisions import Decision, Need, Outcome
from limiter_node.errors import Overloaded
from limiter_node.key_states import CredentialState
from limiter_node.limiter.admission import Limiter
from limiter_node.limits import MAX_BATCH, Amounts
from limiter_node.plans import Plan
from limiter_node.policy import REQUESTS, AccountPolicy, KeyPolicy, Limit, PolicyWindow, Subject
from limiter_node.policy_body import body_of
from limiter_node.store.accounts import costs
from limiter_node.store.accounts import member as member_module
from limiter_node.store.accounts import queue as queue_module
from limiter_node.store.accounts.batch import PathAdmits
from limiter_node.store.accounts.batch_making import make_batch
from limiter_node.store.accounts.charges import PathCharge, PathSettle
from limiter_node.store.accounts.codec import Layout, WindowUse
from limiter_node.store.accounts.knowledge import AccountKnowledge
from limiter_node.store.accounts.member import Member
from limiter_node.store.accounts.queue import AccountQueue
from limiter_node.store.batch import Admit
from limiter_node.store.decisions import queues
from limiter_node.store.scripts import load_script
from limiter_node.store.unsent_charges import UnsentCharges
from limiter_node.store.wire.script_target import ScriptTarget


class Waiting:
    """An account with keys, and batches made of what waits, without a store."""

    def __init__(self, *keys: KeyPolicy, limit: int = 100) -> None:
        account = AccountPolicy("acme", (Subject("", (minute(Limit(REQUESTS, limit)),)),))
        self.account = AccountQueue(
            account.tag, ScriptTarget(load_script("policy"), 0, (b"k",), (), 0), body_of(account)
        )
        self.account.knowledge.learn_time(1_763_900_000_000, 0.0, 0.0)
        self.members = [Member(self.account, each.kid, body_of(each)) for each in keys]
        self.unsent = UnsentCharges(600)
        self.admits: list[Admit] = []
        self.layout = Layout()

    def ask(self, member: Member, count: int = 1, need: Need = ONE) -> list[Admit]:
        loop = asyncio.get_running_loop()
        asked = [Admit(member, need, loop.create_future(), 0.0) for _ in range(count)]
        for each in asked:
            member.add(each)
        return asked

    def next_batch(self) -> Counter[str]:
        """How many requests of each key the next batch has; they are in `admits`."""
        self.admits, self.layout = [], Layout()

        def begin(layout: Layout, admits: PathAdmits) -> Any:
            self.layout, self.admits = layout, admits.admits
            return _Made()

        made = make_batch(self.account, self.unsent, begin)
        assert made is None or made.size + len(self.admits) <= MAX_BATCH
        return Counter(each.queue.kid for each in self.admits)


class _Made:
    """Takes what a batch is told."""

    size = 0


def key(number: int, *windows: PolicyWindow) -> KeyPolicy:
    return KeyPolicy(f"{number:032x}", f"k{number}", "", windows)


# ---- turns -----------------------------------------------------------------------------------------------------------


async def test_a_key_that_floods_waits_behind_itself() -> None:
    waiting = Waiting(*(key(n) for n in range(5)))
    flood, *others = waiting.members
    waiting.ask(flood, 1_000)
    for each in others:
        waiting.ask(each, 2)
    assert waiting.next_batch() == {flood.kid: MAX_BATCH - 8, **{each.kid: 2 for each in others}}
    assert waiting.account.waiting == 1_000 - (MAX_BATCH - 8)
    assert waiting.next_batch() == {flood.kid: MAX_BATCH}


async def test_keys_take_turns_where_a_batch_costs_all_that_it_may() -> None:
    """Each key has four windows of its own: a batch takes some keys, and goes on where it ended."""
    windows = tuple(PolicyWindow(per_ms, (), (Limit(REQUESTS, 9),)) for per_ms in (1_000, 60_000, HOUR, 24 * HOUR))
    waiting = Waiting(*(key(n, *windows) for n in range(40)))
    for each in waiting.members:
        waiting.ask(each, 3)
    seen: Counter[str] = Counter()
    batches = 0
    while found := waiting.next_batch():
        own = len(waiting.layout.windows())
        assert own * costs.WINDOW + found.total() * 5 * costs.ADMIT <= costs.BUDGET
        seen += found
        batches += 1
        least, most = min(seen[each.kid] for each in waiting.members), max(seen.values())
        assert most - least <= 3
    assert seen == {each.kid: 3 for each in waiting.members}
    assert batches == 40 * 3 // 3
    assert waiting.account.waiting == 0
    assert not waiting.account.has_admits


async def test_requests_keep_their_order_where_the_account_rejects() -> None:
    waiting = Waiting(key(0), key(1))
    for _ in range(3):
        for each in waiting.members:
            waiting.ask(each)
    assert waiting.next_batch()
    assert [each.queue for each in waiting.admits] == [waiting.members[0]] * 3 + [waiting.members[1]] * 3
    waiting.account.was_rejecting = True
    for _ in range(3):
        for each in waiting.members:
            waiting.ask(each)
    assert waiting.next_batch()
    assert [each.queue for each in waiting.admits] == [*waiting.members] * 3


async def test_requests_that_come_back_are_the_first_again() -> None:
    waiting = Waiting(*(key(n) for n in range(3)))
    asked = [waiting.ask(each, 40) for each in waiting.members]
    waiting.next_batch()
    first = list(waiting.admits)
    waiting.account.put_admits_back(first)
    assert waiting.account.waiting == 120
    assert [list(each.admits) for each in waiting.members] == asked
    assert waiting.next_batch()
    for each, all_of_it in zip(waiting.members, asked, strict=True):
        again = [admit for admit in waiting.admits if admit.queue is each]
        assert again == all_of_it[: len(again)]
        assert len(again) >= MAX_BATCH // 3
    everything = waiting.account.take_unsent()
    assert len(everything) == 120 - MAX_BATCH
    assert waiting.account.waiting == 0
    assert not any(each.admits or each.is_waiting for each in waiting.members)
    waiting.account.put_admits_back(everything)
    assert sum(waiting.next_batch().values()) == 120 - MAX_BATCH
    assert waiting.account.waiting == 0


async def test_one_keys_requests_are_taken_out_alone() -> None:
    waiting = Waiting(key(0), key(1))
    for each in waiting.members:
        waiting.ask(each, 5)
    taken = waiting.account.take_unsent_of(waiting.members[0])
    assert len(taken) == 5
    assert waiting.next_batch() == {waiting.members[1].kid: 5}
    assert waiting.account.waiting == 0
    assert waiting.account.take_unsent_of(waiting.members[0]) == []


async def test_charges_leave_before_any_request_and_settles_leave_it_room() -> None:
    own = PolicyWindow(60_000, (), (Limit(REQUESTS, 9),))
    waiting = Waiting(*(key(n, own) for n in range(200)))
    account, asking = waiting.account, waiting.members[-1]
    for each in waiting.members[:100]:
        plan = each.plan((), 1)
        waiting.unsent.add(account, PathCharge(account, each.kid, plan.windows, 17_639_000_000, Amounts(1, 1, 1)))
        account.settles.append(PathSettle(each.kid, plan.windows, 1_763_900_000_000, Amounts(0, 1, 1)))
    waiting.ask(asking)
    found = waiting.next_batch()
    most = (costs.BUDGET - costs.WINDOW) // (costs.WINDOW + 2 * costs.OTHER)
    assert len(account.charges or ()) == 100 - most
    while account.charges:
        assert not found
        found = waiting.next_batch()
    while not found:
        assert account.settles
        found = waiting.next_batch()
    assert found == {asking.kid: 1}
    assert account.settles, "the request didn't wait for all of them"


@pytest.mark.parametrize("charges", range(MAX_BATCH - 4, MAX_BATCH + 2))
async def test_a_batch_that_charges_nearly_fill_has_no_more_operations_than_others(charges: int) -> None:
    waiting = Waiting(key(0))
    account, [member] = waiting.account, waiting.members
    windows = member.plan((), 1).windows
    for _ in range(charges):
        waiting.unsent.add(account, PathCharge(account, member.kid, windows, 17_639_000_000, Amounts(1, 1, 1)))
    for _ in range(3 * MAX_BATCH):
        account.settles.append(PathSettle(member.kid, windows, 1_763_900_000_000, Amounts(0, 1, 1)))
    waiting.ask(member, 2 * MAX_BATCH)
    waiting.next_batch()
    assert len(account.settles) >= 2 * MAX_BATCH


@pytest.mark.parametrize("own", [1, 4])
async def test_settles_keep_up_where_requests_always_wait(own: int) -> None:
    """Each request is settled once, so a backlog of settles would grow for as long as requests came too fast."""
    windows = [PolicyWindow(per_ms, (), (Limit(REQUESTS, 9),)) for per_ms in (60_000, 1_000, HOUR, 24 * HOUR)]
    waiting = Waiting(*(key(n, *windows[:own]) for n in range(40)))
    account, admitted_in_all = waiting.account, 0
    for _ in range(500):
        for each in waiting.members:
            if not each.admits:
                waiting.ask(each)
        waiting.next_batch()
        assert waiting.admits
        admitted_in_all += len(waiting.admits)
        for admit in waiting.admits:
            assert isinstance(admit.queue, Member)
            plan = admit.queue.plan((), 1)
            account.settles.append(PathSettle(admit.queue.kid, plan.windows, 1_763_900_000_000, Amounts(0, 0, 1)))
        assert len(account.settles) <= 2 * MAX_BATCH
    assert admitted_in_all >= 500


# ---- bounds ----------------------------------------------------------------------------------------------------------


async def test_a_key_has_a_bound_and_its_callers_that_left_do_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(member_module, "MOST_PER_KEY", 10)
    waiting = Waiting(key(0), key(1))
    flood, other = waiting.members
    asked = waiting.ask(flood, 10)
    with pytest.raises(Overloaded):
        waiting.ask(flood)
    waiting.ask(other)
    assert waiting.account.waiting == 11
    for each in asked[:4]:
        each.future.cancel()
    waiting.ask(flood, 4)
    with pytest.raises(Overloaded):
        waiting.ask(flood)
    assert waiting.next_batch() == {flood.kid: 10, other.kid: 1}
    assert waiting.account.waiting == 0


async def test_keys_that_fill_an_account_leave_each_other_their_share(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queue_module, "MOST_PER_ACCOUNT", 20)
    waiting = Waiting(*(key(n) for n in range(10)))
    for flood in waiting.members[:2]:
        waiting.ask(flood, 10)
    for each in waiting.members[2:]:
        waiting.ask(each)
        waiting.ask(each)
    for each in waiting.members:
        with pytest.raises(Overloaded):
            waiting.ask(each)
    assert waiting.account.waiting == 20 + 16
    while waiting.next_batch():
        pass
    assert waiting.account.waiting == 0


async def test_a_flood_of_one_key_is_refused_and_others_are_decided(
    embedded_single: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(member_module, "MOST_PER_KEY", 50)
    account, keys = AccountPolicy(a_name(), (Subject("", (minute(Limit(REQUESTS, 1_000)),)),)), [a_key("a"), a_key("b")]
    put_account(embedded_single, account, keys)
    async with behind_proxy(embedded_single, timeout_ms=20_000) as (proxy, dispatcher):
        assert await admitted(dispatcher, [each.kid for each in keys], 1) == 2
        proxy.pass_replies = False
        proxy.swallowed.clear()
        under_way = dispatcher.admit(keys[0].kid, ONE)
        await proxy.swallowed.wait()
        flood = [dispatcher.admit(keys[0].kid, ONE) for _ in range(50)]
        with pytest.raises(Overloaded):
            dispatcher.admit(keys[0].kid, ONE)
        other = dispatcher.admit(keys[1].kid, ONE)
        proxy.pass_replies = True
        proxy.reset_all()
        decisions = await asyncio.gather(under_way, other, *flood)
        assert {each.outcome for each in decisions} == {Outcome.ADMITTED}
        assert dispatcher._queues[keys[0].kid].account.waiting == 0


# ---- memory ----------------------------------------------------------------------------------------------------------


async def test_keys_of_accounts_are_forgotten_as_others_are(
    embedded_single: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The least recently used first, also of an account that is always busy; with its last key an account goes, too."""
    monkeypatch.setattr(queues, "MOST", 5)
    monkeypatch.setattr(queues, "MOST_OF_ALL", 5)
    account, keys = (
        AccountPolicy(a_name(), (Subject("", (minute(Limit(REQUESTS, 1_000)),)),)),
        [a_key(f"k{n}") for n in range(20)],
    )
    put_account(embedded_single, account, keys)
    others = [AccountPolicy(a_name()) for _ in range(6)]
    of_others = [a_key("k") for _ in others]
    for each, its_key in zip(others, of_others, strict=True):
        put_account(embedded_single, each, [its_key])
    async with dispatching(embedded_single) as dispatcher:
        busy = (
            [dispatcher.admit(keys[0].kid, ONE)] if await dispatcher.find(keys[0].kid) is CredentialState.VALID else []
        )
        for each in keys[1:]:
            busy.append(dispatcher.admit(keys[0].kid, ONE))
            assert await dispatcher.find(each.kid) is CredentialState.VALID
            assert len(dispatcher._queues) <= 6
        await asyncio.gather(*busy)
        busy.clear()
        gone = weakref.ref(dispatcher._queues[keys[-1].kid].account)
        for its_key in of_others:
            assert await dispatcher.find(its_key.kid) is CredentialState.VALID
        assert len(dispatcher._queues) <= 6
        assert not any(each.kid in dispatcher._queues for each in keys)
        dispatcher._pending.admits.clear()  # the next sweep does the same
        gc.collect()
        assert gone() is None
        assert await used(dispatcher, keys[0].kid) == [Amounts(20, 20, 20)]


async def test_invented_keys_leave_nothing_beside_known_ones(embedded_single: str) -> None:
    account, alice = AccountPolicy(a_name(), (Subject("", (minute(Limit(REQUESTS, 1_000)),)),)), a_key("alice")
    put_account(embedded_single, account, [alice])
    async with dispatching(embedded_single) as dispatcher:
        assert await admitted(dispatcher, [alice.kid], 1) == 1
        found = await asyncio.gather(*(dispatcher.find(key_id(new_api_key())) for _ in range(3_000)))
        assert set(found) == {CredentialState.UNKNOWN}
        assert len(dispatcher._queues) == 1
        assert not dispatcher._queues.unmet
        assert not dispatcher._accounts._reading


def test_windows_in_which_nothing_counts_are_forgotten_a_few_at_a_time() -> None:
    waiting = Waiting(key(0, PolicyWindow(60_000, (), (Limit(REQUESTS, 9),))))
    knowledge = AccountKnowledge()
    plan = waiting.members[0].plan((), 1)
    own = plan.windows[-1]
    for number in range(5_000):
        time_ms = 1_763_900_000_000 + 100 * number
        newest = time_ms // 100
        use = WindowUse(Amounts(1, 1, 1), Amounts(newest, newest, newest))
        knowledge.learn_time(time_ms, 0.0, monotonic())
        knowledge.learn([((f"{number:032x}", own.id), own, use)], is_complete=True)
    assert 600 <= len(knowledge._windows) <= 1_300


async def test_a_long_stream_keeps_its_account_and_nothing_else_does(embedded_single: str) -> None:
    account, alice = AccountPolicy(a_name(), (Subject("", (minute(Limit(REQUESTS, 1_000)),)),)), a_key("alice")
    put_account(embedded_single, account, [alice])
    async with dispatching(embedded_single) as dispatcher:
        limiter = Limiter(dispatcher)
        hold = limiter.reservation(alice.kid, await decide(dispatcher, alice.kid, Need(1, 100, 0)))
        of_account = weakref.ref(dispatcher._queues[alice.kid].account)
        del dispatcher._queues[alice.kid]
        gc.collect()
        assert await dispatcher.find(alice.kid) is CredentialState.VALID
        assert dispatcher._queues[alice.kid].account is of_account(), "one queue for all batches of an account"
        hold.settle(3)
        assert await dispatcher.drain(5)
        assert await used(dispatcher, alice.kid) == [Amounts(1, 1, 3)]
        del dispatcher._queues[alice.kid], hold
        dispatcher._pending.admits.clear()
        gc.collect()
        assert of_account() is None


@pytest.mark.parametrize(("keys", "most"), [(10, 3), (2_000, 1)])
def test_many_windows_are_charged_again_in_few_charges(keys: int, most: int) -> None:
    """Each key was admitted once in each of three cells."""
    waiting = Waiting(key(0, PolicyWindow(60_000, (), (Limit(REQUESTS, 9),))))
    knowledge = AccountKnowledge()
    window = waiting.members[0].plan((), 1).windows[-1]
    plan = Plan("", (window,), 0, "path", 0)
    time_ms = 1_763_900_000_000
    for at in range(3):
        knowledge.learn_time(time_ms + 1_000 * at, monotonic(), monotonic())
        decision = Decision(
            Outcome.ADMITTED, -1, 0, *[Amounts(0, 0, 0)] * 3, Amounts(1, 2, 3), time_ms + 1_000 * at, ""
        )
        knowledge.note([(f"{n:032x}", plan, [decision]) for n in range(keys)], 7)
    charges, lost = knowledge.lose(waiting.account, 6, ())
    assert len(lost) == 3 * keys
    assert Counter(each.kid for each in charges) == {f"{n:032x}": most for n in range(keys)}
    assert {kid: sum(each.requests for each in charges if each.kid == kid) for kid in ("0" * 32,)} == {"0" * 32: 3}
    assert sum(each.output_tokens for each in charges) == 9 * keys
    latest = (time_ms + 2_000) // 100
    assert max(each.bucket for each in charges) >= latest
    for at in range(3):
        charge = knowledge.recharged("0" * 32, window, time_ms // 100 + 10 * at, 0)
        assert charge is not None
        assert charge.bucket >= time_ms // 100 + 10 * at
    assert knowledge.lose(waiting.account, 7, ()) == ([], set())
    for charge in charges:  # counted again, and lost again
        knowledge.mark_counted(charge, charge.bucket, 9)
    assert knowledge.lose(waiting.account, 8, ())[1] == lost
