"""From the measured calls on paths to what each part of a call costs, and the check on calls that were not fitted.

call_us = call + key · keys + window · windows + operation · operations + visit · visits + turnover · turnovers
          + earlier · earlier, with the terms of `account_shape.Work`

Fitted on paths of two and of eight windows, checked on those of five.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, dataclass
from itertools import pairwise

from benchmarks.lib.measuring import Row, row
from benchmarks.scale.account_calls import AccountCall, Call, Memory, work_in
from benchmarks.scale.account_shape import AccountShape, Work, buckets_in_use
from benchmarks.scale.capacity_formulas import non_negative_fit

FITTED_PATHS = (2, 8)


@dataclass(frozen=True, slots=True)
class AccountCosts:
    """Hold what a call on paths costs a busy shard, in µs of its CPU; the parts are those of `Work`."""

    call: float
    key: float
    window: float
    operation: float
    visit: float
    turnover: float
    earlier: float

    def call_us(self, work: Work) -> float:
        """Return the cost of a call that touches so much."""
        return float(sum(cost * count for cost, count in zip(astuple(self), (1.0, *work), strict=True)))


def kind_of(measured: AccountCall) -> Call:
    """Return the kind of call that was measured."""
    return Call(measured.path, measured.keys, measured.admits, measured.settles, measured.is_turning)


def fit_calls(calls: Sequence[AccountCall]) -> AccountCosts:
    """Return the costs that describe the calls on the fitted paths best."""
    fitted = [call for call in calls if call.path in FITTED_PATHS]
    features = [(1.0, *work_in(kind_of(call))) for call in fitted]
    return AccountCosts(*non_negative_fit(features, [call.call_us for call in fitted]))


def check_calls(calls: Sequence[AccountCall], costs: AccountCosts) -> list[Row]:
    """Return prediction ÷ measurement for each kind of call that the costs were not fitted on."""
    found: dict[Call, list[float]] = {}
    for call in calls:
        if call.path and call.path not in FITTED_PATHS:
            found.setdefault(kind_of(call), []).append(costs.call_us(work_in(kind_of(call))) / call.call_us)
    return [row(f"a call: {call_text(call)}", "predicted ÷ measured", each, "1") for call, each in found.items()]


def call_text(call: Call) -> str:
    """Return a kind of call in words."""
    parts = [f"{count} {name}{'s' * (count > 1)}" for count, name in ((call.admits, "admit"), (call.settles, "settle"))]
    operations = " and ".join(part for part in parts if not part.startswith("0"))
    keys = min(call.keys, call.admits + call.settles)
    buckets = "buckets change" if call.is_turning else "buckets stay"
    path = f"path of {call.path}" if call.path else "plain key"
    return f"{path}, {operations} of {keys} key{'s' * (keys > 1)}, {buckets}"


def window_bytes(memory: Sequence[Memory], buckets: float, *, is_plain_key: bool = False) -> float:
    """Return the memory of a window with so many buckets in use, or of a plain key, by what was measured around it."""
    points = sorted((each.buckets, each.plain_key_bytes if is_plain_key else each.window_bytes) for each in memory)
    if buckets <= points[0][0]:
        return points[0][1] * min(buckets, 1.0)
    (low, low_bytes), (high, high_bytes) = next(
        ((a, b) for a, b in pairwise(points) if buckets <= b[0]), (points[-2], points[-1])
    )
    return low_bytes + (high_bytes - low_bytes) * (buckets - low) / (high - low)


def account_bytes(memory: Sequence[Memory], shape: AccountShape, requests_per_s: float) -> float:
    """Return the memory of an account at this rate: windows, each as if alone in its hash, and its keys' policies."""
    windows = sum(
        of * window_bytes(memory, buckets_in_use(requests_per_s / of, bucket_s))
        for widths, of in ((shape.account_s, 1), (shape.team_s, shape.teams), (shape.key_s, shape.keys))
        for bucket_s in widths
    )
    return windows + shape.keys * memory[0].policy_bytes
