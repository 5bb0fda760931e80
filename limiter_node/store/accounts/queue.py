"""The queue of one account, and the places of its keys in it.

All keys of an account share its slot, so one batch at a time carries the requests of many keys. They take turns: each
batch takes one request of each key that waits, then the next of each, so that a key that floods its account waits
behind itself. A batch ends where it would touch more windows than a call of the script may.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from time import monotonic

from limiter_node.decisions import Decision, Need, Usage
from limiter_node.errors import Overloaded
from limiter_node.limiter.fallback import Fallback
from limiter_node.limits import BUCKET_MS
from limiter_node.model_patterns import matches
from limiter_node.plans import Plan, patterns_of, plan_of
from limiter_node.policy import AccountPolicy, KeyPolicy, read_account, read_key, version_of
from limiter_node.store.accounts.batch import PathBatch
from limiter_node.store.accounts.charges import PathCharge, PathReceipt, PathSettle
from limiter_node.store.accounts.knowledge import AccountKnowledge, place_of
from limiter_node.store.batch import Admit, Asker, Batch, SendQueue
from limiter_node.store.charges import Charge
from limiter_node.store.wire.script_target import ScriptTarget

MOST_PER_KEY, MOST_PER_ACCOUNT = 2_000, 5_000
"""The most requests of a key, and of an account, that may wait on one node."""
CHECK_POINTER_EVERY_S = 30.0
"""The pointer of a key that is used is checked this often: a node that knows the key never follows it."""
_MOST_PLANS = 256
"""The plans kept of a key. Models come from callers, so there may be many names; few of them match different limits."""


class AccountQueue(SendQueue):
    """Hold the requests and settles of one account that wait, its batch under way, and the node's knowledge of it."""

    __slots__ = (
        "__weakref__",
        "body",
        "confirmed_s",
        "knowledge",
        "policy",
        "settles",
        "turn",
        "version",
        "waiting",
        "was_rejecting",
    )

    def __init__(self, tag: str, target: ScriptTarget, body: bytes) -> None:
        super().__init__(tag, target)
        self.is_met = True
        self.knowledge = AccountKnowledge()
        self.settles: list[PathSettle] = []
        self.turn: deque[Member] = deque()
        self.waiting = 0
        self.was_rejecting = False
        self.body, self.version, self.policy = body, version_of(body), read_account(body)
        self.confirmed_s = monotonic()
        """When the store confirmed last that this is the account's policy, by `time.monotonic`."""

    def learn(self, body: bytes) -> None:
        """Learn the account's policy. Its keys make their plans anew."""
        self.confirmed_s = monotonic()
        if body != self.body:
            self.policy = read_account(body)
            self.body, self.version = body, version_of(body)

    # ---- what waits ------------------------------------------------------------------------------------------------

    @property
    def has_admits(self) -> bool:
        return bool(self.turn)

    @property
    def has_settles(self) -> bool:
        return bool(self.settles)

    def wait(self, member: Member) -> None:
        """Note that one more request of a key waits. Raises Overloaded if too many of the account do."""
        if self.waiting >= MOST_PER_ACCOUNT:
            raise Overloaded("too many requests of this account wait for a decision")
        self.waiting += 1
        if not member.is_waiting:
            member.is_waiting = True
            self.turn.append(member)

    def take_unsent(self) -> list[Admit]:
        turn, self.turn, self.waiting = self.turn, deque(), 0
        unsent: list[Admit] = []
        for member in turn:
            member.is_waiting = False
            unsent += member.admits
            member.admits.clear()
        return unsent

    def put_back(self, batch: Batch, unsent: list[Admit]) -> None:
        assert isinstance(batch, PathBatch)
        self.settles[:0] = batch.settles
        self.put_admits_back(unsent)

    def put_admits_back(self, unsent: Iterable[Admit]) -> None:
        """Let requests that were in a batch wait again, before all others of their keys."""
        for admit in reversed(list(unsent)):
            member = admit.queue
            assert isinstance(member, Member)
            member.admits.appendleft(admit)
            self.waiting += 1
            if not member.is_waiting:
                member.is_waiting = True
                self.turn.appendleft(member)

    def forget(self, window_buckets: int) -> None:
        now_ms = self.knowledge.now_ms()
        if now_ms is not None:
            self.settles = [
                each for each in self.settles if any(each.time_ms + w.life_ms > now_ms for w in each.windows)
            ]

    def note_rejections(self, has_rejected: bool) -> None:
        """Note whether the last batch rejected a request."""
        self.was_rejecting = has_rejected

    def hash_of(self, kid: str) -> str:
        """Return a key as a batch knows it: a flat key, whose windows all are the account's, has no hash of its own."""
        return "" if self.policy.key is not None else kid

    # ---- SendQueue -------------------------------------------------------------------------------------------------

    def now_bucket(self) -> int | None:
        now_ms = self.knowledge.now_ms()
        return None if now_ms is None else now_ms // BUCKET_MS

    def tokens_left(self) -> int:
        return self.knowledge.tokens_left

    def mark_counted(self, charge: Charge, number: int) -> None:
        assert isinstance(charge, PathCharge)
        self.knowledge.mark_counted(charge, number)

    def lose(self, recorded: int) -> list[Charge]:
        charges, lost = self.knowledge.lose(self, recorded, self.charges or ())
        kept = []
        for settle in self.settles:
            tick = settle.time_ms // BUCKET_MS
            places = [(place_of(settle.kid, each), each) for each in settle.windows]
            windows = [each for place, each in places if (place, self.knowledge.cell_of(place, tick)) not in lost]
            if windows:
                is_whole = len(windows) == len(settle.windows)
                kept.append(settle if is_whole else settle._replace(windows=tuple(windows)))
        self.settles = kept
        return list(charges)

    def forget_recharges(self) -> None:
        self.knowledge.forget_recharges()


