"""``GET /metrics``: a node's metrics for Prometheus, rendered by prometheus-client on each request.

The names are a contract with dashboards and alerts (``deploy/``); docs/operations.md has the table. All families are
there from the start, so that the rate of an event that hasn't happened yet is 0 instead of missing. No label comes from
a caller, and none names an API key.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.metadata import version
from typing import NamedTuple

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from limiter_node.telemetry import (
    LATENCY_BOUNDS_S,
    SIZE_BOUNDS,
    WAIT_BOUNDS_S,
    BatchSizes,
    Latencies,
    StoreState,
    Telemetry,
)

_DEGRADED = ("admitted", "rejected", "refused")
_STORE_ERRORS = ("lost", "refused", "redirected", "reloaded", "unreadable", "failed")
_STORE_LOSSES = ("counts", "keys")
_USUAL_CODES = (200, 400, 401, 429, 499, 500, 502, 503, 504)


class HttpState(NamedTuple):
    """Hold the figures of the HTTP layer beside the counts of responses."""

    requests_in_flight: int
    connections: int
    shed: int
    """Requests turned away since the start."""
    held_bytes: int
    """Of bodies and answers."""


class Metrics:
    """Render the metrics of one node: its `telemetry`, the `state` of its store, and the HTTP layer's."""

    def __init__(
        self, node_id: str, telemetry: Telemetry, state: Callable[[], StoreState], http: Callable[[], HttpState]
    ) -> None:
        self._registry = CollectorRegistry(auto_describe=False)
        ProcessCollector(registry=self._registry)
        PlatformCollector(registry=self._registry)
        GCCollector(registry=self._registry)
        self._registry.register(_NodeCollector(node_id, telemetry, state, http))

    def page(self, accept: str) -> tuple[bytes, str]:
        """Return the body and its content type: OpenMetrics if `accept` has it, else Prometheus' text format."""
        render, content_type = choose_encoder(accept)
        return render(self._registry), content_type


