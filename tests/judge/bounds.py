"""The most that any true window of a key or an account may hold, and why.

N nodes (incarnations, to be exact: one that dies and its successor are two), limit L, policy `local`, share S = L // N.
A true window is W x 100 ms long. It *holds* what was admitted in it: each admission with its reservation, and from the
moment of its settle with what was produced, if that is less. (What is produced beyond a reservation may lift a window
above its limit: that is the contract, and is left out here.)

**The three rules.** An admission is made by the store or by a node on its own, and is *known* to the store once that
counts it. All bounds follow from three rules, and the judge checks these, at each admission, by its own records:

1. A node knows what it has admitted itself. On its own it admits only while that, the new request included, is at most
   S: ``own(i) <= S``. That holds in every fault, since no fault reaches into a node's memory.
2. The store admits only while all that it knows, the new request included, is at most L. A node charges what it owes
   before anything else of the key is decided, and charges all that it had admitted where the store has lost its record
   (the answer to its next batch tells). So when the store admits a request of node i, it knows all of i's admissions,
   and the window holds at most ``L + sum of unknown(j) over the other nodes j``.
3. ``unknown(j)`` is what node j had admitted on its own since the store last decided a request of it, and, if the store
   lost data since then, what j had admitted before the loss; with a rollback, between the dump and the restoration.
   A node that dies never tells, so that its unknown admissions stay unknown until they leave the window.

**What follows, in numbers** (`ceiling`; a second check beside the rules, and what can be promised beforehand):

- One node: there are no others, so L. Always: outages, losses and rollbacks change nothing.
- N nodes, nobody decides alone, nothing is lost: no admission is unknown, so L.
- Outages: take the nodes whose last admission in the window was their own (D), and the others (E). By rule 1 each of D
  holds at most S. All admissions of E are known at E's last one, so that together they hold at most L. So L + |D| x S;
  and |D| x S <= L where there is no E. At worst one node is in E: ``L + (N - 1) x (L // N)``.
- A loss: the first node to ask charges its own a(1) and is admitted L - a(1) more; the others' are at most L - a(1) of
  what was counted before. So 2 L at most, and k losses within a window's length (1 + k) x L.
- However many losses: at its last admission each node itself holds at most L by rule 2 (or S by rule 1), so that all N
  together hold at most N x L.
- A death adds an incarnation: one more share in an outage, one more L in the last line.
- Where the number of nodes changes, N is the number by which an admission was shared out, and in a bound the smallest
  one within the window. (Nodes that are told too small a number have larger shares: the bound is larger by that.)
- A deletion forgets the usage with the key: what was admitted before it is put again doesn't count any more.
- A limit that changes: L is the one that the admission was decided with, which has to be one in force then.
- A clock step forward ends windows early: nothing is promised. A step back keeps history for as long as before, so L;
  the judge then has no exact time of an admission and takes only windows that are one at any rate.

**Accounts.** The same in each window of a request's path, by the window's own length and limits: of the account, its
teams, the key, and for the model; tokens are input and output together. A window is what counted requests whose path it
was on: one that was declared, or whose limits were taken away less than its length ago. What differs:

- Rule 2: a reply about any key of an account tells what its node owes in all windows of the account, since charges of
  the account come before all else in it. A limit that is only audited, or none, bounds nothing.
- Rule 1 holds for windows of up to a minute. In a longer one, a node knows too little of itself after a restart, and
  forgets most of the usage where it goes by its own alone. So there it admits up to ``(L - U) // N`` since the store
  last told it U, the usage then, and nothing if it was never told. Of what it admits so, ``unknown(j) <= L // N``; the
  judge checks that for each node, since the last reply to a request that it asked after all of these, with U at least
  what the store had admitted before and still counts.
- The ceiling is the same, for this reason: each U may be of another time. The worst is told U = 0 before the others use
  up L through the store: ``L + (N - 1) x (L // N)``. If all N are alone, the one told last knew all U that the store
  had: ``U + (L - U) // N + (N - 1) x (L // N)``, which is most at U = L. U counts a node's charges, so that a further
  outage in the same window has that much less to give, or nothing: outages don't add up, however long the window.
- Where U is more than L, by charges or by what was produced beyond reservations, a node alone admits nothing.
- Taking a key out of its account forgets nothing: its requests stay in all windows that they were counted in.

**Times.** The store tells the time of its decision, exactly. When a node decided alone, the judge sees by the machine's
clock: not before it was asked, not after it told. It is held from the later one until a window after the earlier one,
which differ by less than a millisecond where the node decided at once. A request that had been sent before may have
been decided by the store in between, too, and leaves its window from there. A node's estimate of the store's clock may
be told ahead of it by `TOLD_TOLERANCE_MS`, but no window may be fuller for that.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable

from .records import NOTHING, Op, Triple, minus, plus

TOLD_TOLERANCE_MS = 100
"""How far a node's estimate of the store's clock may be off: one bucket."""
STORE_TOLERANCE_MS = 5
"""The same for times that the store itself told: rounding to whole ms, and the clock's own adjustments."""


