"""An account as its shard and its nodes meet it: windows, and what one call for a number of its operations touches.

Pure functions. A call carries operations of many keys of one account, in the order in which they came. A batch may cost
so much and no more (`limiter_node.store.accounts.costs`), so an account with many keys gets small batches: most of what
such a batch costs is the windows of its keys, which no two operations share.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import exp, expm1
from typing import NamedTuple

from benchmarks.paths.measured_account import SHAPES, TEAMS
from limiter_node.limits import MAX_BATCH
from limiter_node.store.accounts import costs

OPERATIONS_PER_REQUEST = 2.0
"""An admission and a settle."""


@dataclass(frozen=True, slots=True)
class AccountShape:
    """Describe an account: its keys and teams, and the widths in s of the buckets of each window on a key's path."""

    keys: int
    teams: int
    account_s: tuple[float, ...]
    team_s: tuple[float, ...]
    key_s: tuple[float, ...]

    @property
    def path(self) -> int:
        """The windows on the path of a request."""
        return len(self.account_s) + len(self.team_s) + len(self.key_s)


def shape_of(path: int, keys: int, teams: int = TEAMS) -> AccountShape:
    """Return an account whose keys have a path of 2, 5 or 8 windows, as `benchmarks.policies` measures them."""
    shape = SHAPES[path]
    account, team, key = (
        tuple(window.bucket_ms / 1000 for window in windows)
        for windows in (shape.account, (*shape.team, *shape.sub_team), shape.key)
    )
    return AccountShape(keys, teams, account, team, key)


class Work(NamedTuple):
    """Say what one call touches, on average."""

    keys: float
    """Keys, each with a hash of its own."""
    windows: float
    operations: float
    visits: float
    """Operations, each counted as often as its path has windows."""
    turnovers: float
    """Windows in which a bucket begins; in the long run as many leave."""
    earlier: float
    """Visits by settles that change a bucket before the newest one."""


def distinct(drawn: float, of: float) -> float:
    """Return how many different things are among `drawn` ones of `of` that are drawn at random."""
    return float(of * (1 - (1 - 1 / of) ** drawn))


def turning(touches_per_s: float, bucket_s: float) -> float:
    """Return the probability that a touch of a window begins a bucket, if touches come at random."""
    expected = touches_per_s * bucket_s
    return -expm1(-expected) / expected if expected > 1e-9 else 1.0


def moved_on(admits_per_s: float, bucket_s: float, answer_s: float) -> float:
    """Return the probability that a settle finds the bucket of its admission no longer the newest one of a window.

    For that, a bucket must have ended since, and another request must have been admitted.
    """
    return expm1(-answer_s / bucket_s) * expm1(-admits_per_s * answer_s)


def keys_of(shape: AccountShape, operations: float) -> float:
    """Return the different keys that so many operations of one call are of: keys take turns, so as many as can be."""
    return min(operations, float(shape.keys))


def windows_of(shape: AccountShape, operations: float) -> float:
    """Return the different windows that so many operations of one call touch."""
    teams, keys = distinct(operations, shape.teams), keys_of(shape, operations)
    return len(shape.account_s) + len(shape.team_s) * teams + len(shape.key_s) * keys


def work_of(shape: AccountShape, operations: float, calls_per_s: float, answer_s: float = 0.0) -> Work:
    """Return what a call for so many operations touches, half of them admissions, half settles.

    `calls_per_s`: for the account, of all nodes. `answer_s`: the time from an admission to its settle.
    """
    admits = operations / OPERATIONS_PER_REQUEST
    touched = (
        (shape.account_s, min(admits, 1.0), 1),
        (shape.team_s, distinct(admits, shape.teams), shape.teams),
        (shape.key_s, keys_of(shape, admits), shape.keys),
    )
    turnovers = sum(
        count * turning(calls_per_s * count / of, bucket_s) for widths, count, of in touched for bucket_s in widths
    )
    earlier = sum(
        moved_on(admits * calls_per_s / of, bucket_s, answer_s) for widths, _, of in touched for bucket_s in widths
    )
    return Work(
        keys=keys_of(shape, operations),
        windows=windows_of(shape, operations),
        operations=operations,
        visits=operations * shape.path,
        turnovers=turnovers,
        earlier=(operations - admits) * earlier,
    )


def most_operations(shape: AccountShape) -> float:
    """Return the operations of the largest batches that a node makes for this account."""

    def cost(operations: float) -> float:
        each = shape.path * (costs.ADMIT + costs.OTHER) / 2
        return costs.WINDOW * windows_of(shape, operations) + operations * each

    low, high = 1.0, float(MAX_BATCH)
    if cost(high) <= costs.BUDGET:
        return high
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if cost(middle) <= costs.BUDGET else (low, middle)
    return float(int(low))


def buckets_in_use(requests_per_s: float, bucket_s: float, buckets: int = 600) -> float:
    """Return how many buckets of a window hold a request, if requests come at random at this rate."""
    return (buckets + 1) * (1 - exp(-requests_per_s * bucket_s))
