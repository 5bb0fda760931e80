"""The capacity model's arithmetic: how operations share calls, calls share writes, and who is full first.

Pure functions; the figures they are given come from measurements (`capacity_fit`) or from a command line (`capacity`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from math import exp, expm1

from limiter_node.limits import MAX_BATCH


def batch_operations(arriving: float, limit: float = MAX_BATCH) -> float:
    """Return operations per call of one node and key, if `arriving` of them arrive during a round trip on average.

    A node has one call per key in flight; what arrives meanwhile forms the next. With Poisson arrivals at rate λ and a
    round trip r, m = λr arrive meanwhile. With probability e^-m none does: then the next call is made by the first that
    comes, 1/λ later, and carries it alone. So calls are r + e^-m/λ apart and carry λ times that: m + e^-m. That is 1
    for m → 0, m for large m, and below the simpler bound 1 + m everywhere.
    """
    return min(arriving + exp(-arriving), float(limit))


def calls_per_request(
    key_rate: float,
    round_trip_s: float,
    *,
    operations: float = 2.0,
    settle_wait_s: float = 0.0,
    limit: float = MAX_BATCH,
) -> float:
    """Return script calls per request of a key of which a node gets `key_rate` requests/s.

    Without company, the admission is one call and the settle (the other `operations` - 1) is another, unless another
    request of the key comes within `settle_wait_s`, the time that a settle may wait for a batch to ride along with.
    """
    alone = 1 + (operations - 1) * exp(-key_rate * settle_wait_s)
    full = operations / limit
    return max(alone / batch_operations(key_rate * alone * round_trip_s, limit), full)


def writes_per_call(calls_per_turn: float, shards: int) -> float:
    """Return writes to sockets per call, if the calls of one turn of a loop go to random ones of `shards` sockets.

    Of S connections, n calls leave S·(1 - 1/S)^n without any; calls to one shard share a write.
    """
    if calls_per_turn <= 1:
        return 1.0
    return shards * (1 - float((1 - 1 / shards) ** calls_per_turn)) / calls_per_turn


def burst(arriving: float) -> float:
    """Return the mean size of groups of Poisson arrivals that are looked at once per interval: m/(1 - e^-m)."""
    return arriving / -expm1(-arriving) if arriving > 1e-9 else 1.0


def bottleneck(utilization: Mapping[str, float]) -> tuple[str, float]:
    """Return the resource that is full first, and its utilization."""
    name = max(utilization, key=utilization.__getitem__)
    return name, utilization[name]


def non_negative_fit(features: Sequence[Sequence[float]], measured: Sequence[float]) -> list[float]:
    """Fit coefficients ≥ 0 by least squares of *relative* errors. A row of features belongs to each measurement.

    Tries every set of features: exact, and fast for the handful that a cost has. What the data don't determine gets 0.
    """
    rows = [[value / aim for value in row] for row, aim in zip(features, measured, strict=True)]
    width = len(rows[0])
    best, best_error = [0.0] * width, float(len(rows))
    for size in range(1, width + 1):
        for chosen in combinations(range(width), size):
            solution = _solve(
                [[sum(row[i] * row[j] for row in rows) for j in chosen] for i in chosen],
                [sum(row[i] for row in rows) for i in chosen],
            )
            if solution is None or min(solution) < 0:
                continue
            coefficients = [0.0] * width
            for i, value in zip(chosen, solution, strict=True):
                coefficients[i] = value
            error = sum((sum(c * v for c, v in zip(coefficients, row, strict=True)) - 1) ** 2 for row in rows)
            if error < best_error - 1e-12:
                best, best_error = coefficients, error
    return best


def _solve(matrix: list[list[float]], aim: list[float]) -> list[float] | None:
    """Solve by Gaussian elimination with pivoting; None if the equations don't determine a solution."""
    rows = [[*row, value] for row, value in zip(matrix, aim, strict=True)]
    size = len(rows)
    for i in range(size):
        pivot = max(range(i, size), key=lambda j: abs(rows[j][i]))
        if abs(rows[pivot][i]) < 1e-12:
            return None
        rows[i], rows[pivot] = rows[pivot], rows[i]
        for j in range(size):
            if j != i:
                factor = rows[j][i] / rows[i][i]
                rows[j] = [a - factor * b for a, b in zip(rows[j], rows[i], strict=True)]
    return [rows[i][size] / rows[i][i] for i in range(size)]
