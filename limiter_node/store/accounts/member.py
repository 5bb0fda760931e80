"""The place of one key in its account: its policy, the plans of its requests, and what a policy decides alone.

Requests come with one of the key's credentials, and all join the one queue of the key: those with the first credential
by the `Member` itself, those with another by a `FurtherCredential`.
"""

from __future__ import annotations

from abc import abstractmethod
from time import monotonic

from limiter_node.decisions import REFUSALS, Decision, Need, Usage
from limiter_node.errors import Overloaded
from limiter_node.key_states import CredentialState
from limiter_node.limiter.fallback import Fallback
from limiter_node.limits import BUCKET_MS, WINDOW_MS
from limiter_node.model_patterns import matches
from limiter_node.plans import Plan, PlannedWindow, patterns_of, plan_of
from limiter_node.policy import AccountPolicy, KeyPolicy
from limiter_node.policy_body import read_key, version_of
from limiter_node.store.accounts.charges import PathCharge, PathReceipt
from limiter_node.store.accounts.knowledge import place_of
from limiter_node.store.accounts.newer_policies import is_older
from limiter_node.store.accounts.queue import AccountQueue, KeyInTurn, MemberAsker
from limiter_node.store.batch import Admit
from limiter_node.store.charges import Charge

MOST_PER_KEY = 2_000
"""The requests of a key that may wait on one node."""
CHECK_POINTER_EVERY_S = 30.0
"""The pointer of a key that is used is checked this often: a node that knows the key never follows it."""
_MOST_PLANS = 256
"""The plans kept of a key. Models come from callers, so there may be many names; few of them match different limits."""


class _MemberAsker(MemberAsker):
    """Do for a credential what depends on the key's policy."""

    __slots__ = ()

    is_met = True

    @property
    @abstractmethod
    def member(self) -> Member:
        """The key."""

    @property
    def is_valid(self) -> bool:
        """Whether the credential is good by the policy and the time that the store told last.

        The time is never ahead of the store's own, which decides when a credential ends.
        """
        if self.member.key.has_one_lasting_credential:  # each request asks
            return self.cid == self.kid
        return self.state(self.member.account.knowledge.now_ms() or 0) is CredentialState.VALID

    def state(self, now_ms: int) -> CredentialState:
        """Return the credential's state at a time of the store, by the policy that the store told last."""
        return self.member.key.credential_state(self.cid, now_ms)

    def known_refusal(self) -> CredentialState | None:
        """Return why requests are refused, as far as the node knows; None if it knows no reason."""
        state = self.state(self.member.account.knowledge.latest_ms())
        return None if state in (CredentialState.VALID, CredentialState.UNKNOWN) else state

    def decide_alone(self, fallback: Fallback, need: Need) -> tuple[Decision, int] | None:
        """See `Asker`. A credential that may have ended by now is refused."""
        member = self.member
        knowledge = member.account.knowledge
        known = knowledge.known(member.kid, member.plan(need.models, knowledge.now_ms() or 0))
        if known is None:
            return None
        if (state := self.state(known.latest_ms)) is CredentialState.VALID:
            return fallback.decide_path(known, need), known.latest_ms // BUCKET_MS
        return None if state is CredentialState.UNKNOWN else (REFUSALS[state], 0)

    def usage_alone(self, fallback: Fallback, models: tuple[str, ...] | None) -> Usage | None:
        member = self.member
        knowledge = member.account.knowledge
        plan = member.whole_plan() if models is None else member.plan(models, knowledge.now_ms() or 0)
        known = knowledge.known(member.kid, plan)
        return None if known is None else fallback.usage_of_path(known)


