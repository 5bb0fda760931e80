"""``GET /metrics``: what a node tells Prometheus, in its text format."""

from __future__ import annotations

from limiter_node.model import Degradation


def metrics_text(degradation: Degradation) -> bytes:
    """The body. Counters since the node's start; no label comes from a caller."""
    return (
        "# HELP limiter_degraded_decisions_total Requests decided without the store, by outcome.\n"
        "# TYPE limiter_degraded_decisions_total counter\n"
        f'limiter_degraded_decisions_total{{outcome="admitted"}} {degradation.admitted}\n'
        f'limiter_degraded_decisions_total{{outcome="rejected"}} {degradation.rejected}\n'
        f'limiter_degraded_decisions_total{{outcome="refused"}} {degradation.refused}\n'
        "# HELP limiter_shards_cut_off Shards of the store that are not asked now.\n"
        "# TYPE limiter_shards_cut_off gauge\n"
        f"limiter_shards_cut_off {degradation.shards_cut_off}\n"
        "# HELP limiter_shard_outages_total How often a shard was cut off.\n"
        "# TYPE limiter_shard_outages_total counter\n"
        f"limiter_shard_outages_total {degradation.outages}\n"
    ).encode()