class Member(Asker):
    """A key's place in its account: its policy, its plans, and its requests that wait."""

    __slots__ = (
        "_patterns",
        "_plans",
        "_plans_of",
        "account",
        "admits",
        "body",
        "check_pointer_s",
        "confirmed_s",
        "is_waiting",
        "kid",
        "policy",
        "version",
    )

    is_met = True
    exists = True

    def __init__(self, account: AccountQueue, kid: str, body: bytes | None) -> None:
        self.account, self.kid = account, kid
        self.admits: deque[Admit] = deque()
        self.is_waiting = False
        """Whether the key has its turn in its account's next batch."""
        self._plans: dict[object, Plan] = {}
        self._plans_of: AccountPolicy | None = None
        self._patterns: frozenset[str] = frozenset()
        self.body, self.version = body, b""
        self.policy: KeyPolicy | None = None
        self.learn(body)
        self.check_pointer_s = self.confirmed_s + CHECK_POINTER_EVERY_S
        """When to check next that the way to the account isn't lost."""

    def learn(self, body: bytes | None) -> None:
        """Learn the key's own policy; None for a flat key, whose policy is its account's."""
        self.confirmed_s = monotonic()
        """When the store confirmed last that this is the key's policy, by `time.monotonic`."""
        self.body, self._plans_of = body, None
        self.version = b"" if body is None else version_of(body)
        self.policy = None if body is None else read_key(body)

    def plan(self, models: tuple[str, ...], now_ms: int) -> Plan:
        """Return the plan of a request for a model with these names."""
        account = self.account.policy
        if self._plans_of is not account:
            self._plans_of = account
            self._patterns = patterns_of(account, self._key())
            self._plans.clear()
        # Where no limit is for certain models, all have one plan.
        of: object = models if self._patterns else None
        plan = self._plans.get(of)
        if plan is not None and not 0 < plan.ends_ms <= now_ms:
            return plan
        matched: object = None
        if self._patterns:
            names = [each.lower() for each in models]
            matched = frozenset(each for each in self._patterns if any(matches(each, name) for name in names))
            plan = self._plans.get(matched)
        if plan is None or 0 < plan.ends_ms <= now_ms:
            plan = plan_of(account, self._key(), models, now_ms)
        if len(self._plans) >= _MOST_PLANS:
            self._plans.clear()
        self._plans[of] = self._plans[matched] = plan
        return plan

    def whole_plan(self) -> Plan:
        """Return a plan of all windows on the key's path, whatever their models."""
        return plan_of(self.account.policy, self._key(), (), self.account.knowledge.now_ms() or 0, is_whole=True)

    def adopted(self, receipt: object) -> PathReceipt | None:
        """Return the receipt of a request that was counted while this flat key was a plain one; None if it is gone.

        The key's minute window was taken over with its buckets.
        """
        if self.account.policy.key is None or type(receipt) is not int:
            return None
        windows = tuple(w for w in self.whole_plan().windows if w.per_ms == 60_000 and not w.models)
        return PathReceipt(self.account, self.kid, windows, receipt * BUCKET_MS) if windows else None

    def _key(self) -> KeyPolicy:
        key = self.policy or self.account.policy.key
        if key is None:
            raise ValueError("a key of an account without a policy")
        return key

    # ---- Asker -----------------------------------------------------------------------------------------------------

    @property
    def sender(self) -> AccountQueue:
        return self.account

    def add(self, admit: Admit) -> None:
        if len(self.admits) >= MOST_PER_KEY:
            raise Overloaded("too many requests of this key wait for a decision")
        self.account.wait(self)
        self.admits.append(admit)

    def decide_alone(self, fallback: Fallback, need: Need) -> tuple[Decision, int] | None:
        knowledge = self.account.knowledge
        known = knowledge.known(self.kid, self.plan(need.models, knowledge.now_ms() or 0))
        return None if known is None else (fallback.decide_path(known, need), known.latest_ms // BUCKET_MS)

    def usage_alone(self, fallback: Fallback) -> Usage | None:
        known = self.account.knowledge.known(self.kid, self.whole_plan())
        return None if known is None else fallback.usage_of_path(known)

    def new_charge(self, need: Need, decision: Decision, bucket: int) -> Charge:
        assert decision.path is not None
        return PathCharge(self.account, self.kid, decision.path.plan.windows, bucket, decision.need)

    # ---- as a key's queue in `store.decisions.queues` ----------------------------------------------------------------

    @property
    def is_idle(self) -> bool:
        """Whether nothing of the key or its account waits."""
        return not self.admits and self.account.is_idle

    def heard_s_ago(self) -> float:
        """Return the seconds since the store's last reply about the account."""
        return self.account.knowledge.heard_s_ago()
