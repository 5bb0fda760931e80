"""The accounts that a node deals with: how it meets their keys, makes their batches and reads their usage."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from time import monotonic
from typing import NamedTuple
from weakref import WeakValueDictionary

from limiter_node.decisions import PathUsage, Usage
from limiter_node.errors import StoreUnavailable
from limiter_node.key_states import CredentialState
from limiter_node.limits import Amounts
from limiter_node.plans import Plan
from limiter_node.policy import tag_text
from limiter_node.policy_body import Forward, read_forward, read_tombstone
from limiter_node.store.accounts.batch import PathAdmits, PathBatch, Versions
from limiter_node.store.accounts.batch_making import make_batch
from limiter_node.store.accounts.calls import PathPeek, PathPeekReply, Policies, PolicyRead
from limiter_node.store.accounts.codec import Layout
from limiter_node.store.accounts.member import FurtherCredential, Member
from limiter_node.store.accounts.newer_policies import NewerPolicies
from limiter_node.store.accounts.queue import AccountQueue
from limiter_node.store.accounts.verdicts import reset_ms
from limiter_node.store.batch import Admit, BatchOwner
from limiter_node.store.keyspace import member_key, policy_key, shared_key, slot_of
from limiter_node.store.scripts import load_script
from limiter_node.store.unsent_charges import UnsentCharges
from limiter_node.store.wire.routing_and_retries import Router
from limiter_node.store.wire.script_target import ScriptTarget

_MOST_TARGETS = 1_000
"""The targets kept, some KiB each: batches of many keys rarely repeat them."""
_MOST_TRIES = 3
_NO_VERSION = bytes(8)
_NOTHING = Amounts(0, 0, 0)


class Opened(NamedTuple):
    """A key in its account, as the store has just told it, and the store's time in ms."""

    member: Member
    time_ms: int


class Missing(NamedTuple):
    """A key that its account doesn't have. `forward`: the mark of a key that has moved to another account."""

    was_deleted: bool
    forward: Forward | None = None


