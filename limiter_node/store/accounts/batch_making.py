"""Makes an account's next batch of what waits: charges, which are history; settles, which make room; then requests.

The keys of the account take turns: each batch takes one request of each key that waits, then the next of each. A batch
ends where it would cost more than a call of the script may (``costs``). No request leaves before all charges have left:
they are admissions, and the request might take the room that they have used. Settles leave half of that to
requests that wait. As long as they don't fit into their half, no more requests are taken than settles: each request is
settled once, so that more would let the settles, and what they have to give back, pile up.
"""

from __future__ import annotations

from collections.abc import Callable

from limiter_node.limits import BUCKET_MS, MAX_BATCH
from limiter_node.store.accounts import costs
from limiter_node.store.accounts.batch import PathAdmits, PathBatch
from limiter_node.store.accounts.charges import PathCharge, PathSettle
from limiter_node.store.accounts.codec import Layout, pack_charge, pack_settle
from limiter_node.store.accounts.member import Member
from limiter_node.store.accounts.queue import AccountQueue
from limiter_node.store.charges import Charge
from limiter_node.store.unsent_charges import UnsentCharges


def make_batch(
    account: AccountQueue, unsent: UnsentCharges, begin: Callable[[Layout, PathAdmits], PathBatch]
) -> PathBatch | None:
    """Return the next batch, made by `begin`; None if nothing waits."""
    layout = Layout()
    paths: list[int] = []

    def has_room(charge: Charge) -> bool:
        assert isinstance(charge, PathCharge)
        paths.append(layout.path(account.hash_of(charge.kid), charge.windows, cost=costs.OTHER))
        return paths[-1] > 0

    others = []
    charges = unsent.take(account, MAX_BATCH, has_room)
    for (charge, amounts), path in zip(charges, paths, strict=False):  # the last path may be of one that has no room
        assert isinstance(charge, PathCharge)
        others.append(pack_charge(path, charge.bucket * BUCKET_MS, *amounts))
    room = MAX_BATCH - len(others)
    if account.has_admits:
        settles = _take_settles(account, layout, (room + 1) // 2, others, most_cost=costs.BUDGET // 2)
    else:
        settles = _take_settles(account, layout, room, others)
    room = MAX_BATCH - len(others)
    most = min(len(settles), room) if account.settles else room
    admits = _take_admits(account, layout, 0 if account.charges else most)
    settles += _take_settles(account, layout, room - len(admits.admits), others)
    if not others and not admits.admits:
        return None
    batch = begin(layout, admits)
    batch.others_packed, batch.settles, batch.charges = others, settles, charges
    batch.size += len(others)
    return batch


def _take_settles(
    account: AccountQueue, layout: Layout, most: int, packed: list[bytes], *, most_cost: int = costs.BUDGET
) -> list[PathSettle]:
    taken: list[PathSettle] = []
    for settle in account.settles[:most]:
        path = layout.path(account.hash_of(settle.kid), settle.windows, cost=costs.OTHER, most=most_cost)
        if not path:
            break
        packed.append(pack_settle(path, settle.time_ms, *settle.amounts))
        taken.append(settle)
    del account.settles[: len(taken)]
    account.lingering_tokens = 0
    return taken


def _skip_unsent(account: AccountQueue, member: Member) -> int:
    """Take the oldest requests of a key off its queue as long as they are not to be sent.

    Return when the credential of the first one that is to be sent ends; 0 if it doesn't, or there is none.

    The callers of some have given up. Others have a credential that isn't good by the policy under which the batch is
    sent: the script doesn't know credentials, and would admit them.
    """
    admits = member.admits
    while admits:
        is_given_up = admits[0].future.done()
        if not is_given_up and (ends_ms := member.end_of(admits[0].queue.cid)) is not None:
            return ends_ms
        admit = admits.popleft()
        account.waiting -= 1
        if not is_given_up:
            account.refused.append(admit)
    return 0


def _take_admits(account: AccountQueue, layout: Layout, most: int) -> PathAdmits:
    turn, taken, now_ms = account.turn, PathAdmits(), account.knowledge.now_ms() or 0
    while turn and len(taken.admits) < most:
        member = turn.popleft()
        assert isinstance(member, Member)
        admits = member.admits
        ends_ms = _skip_unsent(account, member)
        if admits:
            plan = member.plan(admits[0].need.models, now_ms)
            path = layout.path(account.hash_of(member.kid), plan.windows, ends_ms=ends_ms, is_current=True)
            if not path:
                turn.appendleft(member)
                break
            taken.add(admits.popleft(), plan, path, ends_ms)
            account.waiting -= 1
        if admits:
            turn.append(member)
        else:
            member.is_waiting = False
    # Runs of one path cost the script half as much. But where a limit of the account binds, the order decides.
    if not account.was_rejecting:
        taken.sort()
    return taken
