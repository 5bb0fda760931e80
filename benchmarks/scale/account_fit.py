"""The loads on accounts beside plain keys of the same fleet and round: what they cost a node, and the model's check.

A node's CPU is a ratio to that for plain keys, because these were measured in the same minute. Fitted is

CPU ÷ CPU for a plain key = request + path · windows on the path + batch · windows in the script calls of a request,

on one node, without the account that is checked. Predicted are script calls and CPU of nodes and store, from the keys
and the requests in flight alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from benchmarks.lib.measuring import Row, row
from benchmarks.scale.account_costs import AccountCosts
from benchmarks.scale.account_loads import ONE_ACCOUNT, AccountSample, setting_of
from benchmarks.scale.account_shape import (
    OPERATIONS_PER_REQUEST,
    AccountShape,
    most_operations,
    shape_of,
    windows_of,
    work_of,
)
from benchmarks.scale.capacity_formulas import calls_per_request, non_negative_fit
from benchmarks.scale.scaling_sample import Sample


@dataclass(frozen=True, slots=True)
class NodeFactor:
    """Hold how many times the CPU of a plain key's request a request on a path takes of a node."""

    request: float
    path: float
    batch: float

    def of(self, shape: AccountShape, calls: float) -> float:
        """Return the factor for an account of this shape that makes so many script calls per request."""
        return self.request + self.path * shape.path + self.batch * calls * windows_of(shape, _operations(calls))


def _operations(calls: float) -> float:
    return OPERATIONS_PER_REQUEST / calls


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


def predicted_store_us(sample: AccountSample, costs: AccountCosts, turn_us: float) -> float:
    """Return the store's CPU per request. `turn_us`: of a turn of the shard's loop.

    On so few nodes, each call of the one account comes alone: a turn each.
    """
    calls, rate = predicted_calls(sample), sample.sample.requests_per_s / sample.accounts
    work = work_of(_shape(sample), _operations(calls), rate * calls)
    turns = calls if sample.accounts == 1 else sample.sample.turns_per_request
    return calls * costs.call_us(work) + turns * turn_us


def check_accounts(
    samples: Sequence[AccountSample], costs: AccountCosts, node: NodeFactor, turn_us: float
) -> list[Row]:
    """Return prediction ÷ measurement of the loads that saturate fleets; a node's CPU is that ÷ a plain key's."""
    found: dict[str, list[float]] = {}
    for each, plain in _pairs(samples):
        calls, text = predicted_calls(each), setting_of(each).text
        store_us = predicted_store_us(each, costs, turn_us)
        found.setdefault(f"{text}: script calls per request", []).append(calls / each.sample.calls_per_request)
        found.setdefault(f"{text}: store CPU", []).append(store_us / each.sample.store_us)
        if not _is_fitted(each):
            ratio = node.of(_shape(each), calls) * plain.node_us / each.sample.node_us
            found.setdefault(f"{text}: node CPU ÷ a plain key's", []).append(ratio)
    return [row(name, "predicted ÷ measured", ratios, "1") for name, ratios in found.items()]
