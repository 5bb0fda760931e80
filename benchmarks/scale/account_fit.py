"""The loads on accounts beside plain keys of the same fleet and round: what they cost a node, and the model's check.

Everything here is a ratio to plain keys, because these were measured in the same minute. Fitted is the CPU of a node,

CPU ÷ CPU for a plain key = request + path · windows on the path + batch · windows in the script calls of a request,

on one node, without the account that is checked. Predicted are script calls and CPU of nodes and store, from the keys
and the requests in flight alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import median

from benchmarks.lib.measuring import Row, row
from benchmarks.scale.account_calls import AccountCall
from benchmarks.scale.account_costs import AccountCosts
from benchmarks.scale.account_loads import ONE_ACCOUNT, AccountSample, setting_of
from benchmarks.scale.account_shape import (
    OPERATIONS_PER_REQUEST,
    AccountShape,
    most_operations,
    shape_of,
    turning,
    windows_of,
    work_of,
)
from benchmarks.scale.capacity_formulas import calls_per_request, non_negative_fit
from benchmarks.scale.scaling_sample import Sample

_PLAIN_BUCKET_S = 0.1


@dataclass(frozen=True, slots=True)
class NodeFactor:
    """Hold how many times the CPU of a plain key's request a request on a path takes of a node."""

    request: float
    path: float
    batch: float

    def of(self, shape: AccountShape, calls: float) -> float:
        """Return the factor for an account of this shape that makes so many script calls per request."""
        return self.request + self.path * shape.path + self.batch * calls * windows_of(shape, _operations(calls))


@dataclass(frozen=True, slots=True)
class PlainCall:
    """Hold what a plain key's call of one operation costs a busy shard, in µs, where its bucket stays and changes."""

    stays_us: float
    changes_us: float

    def call_us(self, calls_per_s: float) -> float:
        """Return the cost of a call of a key that has so many."""
        return self.stays_us + (self.changes_us - self.stays_us) * turning(calls_per_s, _PLAIN_BUCKET_S)


def _operations(calls: float) -> float:
    return OPERATIONS_PER_REQUEST / calls


def plain_call(calls: Sequence[AccountCall]) -> PlainCall:
    """Return the median costs of plain keys' calls among the measured ones."""
    stays, changes = (
        median(call.call_us for call in calls if not call.path and call.is_turning == is_turning)
        for is_turning in (False, True)
    )
    return PlainCall(stays, changes)


def beside_plain_keys(samples: Sequence[AccountSample]) -> Iterator[tuple[AccountSample, Sample]]:
    """Yield each load that saturates a fleet, and the plain keys' of the same fleet and round."""
    plain = {(each.round, each.sample.nodes): each.sample for each in samples if not each.path}
    for each in samples:
        beside = plain.get((each.round, each.sample.nodes))
        if each.offered is None and beside is not None:
            yield each, beside


def _pairs(samples: Sequence[AccountSample]) -> Iterator[tuple[AccountSample, Sample]]:
    return (pair for pair in beside_plain_keys(samples) if pair[0].path)


def _shape(sample: AccountSample) -> AccountShape:
    return shape_of(sample.path, sample.keys)


def _is_fitted(sample: AccountSample) -> bool:
    return sample.sample.nodes == 1 and setting_of(sample) != ONE_ACCOUNT


def fit_nodes(samples: Sequence[AccountSample]) -> NodeFactor:
    """Return the factor that describes the fitted loads best."""
    features, factors = [], []
    for each, plain in _pairs(samples):
        if _is_fitted(each):
            calls = each.sample.calls_per_request
            features.append([1.0, each.path, calls * windows_of(_shape(each), _operations(calls))])
            factors.append(each.sample.node_us / plain.node_us)
    return NodeFactor(*non_negative_fit(features, factors))


def predicted_calls(sample: AccountSample) -> float:
    """Return script calls per request at saturation, where requests in flight are those of a round trip (Little)."""
    rate = sample.sample.requests_per_s / sample.sample.nodes
    in_flight = (sample.sample.in_flight or 0) / sample.sample.nodes
    return calls_per_request(
        rate / sample.accounts,
        in_flight / (rate * OPERATIONS_PER_REQUEST),
        limit=most_operations(_shape(sample)),
    )


def predicted_store(
    sample: AccountSample, plain: Sample, costs: AccountCosts, call: PlainCall, turn_us: float
) -> float:
    """Return the store's CPU per request ÷ that of a plain key. `turn_us`: of a turn of the shard's loop.

    On so few nodes, each call of the one account comes alone: a turn each.
    """
    calls, rate = predicted_calls(sample), sample.sample.requests_per_s / sample.accounts
    work = work_of(_shape(sample), _operations(calls), rate * calls)
    turns = calls if sample.accounts == 1 else sample.sample.turns_per_request
    plain_us = plain.calls_per_request * call.call_us(plain.requests_per_s * plain.calls_per_request / plain.keys)
    return (calls * costs.call_us(work) + turns * turn_us) / (plain_us + plain.turns_per_request * turn_us)


def check_accounts(
    samples: Sequence[AccountSample], costs: AccountCosts, node: NodeFactor, call: PlainCall, turn_us: float
) -> list[Row]:
    """Return prediction ÷ measurement of the loads that saturate fleets; the CPU is that ÷ a plain key's."""
    found: dict[str, list[float]] = {}
    for each, plain in _pairs(samples):
        calls, text = predicted_calls(each), setting_of(each).text
        store = predicted_store(each, plain, costs, call, turn_us)
        found.setdefault(f"{text}: script calls per request", []).append(calls / each.sample.calls_per_request)
        found.setdefault(f"{text}: store CPU ÷ a plain key's", []).append(store * plain.store_us / each.sample.store_us)
        if not _is_fitted(each):
            ratio = node.of(_shape(each), calls) * plain.node_us / each.sample.node_us
            found.setdefault(f"{text}: node CPU ÷ a plain key's", []).append(ratio)
    return [row(name, "predicted ÷ measured", ratios, "1") for name, ratios in found.items()]