def share(limit: int, nodes: int) -> int:
    """Return what a node may admit on its own."""
    return limit // nodes


def ceiling(limit: int, *, nodes: int, incarnations: int, alone: int, losses: int) -> int:
    """Return the most that a window may hold.

    `incarnations`: those with an admission in it; `alone`: those of them that admitted on their own; `losses`: losses
    and rollbacks within the window's length before its end.
    """
    if incarnations <= 1:
        return limit
    by_outages = min(alone, incarnations - 1) * share(limit, nodes)
    return min(limit * (1 + losses) + by_outages, limit * incarnations)


class Knowledge:
    """What of one key's window is known to the store, by the records: rule 3."""

    def __init__(self) -> None:
        self.total: Triple = NOTHING
        self.own: defaultdict[int, Triple] = defaultdict(lambda: NOTHING)
        """What each incarnation has in the window."""
        self._unknown: defaultdict[int, dict[int, Op]] = defaultdict(dict)
        self._counts: Counter[int] = Counter()
        self._alone: Counter[int] = Counter()
        self._holds: dict[int, Triple] = {}
        self._ops: dict[int, Op] = {}
        self._dumps: dict[int, set[int]] = {}
        self._losing = 0

    def enter(self, op: Op, holds: Triple) -> None:
        """An admission; the store knows one that it made."""
        self._ops[id(op)], self._holds[id(op)] = op, holds
        self.total, self.own[op.node] = plus(self.total, holds), plus(self.own[op.node], holds)
        self._counts[op.node] += 1
        if op.degraded:
            self._unknown[op.node][id(op)] = op
            self._alone[op.node] += 1

    def settle(self, op: Op, holds: Triple) -> None:
        """It holds so much from now on."""
        if id(op) in self._ops:
            change = minus(holds, self._holds[id(op)])
            self._holds[id(op)] = holds
            self.total, self.own[op.node] = plus(self.total, change), plus(self.own[op.node], change)

    def leave(self, op: Op) -> None:
        """It is out of the window."""
        if self._ops.pop(id(op), None) is not None:
            holds = self._holds.pop(id(op))
            self.total, self.own[op.node] = minus(self.total, holds), minus(self.own[op.node], holds)
            self._unknown[op.node].pop(id(op), None)
            self._counts[op.node] -= 1
            self._alone[op.node] -= bool(op.degraded)

    def forget(self) -> None:
        """The key was deleted, and its usage with it."""
        for op in list(self._ops.values()):
            self.leave(op)

    def told(self, by: Op) -> None:
        """The store decided this request: what its node had admitted before it asked is known."""
        if self._losing:
            return
        unknown = self._unknown[by.node]
        for key in [key for key, op in unknown.items() if not op.degraded or op.told_ms <= by.asked_ms]:
            del unknown[key]

    def dumped(self, dump: int) -> None:
        """What is known now comes back with `rolled_back`."""
        self._dumps[dump] = {key for key, op in self._ops.items() if key not in self._unknown[op.node]}

    def may_lose(self, dump: int | None) -> None:
        """From now on, until `lost` or `rolled_back`, the store may have lost all but that dump, or may lose it yet."""
        self._losing += 1
        self._lose_all_but(set() if dump is None else self._dumps.get(dump, set()))

    def lost(self) -> None:
        """The store knows nothing any more."""
        self._losing -= 1
        self._lose_all_but(set())

    def rolled_back(self, dump: int) -> None:
        """The store knows what it knew at the dump, and nothing else."""
        self._losing -= 1
        known = self._dumps.pop(dump, set())
        self._lose_all_but(known)
        for key in known & self._ops.keys():
            self._unknown[self._ops[key].node].pop(key, None)

    def _lose_all_but(self, known: set[int]) -> None:
        for key, op in self._ops.items():
            if key not in known:
                self._unknown[op.node][key] = op

    def unknown_to(self, node: int) -> Triple:
        """Return what nodes other than this one have in the window without the store's knowledge."""
        total = NOTHING
        for other, ops in self._unknown.items():
            if other != node:
                total = plus(total, _sum(self._holds[key] for key in ops))
        return total

    def incarnations(self) -> int:
        """Return how many have an admission in the window."""
        return sum(count > 0 for count in self._counts.values())

    def alone(self) -> int:
        """Return how many have an admission of their own in the window."""
        return sum(count > 0 for count in self._alone.values())


def _sum(triples: Iterable[Triple]) -> Triple:
    total = NOTHING
    for each in triples:
        total = plus(total, each)
    return total
