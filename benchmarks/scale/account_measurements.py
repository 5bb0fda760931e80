"""The measurements that `benchmarks.accounts` wrote, read again and fitted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.lib.measuring import Row
from benchmarks.scale.account_calls import AccountCall, Memory
from benchmarks.scale.account_costs import AccountCosts, account_bytes, check_calls, fit_calls, window_bytes
from benchmarks.scale.account_fit import NodeFactor, check_accounts, fit_nodes
from benchmarks.scale.account_loads import AccountSample
from benchmarks.scale.account_shape import AccountShape, buckets_in_use
from benchmarks.scale.scaling_sample import Sample

_PLAIN_BUCKET_S = 0.1


@dataclass(frozen=True, slots=True)
class Measurements:
    """Hold the measurements of accounts, and the costs that were fitted to them."""

    measured_calls: Sequence[AccountCall]
    samples: Sequence[AccountSample]
    memory: Sequence[Memory]
    calls: AccountCosts
    node: NodeFactor

    def check(self, turn_us: float) -> list[Row]:
        """Return prediction ÷ measurement. `turn_us`: what a turn of a shard's loop costs it."""
        rows = check_calls(self.measured_calls, self.calls)
        return rows + check_accounts(self.samples, self.calls, self.node, turn_us)

    def bytes_of(self, shape: AccountShape | None, requests_per_s: float) -> float:
        """Return the store's memory of an account of this shape, or of a plain key, at this rate."""
        if shape is not None:
            return account_bytes(self.memory, shape, requests_per_s)
        return window_bytes(self.memory, buckets_in_use(requests_per_s, _PLAIN_BUCKET_S), is_plain_key=True)


def read_measurements(document: Mapping[str, Any]) -> Measurements:
    """Return what is in the JSON of `benchmarks.accounts`."""
    calls = [AccountCall(**each) for each in document["calls"]]
    samples = [AccountSample(**{**each, "sample": Sample(**each["sample"])}) for each in document["samples"]]
    memory = [Memory(**each) for each in document["memory"]]
    return Measurements(calls, samples, memory, fit_calls(calls), fit_nodes(samples))
