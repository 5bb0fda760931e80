"""A record as the windows that it is about: each with what may count in it, and with what tells of it.

A plain key has one window; a request of an account's key counts in each window of its path, and is judged in each.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field

from .policies import widths
from .records import (
    ADMITTED,
    BUCKET_MS,
    DECIDED,
    NO_LIMIT,
    AccountHistory,
    KeyHistory,
    Limits,
    Op,
    Place,
    Record,
)

SHORT_MS = 60_000
"""The longest window in which a node that decides alone goes by what it has admitted itself."""
_CELLS = 60
"""The cells of a node's own window of any length."""


@dataclass
class Ledger:
    """One window under judgement.

    `ops`: the requests that may count in it, decided or not. `telling`: those by whose decision the store learns what
    their node owes: all of the key, or of the account.
    """

    place: Place
    bucket_ms: int
    buckets: int
    history: KeyHistory | AccountHistory
    ops: list[Op]
    telling: list[Op]
    largest: Limits
    _limits: dict[int, Limits] = field(default_factory=dict)

    @property
    def window_ms(self) -> int:
        """The length of a true window."""
        return self.buckets * self.bucket_ms

    @property
    def is_long(self) -> bool:
        """Whether nodes that decide alone go by what the store has told last."""
        return self.window_ms > SHORT_MS

    @property
    def cell_ms(self) -> int:
        """The precision of a node's own window, with which it counts again what the store has lost."""
        return max(self.window_ms // BUCKET_MS // _CELLS, 1) * BUCKET_MS

    def limits(self, op: Op) -> Limits:
        """Return the limits of the window by which a request was decided."""
        return self._limits[id(op)]

    @property
    def admitted(self) -> list[Op]:
        """The requests that were admitted."""
        return [op for op in self.ops if op.outcome == ADMITTED]


def ledgers(record: Record) -> Iterator[Ledger]:
    """Return all windows of a record."""
    by_owner: defaultdict[str, list[Op]] = defaultdict(list)
    for op in record.ops:
        by_owner[record.owner(op.key)].append(op)
    for kid, key in record.keys.items():
        ops = by_owner[kid]
        largest = tuple(max((put.limits[each] for put in key.puts), default=0) for each in range(3))
        limits = {id(op): (*op.limits, NO_LIMIT) for op in ops}
        place = Place(kid)
        yield Ledger(place, BUCKET_MS, record.window_buckets, key, ops, ops, (*largest, NO_LIMIT), limits)  # type: ignore[arg-type]
    for tag, account in record.accounts.items():
        yield from _of_account(account, by_owner[tag])


def _of_account(account: AccountHistory, ops: list[Op]) -> Iterator[Ledger]:
    largest: dict[Place, Limits] = {}
    paths: dict[tuple[str, tuple[str, ...]], set[Place]] = {}
    for put in account.puts:
        for rule in put.declared.rules:
            place = put.declared.place(rule)
            known = largest.get(place, (0, 0, 0, 0))
            requests, input_tokens, output_tokens, tokens = map(max, known, rule.limits)
            largest[place] = requests, input_tokens, output_tokens, tokens
    by_place: defaultdict[Place, list[Op]] = defaultdict(list)
    limits: defaultdict[Place, dict[int, Limits]] = defaultdict(dict)
    for op in ops:
        if op.outcome in DECIDED:
            for touched in op.path:
                by_place[touched.place].append(op)
                limits[touched.place][id(op)] = touched.limits
            continue
        # Nobody was told the path of these. They count once at most, wherever they may.
        of = op.key, op.models
        if of not in paths:
            declared = [put.declared for put in account.puts]
            paths[of] = {each.place(rule) for each in declared for rule in each.path(*of) or ()}
        for place in paths[of]:
            by_place[place].append(op)
    for place in {**largest, **by_place}:
        bucket_ms, buckets = widths(place.per_ms)
        yield Ledger(
            place,
            bucket_ms,
            buckets,
            account,
            by_place[place],
            ops,
            largest.get(place, (0, 0, 0, 0)),
            limits[place],
        )
