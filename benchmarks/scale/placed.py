"""The things that lie on one shard as a whole, and what their requests cost: plain keys, and accounts of one shape.

Neighbour: `capacity_fleet`, which places them on shards and asks here what they cost at a rate.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol

from benchmarks.scale.account_costs import AccountCosts
from benchmarks.scale.account_fit import NodeFactor
from benchmarks.scale.account_shape import AccountShape, most_operations, work_of
from benchmarks.scale.capacity_fit import Costs
from limiter_node.limits import MAX_BATCH

KEY, ACCOUNT = "hottest key's calls", "largest account's batches"


class Placed(Protocol):
    """A kind of thing that lies on one shard as a whole."""

    @property
    def batches(self) -> str:
        """Name the resource that the batches of the largest one are."""

    @property
    def most_operations(self) -> float:
        """The operations of the largest batch."""

    def node_us(self, costs: Costs, calls: float, writes: float) -> float:
        """Return the node's CPU per request that makes so many script calls and writes."""

    def store_us(self, requests_per_s: float, calls: float, operations: float) -> float:
        """Return the shard's CPU per request of one such thing at this rate.

        `calls`, `operations`: script calls and operations per request.
        """


class ShardCall(NamedTuple):
    """Say what a call of one operation costs a busy shard with all nodes connected, and each further operation."""

    call_us: float
    operation_us: float


@dataclass(frozen=True, slots=True)
class PlainKeys:
    """Keys with three limits a minute."""

    call: ShardCall
    batches: str = KEY
    most_operations: float = float(MAX_BATCH)

    def node_us(self, costs: Costs, calls: float, writes: float) -> float:
        """See `Placed`."""
        return costs.node_request + costs.node_call * calls + costs.node_write * writes

    def store_us(self, requests_per_s: float, calls: float, operations: float) -> float:
        """See `Placed`; the rate makes no difference."""
        return calls * self.call.call_us + max(operations - calls, 0.0) * self.call.operation_us


class Accounts:
    """Accounts of one shape. `answer_s`: the time from an admission to its settle."""

    batches = ACCOUNT

    def __init__(self, shape: AccountShape, costs: AccountCosts, node: NodeFactor, *, answer_s: float = 0.0) -> None:
        self.shape = shape
        self.most_operations = most_operations(shape)
        self._costs, self._node, self._answer_s = costs, node, answer_s

    def node_us(self, costs: Costs, calls: float, writes: float) -> float:
        """See `Placed`: a multiple of what a plain key costs whose operations are calls of their own."""
        operations = costs.operations
        plain_us = costs.node_request + (costs.node_call + costs.node_write) * operations
        return plain_us * self._node.of(self.shape, calls)

    def store_us(self, requests_per_s: float, calls: float, operations: float) -> float:
        """See `Placed`. The higher the rate, the fewer touches of a window begin a bucket."""
        work = work_of(self.shape, operations / calls, requests_per_s * calls, self._answer_s)
        return calls * self._costs.call_us(work)