class Member(_MemberAsker, KeyInTurn):
    """A key's place in its account: its policy, its plans, and its requests that wait."""

    __slots__ = (
        "__weakref__",
        "_adopted",
        "_patterns",
        "_plans",
        "_plans_by_patterns",
        "_plans_of",
        "_used_s",
        "account",
        "body",
        "check_pointer_s",
        "confirmed_s",
        "kid",
        "policy",
        "version",
    )

    def __init__(self, account: AccountQueue, kid: str, body: bytes | None) -> None:
        self.account, self.kid = account, kid
        KeyInTurn.__init__(self)
        self._used_s = monotonic()
        self._plans: dict[object, Plan] = {}
        self._plans_by_patterns: dict[frozenset[str], Plan] = {}
        self._adopted: tuple[PlannedWindow, ...] | None = None
        self._plans_of: AccountPolicy | None = None
        self._patterns: frozenset[str] = frozenset()
        self.body: bytes | None = None
        self.version = b""
        self.policy: KeyPolicy | None = None
        self.learn(body)
        self.check_pointer_s = self.confirmed_s + CHECK_POINTER_EVERY_S
        """When to check next that the way to the account isn't lost."""

    def learn(self, body: bytes | None) -> bool:
        """Learn the key's own policy; None for a flat key, whose policy is its account's.

        Return False, and learn nothing, if the node knows a later one.

        Raises:
            ValueError: the policy can't be read; then nothing is learnt.
        """
        policy = None if body is None else self.policy if body == self.body else read_key(body)
        if policy is not None and self.policy is not None and is_older(policy, self.policy):
            return False
        if policy is not self.policy:
            self._plans_of = None
        self.policy = policy
        self.confirmed_s = monotonic()
        """When the store confirmed last that this is the key's policy, by `time.monotonic`."""
        if body != self.body or body is None:
            self.version = b"" if body is None else version_of(body)
        self.body = body
        return True

    def plan(self, models: tuple[str, ...], now_ms: int) -> Plan:
        """Return the plan of a request for a model with these names."""
        account = self._current_policy()
        # Where no limit is for certain models, all have one plan.
        of: object = models if self._patterns else None
        plan = self._plans.get(of)
        if plan is not None and not 0 < plan.ends_ms <= now_ms:
            return plan
        names = [each.lower() for each in models]
        matched = frozenset(each for each in self._patterns if any(matches(each, name) for name in names))
        plan = self._plans_by_patterns.get(matched)
        if plan is None or 0 < plan.ends_ms <= now_ms:
            if len(self._plans_by_patterns) >= _MOST_PLANS:
                self._plans_by_patterns.clear()
            plan = self._plans_by_patterns[matched] = plan_of(account, self.key, models, now_ms)
        if len(self._plans) >= _MOST_PLANS:
            self._plans.clear()
        self._plans[of] = plan
        return plan

    def _current_policy(self) -> AccountPolicy:
        """Return the account's policy; the plans of an earlier one are forgotten."""
        account = self.account.policy
        if self._plans_of is not account:
            self._plans_of, self._adopted = account, None
            self._patterns = patterns_of(account, self.key)
            self._plans.clear()
            self._plans_by_patterns.clear()
        return account

    def whole_plan(self) -> Plan:
        """Return a plan of all windows on the key's path, whatever their models."""
        return plan_of(self.account.policy, self.key, (), self.account.knowledge.now_ms() or 0, is_whole=True)

    def adopted(self, bucket: int) -> PathReceipt | None:
        """Return the receipt of usage that was counted in `bucket` while this key was a plain one.

        The key's minute window was taken over with its buckets. None if it was not: the usage is gone.
        """
        is_flat = self._current_policy().key is not None
        if self._adopted is None:
            own = [each for each in self.whole_plan().windows if each.is_own or is_flat]
            self._adopted = tuple(each for each in own if each.per_ms == WINDOW_MS and not each.models)
        windows = self._adopted
        return PathReceipt(self.account, self.kid, windows, bucket * BUCKET_MS) if windows else None

    def take_over(self, earlier: Member, number: int) -> None:
        """Take over what the node knows of the key's own windows from its place in another account.

        `number`: the latest number of a batch of this node.
        """
        is_flat, was_flat = self.policy is None, earlier.policy is None
        own = [each for each in self.whole_plan().windows if each.is_own or is_flat]
        places = [(("" if was_flat else self.kid, each.id), place_of(self.kid, each), each) for each in own]
        self.account.knowledge.take_over(places, earlier.account.knowledge, number)

    @property
    def key(self) -> KeyPolicy:
        """The key's policy, as the store told it last."""
        key = self.policy or self.account.policy.key
        if key is None:
            raise ValueError("a key of an account without a policy")
        return key

    @property
    def member(self) -> Member:
        return self

    @property
    def cid(self) -> str:
        return self.kid

    def end_of(self, cid: str) -> int | None:
        """Return when a credential ends by the policy that the store told last, 0 if it doesn't.

        None if it isn't good, whatever the time.
        """
        key = self.key
        if key.has_one_lasting_credential:
            return 0 if cid == self.kid else None
        return key.ends_ms(cid) if key.credential_state(cid, 0) is CredentialState.VALID else None

    # ---- Asker -----------------------------------------------------------------------------------------------------

    @property
    def sender(self) -> AccountQueue:
        return self.account

    def add(self, admit: Admit) -> None:
        if len(self.admits) >= MOST_PER_KEY:
            self._forget_answered()
            if len(self.admits) >= MOST_PER_KEY:
                raise Overloaded("too many requests of this key wait for a decision")
        self.account.wait(self)
        self.admits.append(admit)
        self._used_s = admit.deadline_s

    def _forget_answered(self) -> None:
        """Forget the oldest requests if their callers have left."""
        admits = self.admits
        while admits and admits[0].future.done():
            admits.popleft()
            self.account.waiting -= 1

    def new_charge(self, need: Need, decision: Decision, bucket: int) -> Charge:
        assert decision.path is not None
        return PathCharge(self.account, self.kid, decision.path.plan.windows, bucket, decision.need)

    # ---- as a key's queue in `store.decisions.queues` ----------------------------------------------------------------

    @property
    def is_idle(self) -> bool:
        """Whether no request of the key waits or is under way; a busy account may have keys that nobody uses."""
        under_way = self.account.in_flight
        return not self.admits and (under_way is None or all(each.queue.kid != self.kid for each in under_way.admits))

    def heard_s_ago(self) -> float:
        """Return the seconds since the last request of the key, or since the key was met."""
        return monotonic() - self._used_s


class FurtherCredential(_MemberAsker):
    """The way in for requests with a credential of a key that isn't its first."""

    __slots__ = ("_cid", "_member", "kid")

    def __init__(self, member: Member, cid: str) -> None:
        self._member, self._cid, self.kid = member, cid, member.kid

    @property
    def member(self) -> Member:
        return self._member

    @property
    def cid(self) -> str:
        return self._cid

    @property
    def sender(self) -> AccountQueue:
        return self._member.account

    def add(self, admit: Admit) -> None:
        self._member.add(admit)

    def new_charge(self, need: Need, decision: Decision, bucket: int) -> Charge:
        return self._member.new_charge(need, decision, bucket)

    @property
    def is_idle(self) -> bool:
        """See `Member.is_idle`."""
        return self._member.is_idle

    def heard_s_ago(self) -> float:
        """See `Member.heard_s_ago`."""
        return self._member.heard_s_ago()
