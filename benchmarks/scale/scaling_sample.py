"""The samples that `scaling` writes and the capacity model reads: one per load, fleet and round, as in the JSON."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Sample:
    """Hold what one load on one fleet showed. "Per request": of all requests of the load, but for the client's cost."""

    nodes: int
    shards: int
    load: str
    """`fixed` (open loop at a rate) or `saturate` (closed loop), and over which keys: `uniform`, `zipf`, `one`."""
    keys: int
    zipf: float
    in_flight: int | None
    """Requests that closed loops keep in flight, over all nodes; None for an open loop."""
    requests: int
    requests_per_s: float
    operations_per_request: float
    calls_per_request: float
    """Script calls; fewer than operations where requests share them."""
    reads_per_request: float
    """Reads from sockets by all shards; fewer than calls where one write carries several."""
    turns_per_request: float
    """Turns of all shards' event loops; fewer than reads where several sockets were ready at once."""
    node_us: float
    store_us: float
    store_call_us: float
    """The part of `store_us` within script calls."""
    client_us: float
    shard_requests: list[float]
    """Each shard's part of the requests, from the keys that were sent and their slots."""
    shard_calls: list[float]
    shard_cpu: list[float]
    nodes_cores: float
    store_cores: float
    client_cores: float
    other_cores: float
    """Share of the machine that other work used meanwhile: above some hundredths, the machine wasn't quiet."""
    idle_store_cores: float
    """The store's use without any request."""
    latency_p50_ms: float | None = None
    latency_p99_ms: float | None = None
