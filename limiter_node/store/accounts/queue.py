"""The queue of one account, where its keys take turns.

All keys of an account share its slot, so one batch at a time carries the requests of many keys. They take turns: each
batch takes one request of each key that waits, then the next of each, so that a key that floods its account waits
behind itself. A batch ends where it would touch more windows than a call of the script may.
"""

from __future__ import annotations

from abc import abstractmethod
from collections import deque
from collections.abc import Iterable
from time import monotonic

from limiter_node.decisions import Decision, Outcome
from limiter_node.errors import Overloaded
from limiter_node.limits import BUCKET_MS
from limiter_node.policy_body import read_account, version_of
from limiter_node.store.accounts.batch import PathBatch
from limiter_node.store.accounts.charges import PathCharge, PathSettle
from limiter_node.store.accounts.knowledge import AccountKnowledge, place_of
from limiter_node.store.accounts.newer_policies import is_older
from limiter_node.store.batch import Admit, Asker, Batch, SendQueue
from limiter_node.store.charges import Charge
from limiter_node.store.wire.script_target import ScriptTarget

MOST_PER_ACCOUNT = 5_000
"""The requests of an account that may wait on one node; beyond that, each key may still have its share of as many."""


class KeyInTurn:
    """The requests of one key of an account that wait to be sent; the rest of a key is in `store.accounts.member`."""

    __slots__ = ("admits", "is_waiting")

    def __init__(self) -> None:
        self.admits: deque[Admit] = deque()
        self.is_waiting = False
        """Whether the key has its turn in its account's next batch."""


class MemberAsker(Asker):
    """The queue that requests with one credential of an account's key join; all of a key wait in its one turn."""

    __slots__ = ()

    @property
    @abstractmethod
    def member(self) -> KeyInTurn:
        """The key."""


class AccountQueue(SendQueue):
    """Hold the requests and settles of one account that wait, its batch under way, and the node's knowledge of it."""

    __slots__ = (
        "__weakref__",
        "_latest_charges",
        "body",
        "confirmed_s",
        "knowledge",
        "missing_since_s",
        "policy",
        "refused",
        "settles",
        "turn",
        "unreadable",
        "version",
        "waiting",
        "was_rejecting",
    )

    def __init__(self, tag: str, target: ScriptTarget, body: bytes) -> None:
        super().__init__(tag, target)
        self.is_met = True
        self.knowledge = AccountKnowledge()
        self._latest_charges: dict[tuple[str, int], PathCharge] = {}
        self.missing_since_s: float | None = None
        """The time, by `time.monotonic`, since when the store hasn't had the account; None if it has it."""
        self.refused: list[Admit] = []
        """Requests that are not sent, because their credential isn't good by the policies as the node knows them."""
        self.settles: list[PathSettle] = []
        self.turn: deque[KeyInTurn] = deque()
        self.waiting = 0
        self.was_rejecting = False
        self.unreadable = ""
        """Why the last policy that the store sent can't be read; kept so that it is logged once."""
        self.body, self.version, self.policy = body, version_of(body), read_account(body)
        self.confirmed_s = monotonic()
        """When the store confirmed last that this is the account's policy, by `time.monotonic`."""

    def learn(self, body: bytes) -> bool:
        """Learn the account's policy. Its keys make their plans anew.

        Return False, and learn nothing, if the node knows a later one.

        Raises:
            ValueError: the policy can't be read; then nothing is learnt.
        """
        if body != self.body:
            policy = read_account(body)
            if is_older(policy, self.policy):
                return False
            self.policy = policy
            self.body, self.version = body, version_of(body)
        self.confirmed_s = monotonic()
        return True

    # ---- what waits ------------------------------------------------------------------------------------------------

    @property
    def has_admits(self) -> bool:
        return bool(self.turn)

    @property
    def has_settles(self) -> bool:
        return bool(self.settles)

    def wait(self, member: KeyInTurn) -> None:
        """Note that one more request of a key waits.

        Raises:
            Overloaded: too many of the account wait, and this key already has its share of them.
        """
        if self.waiting >= MOST_PER_ACCOUNT and len(member.admits) >= MOST_PER_ACCOUNT // max(len(self.turn), 1):
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

    def take_unsent_of(self, member: KeyInTurn) -> list[Admit]:
        """Take the requests of one key that wait to be sent. O(keys that wait)."""
        unsent = list(member.admits)
        member.admits.clear()
        self.waiting -= len(unsent)
        if member.is_waiting:
            member.is_waiting = False
            self.turn.remove(member)
        return unsent

    def put_back(self, batch: Batch, unsent: list[Admit]) -> None:
        assert isinstance(batch, PathBatch)
        self.settles[:0] = batch.settles
        self.put_admits_back(unsent)

    def put_admits_back(self, unsent: Iterable[Admit]) -> None:
        """Let requests that were in a batch wait again, before all others of their keys."""
        for admit in reversed(list(unsent)):
            assert isinstance(admit.queue, MemberAsker)
            member = admit.queue.member
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

    def drop_settles(self) -> None:
        """Forget all settles that wait."""
        self.settles.clear()
        self.lingering_tokens = 0

    def note_decisions(self, decisions: Iterable[Decision | None]) -> None:
        """Note whether a limit of the account or a team was in the way of a request of the last batch."""
        self.was_rejecting = any(
            each is not None
            and each.outcome is Outcome.REJECTED
            and each.path is not None
            and not each.path.plan.windows[each.path.exceeded].is_own
            for each in decisions
        )

    def hash_of(self, kid: str) -> str:
        """Return a key as a batch knows it: a flat key, whose windows all are the account's, has no hash of its own."""
        return "" if self.policy.key is not None else kid

    # ---- SendQueue -------------------------------------------------------------------------------------------------

    def now_bucket(self) -> int | None:
        now_ms = self.knowledge.now_ms()
        return None if now_ms is None else now_ms // BUCKET_MS

    def tokens_left(self) -> int:
        return self.knowledge.tokens_left

    def mark_counted(self, charge: Charge, bucket: int, number: int) -> None:
        assert isinstance(charge, PathCharge)
        self.knowledge.mark_counted(charge, bucket, number)

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
        for charge in charges:
            self.knowledge.note_owed(charge.kid, charge.windows, charge.amounts)
        return list(charges)

    def forget_recharges(self) -> bool:
        return self.knowledge.forget_recharges()

    keeps_charges = True

    def join(self, charge: Charge, width: int) -> Charge | None:
        """See `SendQueue`. Keys and models are asked for in any order, so each path has a charge of its own to join."""
        assert isinstance(charge, PathCharge)
        if not self.charges:
            self._latest_charges.clear()
        path = (charge.kid, id(charge.windows))  # which its charge keeps alive
        latest = self._latest_charges.get(path)
        if latest is not None and latest.absorb(charge, width):
            return latest
        self._latest_charges[path] = charge
        return None