class _NodeCollector(Collector):
    def __init__(
        self, node_id: str, telemetry: Telemetry, state: Callable[[], StoreState], http: Callable[[], HttpState]
    ) -> None:
        self._node_id, self._telemetry, self._state, self._http = node_id, telemetry, state, http

    def collect(self) -> Iterator[Metric]:
        """Yield all families, of one moment."""
        build = GaugeMetricFamily("limiter_build_info", "The node and what it runs.", labels=("version", "node"))
        build.add_metric((version("llm-rate-limiter"), self._node_id), 1)
        yield build
        yield from self._traffic()
        yield from self._tokens()
        yield from self._store(self._state())
        yield from self._upstreams()

    def _traffic(self) -> Iterator[Metric]:
        telemetry, http = self._telemetry, self._http()
        decisions = CounterMetricFamily(
            "limiter_decisions",
            "Requests decided by the store, by outcome and by the limit that rejected.",
            labels=("outcome", "reason"),
        )
        for labels, count in telemetry.decisions.by_reason().items():
            decisions.add_metric(labels, count)
        yield decisions
        rejections = CounterMetricFamily(
            "limiter_rejections",
            "Requests that a limit rejected, by its unit, whose it is, and the length of its window.",
            labels=("unit", "level", "window"),
        )
        for limit, count in telemetry.rejections.by_limit().items():
            rejections.add_metric(limit, count)
        yield rejections
        yield _latencies(
            "limiter_decision_seconds", "Time from asking for a decision to the verdict.", telemetry.decision_latency
        )
        counts = telemetry.responses
        codes = sorted({*_USUAL_CODES, *(code for code, count in enumerate(counts) if count)})
        yield _counter(
            "limiter_responses", "HTTP responses by status.", "code", {str(code): counts[code] for code in codes}
        )
        yield CounterMetricFamily(
            "limiter_shed_requests", "Requests turned away because the node was overloaded.", value=http.shed
        )
        yield GaugeMetricFamily("limiter_requests_in_flight", "HTTP requests under way.", value=http.requests_in_flight)
        yield GaugeMetricFamily("limiter_connections", "Connections of clients.", value=http.connections)
        yield GaugeMetricFamily(
            "limiter_held_bytes",
            "Bytes held of bodies and long answers.",
            value=http.held_bytes,
        )

    def _tokens(self) -> Iterator[Metric]:
        telemetry = self._telemetry
        yield _counter(
            "limiter_settles",
            "Reservations that ended: settled to what was produced, or refunded.",
            "kind",
            {"settled": telemetry.settled, "refunded": telemetry.refunded},
        )
        for name, what, count in (
            ("limiter_input_tokens", "Input tokens of admitted requests.", telemetry.input_tokens),
            (
                "limiter_reserved_output_tokens",
                "Output tokens reserved by admitted requests.",
                telemetry.reserved_output_tokens,
            ),
            ("limiter_output_tokens", "Output tokens produced, as settled.", telemetry.output_tokens),
        ):
            yield CounterMetricFamily(name, what, value=count)
        yield _counter(
            "limiter_overrun_tokens",
            "Tokens charged on settle beyond what was admitted: input beyond the count, output beyond the reservation.",
            "kind",
            {"input": telemetry.overrun_input_tokens, "output": telemetry.overrun_output_tokens},
        )

    def _upstreams(self) -> Iterator[Metric]:
        """Yield the families of the upstream services; with the mock they have no samples."""
        requests = CounterMetricFamily(
            "limiter_upstream_requests",
            "Requests to a service, by how it took them.",
            labels=("upstream", "outcome"),
        )
        retries = CounterMetricFamily(
            "limiter_upstream_retries",
            "Requests that were sent again, because nobody can have read them.",
            labels=("upstream",),
        )
        waits = HistogramMetricFamily(
            "limiter_upstream_head_seconds",
            "Time from sending a request to a service to the head of its answer.",
            labels=("upstream",),
        )
        for name, counts in self._telemetry.upstreams.items():
            for outcome, count in counts.outcomes.items():
                requests.add_metric((name, outcome), count)
            retries.add_metric((name,), counts.retries)
            waits.add_metric((name,), _buckets(WAIT_BOUNDS_S, counts.head_wait.counts), counts.head_wait.sum_s)
        ejected = GaugeMetricFamily(
            "limiter_upstream_target_ejected",
            "1 while the address of a service is left alone because it failed.",
            labels=("upstream", "target"),
        )
        for target in self._telemetry.upstream_targets:
            ejected.add_metric((target.service, target.name), int(target.is_out))
        yield from (requests, retries, waits, ejected)

    def _store(self, state: StoreState) -> Iterator[Metric]:
        yield _sizes(
            "limiter_batch_operations",
            "Operations (admits, settles, charges) per script call.",
            self._telemetry.batch_sizes,
        )
        calls = HistogramMetricFamily(
            "limiter_shard_call_seconds",
            "Time from a write of script calls to the last reply, by shard; one at a time.",
            labels=("shard",),
        )
        cut_off = GaugeMetricFamily(
            "limiter_shard_cut_off", "1 while the shard is not asked (its circuit breaker is open).", labels=("shard",)
        )
        for shard in state.shards:
            calls.add_metric((shard.address,), _buckets(LATENCY_BOUNDS_S, shard.calls.counts), shard.calls.sum_s)
            cut_off.add_metric((shard.address,), int(shard.is_cut_off))
        yield calls
        yield cut_off
        yield GaugeMetricFamily(
            "limiter_shards_cut_off", "Shards of the store that are not asked now.", value=state.shards_cut_off
        )
        yield CounterMetricFamily("limiter_shard_outages", "How often a shard was cut off.", value=state.outages)
        yield _counter(
            "limiter_degraded_decisions",
            "Requests decided without the store, by outcome.",
            "outcome",
            {outcome: state.degraded.get(outcome, 0) for outcome in _DEGRADED},
        )
        yield _counter(
            "limiter_store_errors",
            "Script calls that the store did not simply answer, by kind.",
            "kind",
            {kind: state.errors.get(kind, 0) for kind in _STORE_ERRORS},
        )
        yield _counter(
            "limiter_store_losses",
            "What the store had lost and this node made good: windows charged again, keys and accounts declared again.",
            "what",
            {what: state.losses.get(what, 0) for what in _STORE_LOSSES},
        )
        yield GaugeMetricFamily(
            "limiter_known_keys",
            "Keys that this node has met and remembers, once for each credential in use.",
            value=state.known_keys,
        )
        yield GaugeMetricFamily(
            "limiter_known_accounts",
            "Accounts of these keys, those that are keys without an account included.",
            value=state.known_accounts,
        )
        yield GaugeMetricFamily(
            "limiter_unsent_charges",
            "Charges that wait for the store, most of them of requests that were admitted without it.",
            value=state.unsent_charges,
        )
        yield GaugeMetricFamily("limiter_waiting_requests", "Requests that wait for a verdict.", value=state.waiting)
        yield GaugeMetricFamily(
            "limiter_batches_in_flight", "Batches that the store has not answered yet.", value=state.batches_in_flight
        )
        yield GaugeMetricFamily(
            "limiter_live_nodes", "Nodes that have announced themselves in the store.", value=state.live_nodes
        )


def _counter(name: str, what: str, label: str, counts: Mapping[str, int]) -> Metric:
    family = CounterMetricFamily(name, what, labels=(label,))
    for value, count in counts.items():
        family.add_metric((value,), count)
    return family


def _latencies(name: str, what: str, latencies: Latencies) -> Metric:
    return HistogramMetricFamily(
        name, what, buckets=_buckets(LATENCY_BOUNDS_S, latencies.counts), sum_value=latencies.sum_s
    )


def _sizes(name: str, what: str, sizes: BatchSizes) -> Metric:
    return HistogramMetricFamily(
        name, what, buckets=_buckets(SIZE_BOUNDS, sizes.by_bound()), sum_value=sizes.operations
    )


def _buckets(bounds: Sequence[float], counts: Sequence[int]) -> list[tuple[str, float]]:
    """Return Prometheus' buckets, which are cumulative."""
    buckets, total = [], 0.0
    for bound, count in zip((*(f"{bound:g}" for bound in bounds), "+Inf"), counts, strict=True):
        total += count
        buckets.append((bound, total))
    return buckets
