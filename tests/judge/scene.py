"""One run's nodes, proxies and keys on a store, and the actions that faults are made of."""

from __future__ import annotations

import asyncio
import random
from collections import defaultdict

from limiter_node.limits import KeyLimits
from limiter_node.store.admin.store_admin import StoreAdmin

from .drawing import AccountPlan
from .node import DeclaredKeys, JudgedNode
from .policies import Declared
from .proxy import LyingProxy
from .records import AccountHistory, AccountPut, Deletion, KeyHistory, Loss, Put, Record, Rollback, Triple, clock_ms
from .store import JudgedStore
from .traffic import KeyPlan


class Scene:
    """`proxies` has one per node's position; none on a cluster. `declared` is what nodes may declare again, or None."""

    def __init__(
        self,
        record: Record,
        store: JudgedStore,
        admin: StoreAdmin,
        proxies: list[LyingProxy],
        declared: DeclaredKeys | None,
        rng: random.Random,
    ) -> None:
        self.record, self.store, self.admin, self.proxies, self.rng = record, store, admin, proxies, rng
        self.declared = declared
        self.plans: list[KeyPlan] = []
        """The plain keys."""
        self.accounts: list[AccountPlan] = []
        self.current: dict[str, Declared] = {}
        """The accounts as they are declared now, by hash tag."""
        self.nodes: list[JudgedNode] = []
        self.ended: list[JudgedNode] = []
        self.key_locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        """Held while something is done to a plain key, by kid, or to an account, by hash tag."""
        self.stall_timeout_s = 0.3
        self.clock_s = 0.0
        """How far the server's clock has been stepped."""
        self._incarnations = 0

    @property
    def window_s(self) -> float:
        """The length of a window."""
        return self.record.window_ms / 1000

    def all_keys(self) -> list[KeyPlan]:
        """Return the plain keys and the accounts' keys."""
        return [*self.plans, *(key for account in self.accounts for key in account.keys)]

    # ---- nodes -------------------------------------------------------------------------------------------------------

    async def start_node(self, position: int) -> None:
        """Start a node, in place of the one that was there."""
        url = f"redis://127.0.0.1:{self.proxies[position].port}" if self.proxies else self.store.url
        node = await JudgedNode.start(
            self.record, self._incarnations, url, declared=self.declared, stall_timeout_s=self.stall_timeout_s
        )
        self._incarnations += 1
        if position < len(self.nodes):
            self.ended.append(self.nodes[position])
            self.nodes[position] = node
        else:
            self.nodes.append(node)

    async def replace_node(self, position: int) -> None:
        """A node dies without draining, and a new one takes its place."""
        old = self.nodes[position]
        self.record.note(f"node {old.incarnation} dies")
        if self.proxies:
            self.proxies[position].reset_all()
        # The new one is there first, so that no request meets a closed one.
        await self.start_node(position)
        await old.die()

    # ---- keys --------------------------------------------------------------------------------------------------------

    async def put(self, kid: str, limits: Triple, reserve: int) -> None:
        """Declare a key, to the store and to the nodes."""
        declared = KeyLimits(*limits, reserve, "judged")
        if self.declared is not None:
            self.declared.put(kid, declared)
        history = self.record.keys.setdefault(kid, KeyHistory(is_declared=self.declared is not None))
        begun_ms = clock_ms()
        await self.admin.put_limits(kid, declared)
        history.puts.append(Put(begun_ms, clock_ms(), limits, reserve))
        self.record.note(f"key {kid[:6]} has {limits}")

    async def delete(self, kid: str) -> None:
        """Delete a key on purpose."""
        if self.declared is not None:
            self.declared.remove(kid)
        begun_ms = clock_ms()
        # Written down before it is over: a request may be told at once.
        await self.admin.delete(kid)
        self.record.keys[kid].deletions.append(Deletion(begun_ms, clock_ms()))
        self.record.note(f"key {kid[:6]} is deleted")

    async def lose(self, kid: str, *, with_limits: bool) -> None:
        """All that was counted of a key is lost."""
        begun_ms = clock_ms()
        await self.store.lose(kid, with_limits=with_limits)
        self.record.keys[kid].losses.append(Loss(begun_ms, clock_ms(), with_limits=with_limits))
        self.record.note(f"key {kid[:6]} is lost{', its limits too' * with_limits}")

    async def lose_all(self) -> None:
        """Everything is lost, also the marks of keys that were taken out; accounts are put again at once."""
        begun_ms = clock_ms()
        await self.store.lose_all()
        for history in self.record.keys.values():
            history.losses.append(Loss(begun_ms, clock_ms(), with_limits=True, with_marks=True))
        self.record.note("everything is lost")
        for plan in self.accounts:
            self._note_loss(plan.tag, begun_ms, with_policies=True)
            await self.put_account(self.current[plan.tag], is_lost=True)

    # ---- accounts ----------------------------------------------------------------------------------------------------

    async def put_account(self, declared: Declared, *, is_lost: bool = False) -> None:
        """Declare an account to the store. `is_lost`: the store has nothing of it."""
        tag = declared.tag
        history = self.record.accounts.setdefault(tag, AccountHistory())
        self.record.account_of.update(dict.fromkeys(declared.keys, tag))
        begun_ms = clock_ms()
        all_kids = [kid for kid, of in self.record.account_of.items() if of == tag]
        await self.store.accounts.write(declared, None if is_lost else self.current.get(tag), all_kids)
        history.puts.append(AccountPut(begun_ms, clock_ms(), declared))
        self.current[tag] = declared
        self.record.note(f"account {tag[:8]} has keys {[kid[:6] for kid in declared.keys]}, {_told(declared)}")

    async def lose_account(self, plan: AccountPlan, *, with_policies: bool, until_put_s: float = 0.0) -> None:
        """All that was counted of an account is lost; its policies, too, until they are put again."""
        begun_ms = clock_ms()
        await self.store.accounts.lose(plan.declared, with_policies=with_policies)
        self._note_loss(plan.tag, begun_ms, with_policies=with_policies)
        self.record.note(f"account {plan.tag[:8]} is lost{', its policies too' * with_policies}")
        if with_policies:
            await asyncio.sleep(until_put_s)
            await self.put_account(self.current[plan.tag], is_lost=True)

    def _note_loss(self, tag: str, begun_ms: float, *, with_policies: bool) -> None:
        history, ended_ms = self.record.accounts[tag], clock_ms()
        history.losses.append(Loss(begun_ms, ended_ms, with_limits=with_policies))
        if with_policies:
            history.puts.append(AccountPut(begun_ms, ended_ms, Declared(tag), is_loss=True))

    async def roll_account_back(self, plan: AccountPlan, after_s: float) -> None:
        """What is counted of an account now comes back later."""
        async with self.store.commands:
            dump_begun_ms = clock_ms()
            dumped = await self.store.accounts.dump(plan.declared)
            dump_ended_ms = clock_ms()
        await asyncio.sleep(after_s)
        async with self.store.commands:
            begun_ms = clock_ms()
            await self.store.accounts.restore(plan.declared, dumped)
            history = self.record.accounts[plan.tag]
            history.rollbacks.append(Rollback(begun_ms, clock_ms(), dump_begun_ms, dump_ended_ms))
        self.record.note(f"account {plan.tag[:8]} is rolled back by {begun_ms - dump_begun_ms:.0f} ms")

    # ---- a plain key's past ------------------------------------------------------------------------------------------

    async def roll_back(self, kid: str, after_s: float) -> None:
        """What is counted of a key now comes back later."""
        async with self.store.commands:
            dump_begun_ms = clock_ms()
            dumped = await self.store.dump(kid)
            dump_ended_ms = clock_ms()
        await asyncio.sleep(after_s)
        async with self.store.commands:
            begun_ms = clock_ms()
            await self.store.restore(kid, dumped)
            self.record.keys[kid].rollbacks.append(Rollback(begun_ms, clock_ms(), dump_begun_ms, dump_ended_ms))
        self.record.note(f"key {kid[:6]} is rolled back by {begun_ms - dump_begun_ms:.0f} ms")


def _told(declared: Declared) -> str:
    return ", ".join(
        f"{rule.subject[:7] or 'all'} {rule.per_ms / 1000:g} s {','.join(rule.models)} {rule.enforced} "
        f"audited {rule.audited}{' until ' + str(rule.until_ms) if rule.until_ms else ''}"
        for rule in declared.rules
    )