class Accounts:
    """Hold the accounts of one node; an account is kept as long as one of its keys or requests is.

    `look_up_again`: called with requests that are not sent because their credential isn't good, as far as the node
    knows: set it first.
    """

    look_up_again: Callable[[list[Admit]], None]

    def __init__(self, router: Router, incarnation: bytes) -> None:
        self._router, self._incarnation = router, incarnation
        self._decide, self._peek, self._policy = (
            load_script("decide_paths"),
            load_script("peek_paths"),
            load_script("policy"),
        )
        self._newer = NewerPolicies(router)
        self._accounts: WeakValueDictionary[str, AccountQueue] = WeakValueDictionary()
        self._members: WeakValueDictionary[tuple[str, str], Member] = WeakValueDictionary()
        self._targets: dict[tuple[str, ...], ScriptTarget] = {}
        self._reading: dict[tuple[str, str], PolicyRead] = {}

    @property
    def count(self) -> int:
        """The number of accounts that are held."""
        return len(self._accounts)

    # ---- meeting a key ---------------------------------------------------------------------------------------------

    async def open(self, kid: str, tag: str, not_before_s: float = 0.0) -> Opened | Missing:
        """Return the place of a key in the account with the hash tag `tag`, if the account has it.

        There is one place of each key, however many credentials lead to it. Where the store tells an older policy than
        the node knows, the node's is declared first. Requests share a read that was begun at `not_before_s` or later.

        Raises:
            StoreUnavailable: the store could not be asked, or a policy can't be read.
        """
        for _ in range(_MOST_TRIES):
            asked_s = monotonic()
            found = await self._read(kid, tag, not_before_s)
            older: list[tuple[str, bytes, bytes]] = []
            try:
                if found.account is None:
                    return _missing(found)
                opened = self._met(kid, tag, found, found.account, asked_s, older)
            except ValueError as error:
                raise StoreUnavailable(f"a policy of {tag_text(tag)} can't be read: {error}") from error
            if not older:
                return opened
            for of_kid, told, known in older:
                await self._newer.declare(tag, of_kid, told, known)
        raise StoreUnavailable(f"{tag_text(tag)} has older policies than this node knows")

    def _met(
        self,
        kid: str,
        tag: str,
        found: Policies,
        policy: bytes,
        asked_s: float,
        older: list[tuple[str, bytes, bytes]],
    ) -> Opened | Missing:
        """Learn policies that were read; add those that are older than the node knows to `older`, with the known."""
        account = self._accounts.get(tag)
        if account is None:
            account = self._accounts[tag] = AccountQueue(tag, self._policy_target(tag), policy)
        if not account.learn(policy):
            older.append(("", policy, account.body))
        if account.knowledge.now_ms() is None:
            account.knowledge.learn_time(found.time_ms, asked_s, monotonic())
        flat = account.policy.key
        if flat.kid != kid if flat is not None else found.key is None:
            return _missing(found)
        body = None if flat is not None else found.key
        member = self._members.get((tag, kid))
        if member is None:
            member = self._members[tag, kid] = Member(account, kid, body)
        elif not member.learn(body):
            assert body is not None
            assert member.body is not None
            older.append((kid, body, member.body))
        return Opened(member, found.time_ms)

    async def revision_of_deleted(self, kid: str, tag: str) -> int | None:
        """Return the revision that a key of an account had when it was deleted; None if it wasn't.

        If `kid` is empty, it is the account's. Raises `StoreUnavailable`.
        """
        found = await self._read(kid, tag, monotonic())
        try:
            return None if found.tombstone is None else read_tombstone(found.tombstone).revision
        except ValueError as error:
            raise StoreUnavailable(f"what is left of a policy of {tag_text(tag)} can't be read: {error}") from error

    def forget(self, member: Member) -> None:
        """Forget a key that is gone: one that comes back has a place of its own."""
        if self._members.get((member.account.kid, member.kid)) is member:
            del self._members[member.account.kid, member.kid]

    @property
    def declared(self) -> int:
        """The number of policies that were declared over older ones of the store."""
        return self._newer.declared

    def known(self, tag: str) -> AccountQueue | None:
        """Return the account with that hash tag, if the node has met one of its keys and still holds it."""
        return self._accounts.get(tag)

    def is_reading(self, kid: str, tag: str) -> bool:
        """Whether a read of a key's policy is under way, which the next one to ask for it shares."""
        return (kid, tag) in self._reading

    async def _read(self, kid: str, tag: str, not_before_s: float) -> Policies:
        read = self._reading.get((kid, tag))
        if read is None or read.since_s < not_before_s:
            new = read = self._reading[kid, tag] = PolicyRead(self._router, self._policy_target(tag), kid, monotonic())
            read.future.add_done_callback(lambda _: self._on_read(kid, tag, new))
            self._router.send([read])
        return await asyncio.shield(read.future)

    def _policy_target(self, tag: str) -> ScriptTarget:
        return ScriptTarget(self._policy, slot_of(tag), (policy_key(tag).encode(),), (), 1)

    def _on_read(self, kid: str, tag: str, read: PolicyRead) -> None:
        if self._reading.get((kid, tag)) is read:
            del self._reading[kid, tag]
        if not read.future.cancelled():
            read.future.exception()  # seen, also if everybody who waited for it has left

    # ---- batches ---------------------------------------------------------------------------------------------------

    def next_batch(
        self, account: AccountQueue, number: int, owner: BatchOwner, unsent: UnsentCharges, now_s: float
    ) -> PathBatch | None:
        """Return the next batch of an account; None if nothing waits."""

        def begin(layout: Layout, admits: PathAdmits) -> PathBatch:
            keys = {}
            for admit in admits.admits:
                assert isinstance(admit.queue, Member | FurtherCredential)
                keys[admit.queue.kid] = admit.queue.member.version
            versions = Versions(account.version, [keys.get(kid, _NO_VERSION) for kid in layout.kids])
            target = self._target(account.kid, layout.kids)
            expected = account.knowledge.expected
            return PathBatch(owner, self._router, account, target, number, layout, admits, versions, expected, now_s)

        batch = make_batch(account, unsent, begin)
        if account.refused:
            refused, account.refused = account.refused, []
            self.look_up_again(refused)
        return batch

    def _target(self, tag: str, kids: Sequence[str]) -> ScriptTarget:
        found = self._targets.get((tag, *kids))
        if found is None:
            if len(self._targets) >= _MOST_TARGETS:
                self._targets.clear()
            found = ScriptTarget(self._decide, slot_of(tag), _keys(tag, kids), (self._incarnation,), 1 + len(kids))
            self._targets[tag, *kids] = found
        return found

    # ---- reading ---------------------------------------------------------------------------------------------------

    async def peek(
        self, asker: Member | FurtherCredential, models: tuple[str, ...] | None
    ) -> Usage | CredentialState | None:
        """Return the usage of the windows of a request for a model, of all on the key's path if `models` is None.

        Return the credential's state if it isn't good, None if the account doesn't have the key any more.

        Raises:
            StoreUnavailable: the store could not be asked.
        """
        member, tries = asker.member, 0
        account = member.account
        while True:
            plan = member.whole_plan() if models is None else member.plan(models, account.knowledge.now_ms() or 0)
            layout = Layout()
            is_flat = account.policy.key is not None
            layout.path("" if is_flat else member.kid, plan.windows)
            found = await self._peek_windows(account.kid, layout)
            if found is None:
                return None
            key_version = b"" if is_flat else found.key_versions[0]
            tries += 1
            is_current = found.account_version == account.version and key_version == member.version
            if is_current or tries >= _MOST_TRIES:
                if (state := asker.state(found.time_ms)) is not CredentialState.VALID:
                    return state
                places = layout.places()[0]
                return _usage(plan, [found.windows[place].used for place in places], found, places)
            if isinstance(await self.open(member.kid, account.kid), Missing):  # else the key has learnt its policy
                return None

    async def _peek_windows(self, tag: str, layout: Layout) -> PathPeekReply | None:
        target = ScriptTarget(self._peek, slot_of(tag), _keys(tag, layout.kids), (), 1 + len(layout.kids))
        call = PathPeek(self._router, target, layout, monotonic())
        self._router.send([call])
        return await call.future


def _missing(found: Policies) -> Missing:
    """Raises ValueError if what is left of the key can't be read."""
    tombstone = None if found.tombstone is None else read_tombstone(found.tombstone)
    return Missing(tombstone is not None, None if found.forward is None else read_forward(found.forward))


def _keys(tag: str, kids: Sequence[str]) -> list[bytes]:
    names = [policy_key(tag), shared_key(tag), *(member_key(tag, kid) for kid in kids)]
    return [each.encode() for each in names]


def _usage(plan: Plan, used: list[Amounts], found: PathPeekReply, places: list[int]) -> Usage:
    resets = [
        reset_ms(window, found.windows[place], found.time_ms)
        for window, place in zip(plan.windows, places, strict=True)
    ]
    path = PathUsage(plan, tuple(used), tuple(resets))
    return Usage(_NOTHING, _NOTHING, _NOTHING, plan.output_reserve, found.time_ms, plan.who, (), "", path)
