"""The capacity model's pure functions against known cases, and its fit against fleets that follow it exactly."""

from __future__ import annotations

from dataclasses import replace
from math import e
from random import Random

import pytest

from benchmarks.capacity import check, check_skew, shard_call
from benchmarks.scale.capacity_fit import Costs, SettleWait, fit, measured, predict
from benchmarks.scale.capacity_fleet import NODES, SHARD, Capacity, Fleet, Part, Placements
from benchmarks.scale.capacity_fleet import capacity as capacity_of
from benchmarks.scale.capacity_formulas import (
    batch_operations,
    bottleneck,
    burst,
    calls_per_request,
    non_negative_fit,
    writes_per_call,
)
from benchmarks.scale.key_skew import SLOTS, expected_skew, owner_of, shard_of, shard_shares, zipf_weights
from benchmarks.scale.placed import KEY, PlainKeys, ShardCall
from benchmarks.scale.scaling_sample import Sample

COSTS = Costs(
    node_request=60.0,
    node_call=10.0,
    node_write=5.0,
    node_turn=50.0,
    node_neighbour=4.0,
    store_call=15.0,
    store_operation=0.5,
    store_turn=40.0,
    shard_idle_cores=0.0,
    client_open_request=60.0,
    client_closed_request=15.0,
    operations=2.0,
    round_trip_s=0.0005,
    settles=SettleWait(0.0, 0.0),
    burst_s=0.0005,
    calls_per_turn=0.5,
)
CALL = ShardCall(call_us=16.0, operation_us=0.5)


# ---- slots and skew --------------------------------------------------------------------------------------------------


def test_a_kid_is_on_the_shard_that_owns_its_slot() -> None:
    # CRC16 of "123456789" is 0x31C3 = 12739: the check value of the algorithm that Redis Cluster names.
    for shards in (1, 3, 6, 30):
        bounds = [SLOTS * i // shards for i in range(shards + 1)]
        owner = shard_of("123456789", shards)
        assert bounds[owner] <= 12739 < bounds[owner + 1]


@pytest.mark.parametrize("shards", [1, 3, 6, 7, 30])
def test_every_slot_has_the_owner_that_the_clusters_are_laid_out_with(shards: int) -> None:
    owners = [
        i for i in range(shards) for _ in range(SLOTS * i // shards, SLOTS * (i + 1) // shards)
    ]  # as limiter_node.store.embedded.cluster_setup gives them out
    assert [owner_of(slot, shards) for slot in range(SLOTS)] == owners


def test_zipf_weights_are_shares_in_order_of_rank() -> None:
    assert zipf_weights(4, 0.0) == [0.25] * 4
    assert zipf_weights(3, 1.0) == pytest.approx([6 / 11, 3 / 11, 2 / 11])


def test_shares_of_known_keys_add_up_by_shard() -> None:
    kids = ["123456789", "123456789", "another"]
    shares = shard_shares(kids, [0.5, 0.3, 0.2], 3)
    assert sum(shares) == pytest.approx(1)
    assert shares[shard_of("123456789", 3)] >= 0.8 - 1e-12


def test_one_key_loads_one_shard() -> None:
    skew = expected_skew([1.0], 30)
    assert (skew.mean, skew.p95, skew.largest) == (30, 30, 1)


def test_two_equal_keys_on_two_shards_share_one_half_the_time() -> None:
    # Fullest ÷ mean is 2 where they meet and 1 where they don't: 1.5 on average.
    assert expected_skew([0.5, 0.5], 2, placements=2000).mean == pytest.approx(1.5, abs=0.05)


def test_many_equal_keys_load_shards_nearly_alike() -> None:
    assert 1 < expected_skew(zipf_weights(20_000, 0), 10, placements=5).mean < 1.1


def test_the_same_seed_places_alike() -> None:
    weights = zipf_weights(50, 1)
    assert expected_skew(weights, 6, seed=3) == expected_skew(weights, 6, seed=3)
    assert expected_skew(weights, 6, seed=3) != expected_skew(weights, 6, seed=4)


# ---- sharing of calls, writes, turns ---------------------------------------------------------------------------------


def test_batches_hold_one_operation_without_load_and_all_that_arrives_under_it() -> None:
    assert batch_operations(0) == 1
    assert batch_operations(1e-4) == pytest.approx(1, abs=1e-7)
    assert batch_operations(20) == pytest.approx(20)
    assert batch_operations(1) == pytest.approx(1 + 1 / e)
    assert batch_operations(1000, limit=64) == 64


@pytest.mark.parametrize("arriving", [0.1, 0.7, 2.0, 5.0])
def test_batches_are_as_large_as_in_a_simulated_queue(arriving: float) -> None:
    """Poisson arrivals, a round trip of 1, one call in flight, what came meanwhile makes the next."""
    random, now, calls, operations = Random(1), 0.0, 0, 0
    arrival = random.expovariate(arriving)
    while calls < 20_000:
        now = max(now, arrival)
        while arrival <= now:
            operations += 1
            arrival += random.expovariate(arriving)
        calls, now = calls + 1, now + 1
    assert batch_operations(arriving) == pytest.approx(operations / calls, rel=0.03)


def test_a_settle_is_a_call_of_its_own_unless_it_waits_for_company() -> None:
    assert calls_per_request(0.01, 0.0005) == pytest.approx(2)
    assert calls_per_request(10, 0.0, settle_wait_s=0.1) == pytest.approx(1 + 1 / e)
    assert calls_per_request(10, 0.0, settle_wait_s=100) == pytest.approx(1)
    assert calls_per_request(1e9, 0.001) == pytest.approx(2 / 64)


def test_calls_of_one_turn_share_writes_to_the_same_shard() -> None:
    assert writes_per_call(1, 30) == 1
    assert writes_per_call(10, 1) == pytest.approx(0.1)
    assert writes_per_call(2, 2) == pytest.approx(0.75)  # to one shard as often as to two
    assert writes_per_call(10, 10**6) == pytest.approx(1, abs=1e-4)


def test_bursts() -> None:
    assert burst(0) == 1
    assert burst(1) == pytest.approx(e / (e - 1))
    assert burst(50) == pytest.approx(50)


# ---- the fit ---------------------------------------------------------------------------------------------------------


def test_the_fit_finds_what_made_the_data() -> None:
    features = [[1.0, 2.0, 0.1], [1.0, 2.0, 1.5], [1.0, 0.1, 0.1], [1.0, 1.0, 0.7]]
    data = [50 * a + 10 * b + 7 * c for a, b, c in features]
    assert non_negative_fit(features, data) == pytest.approx([50, 10, 7])


def test_the_fit_gives_nothing_to_what_would_need_a_negative_cost() -> None:
    constant, slope = non_negative_fit([[1, 0], [1, 1], [1, 2]], [10, 9, 8])
    assert slope == 0
    assert 8 < constant < 10


def test_what_never_occurs_costs_nothing() -> None:
    assert non_negative_fit([[1, 0], [2, 0]], [3, 6]) == pytest.approx([3, 0])


def made_up_sample(nodes: int, shards: int, load: str, costs: Costs = COSTS) -> Sample:
    """A load that costs exactly what the model says of it."""
    closed = load.startswith("saturate")
    blank = Sample(
        nodes=nodes,
        shards=shards,
        load=load,
        keys=1 if load.endswith("one") else 1000,
        zipf=1.0 if load.endswith("zipf") else 0.0,
        in_flight=64 if closed else None,
        requests=10_000,
        requests_per_s=6000.0 if closed else 1500.0,
        operations_per_request=2.0,
        calls_per_request=0.0,
        reads_per_request=0.0,
        turns_per_request=0.0,
        node_us=0.0,
        store_us=0.0,
        store_call_us=0.0,
        client_us=COSTS.client_closed_request if closed else COSTS.client_open_request,
        shard_requests=[1 / shards] * shards,
        shard_calls=[1 / shards] * shards,
        shard_cpu=[1 / shards] * shards,
        nodes_cores=0.0,
        store_cores=0.0,
        client_cores=0.0,
        other_cores=0.0,
        idle_store_cores=0.0,
    )
    sample = blank
    for _ in range(5):  # at saturation the calls depend on the rate, if settles wait, and the rate on the calls
        work = predict(sample, costs, cores=2)
        sample = replace(
            blank,
            calls_per_request=work.calls,
            reads_per_request=work.writes,
            turns_per_request=work.writes,
            node_us=work.node_us,
            store_us=work.store_us,
            requests_per_s=work.requests_per_s,
        )
    return sample


LOADS = ("fixed uniform", "fixed zipf", "saturate uniform", "saturate one")


def test_costs_fitted_on_the_edges_predict_the_inside() -> None:
    edges = [(1, 1), (1, 3), (1, 6), (1, 30), (2, 1), (4, 1)]
    costs = fit([made_up_sample(nodes, shards, load) for nodes, shards in edges for load in LOADS])
    assert costs.settles.wait_s == pytest.approx(0, abs=1e-3)
    for load in LOADS:
        sample = made_up_sample(4, 6, load)
        have, aim = predict(sample, costs, cores=2), measured(sample)
        assert have.calls == pytest.approx(aim.calls, rel=0.03)
        assert have.node_us == pytest.approx(aim.node_us, rel=0.05)
        assert have.store_us == pytest.approx(aim.store_us, rel=0.05)
        assert have.requests_per_s == pytest.approx(aim.requests_per_s, rel=0.05)


def test_the_fit_finds_how_long_settles_wait_for_company() -> None:
    # The open loop's nodes have at most 1,500 requests/s, the closed loops' some thousands: only these are busy.
    for settles in (SettleWait(0.05, 0.0), SettleWait(0.075, 2000.0)):
        costs = replace(COSTS, settles=settles)
        fitted = fit([made_up_sample(*fleet, load, costs) for fleet in ((1, 1), (1, 6), (4, 1)) for load in LOADS])
        assert fitted.settles.wait_s == pytest.approx(settles.wait_s, rel=0.05)
        assert fitted.settles.at(1500) == (0 if settles.busy_rate else fitted.settles.wait_s)


def test_the_check_is_of_fleets_that_were_not_fitted_on() -> None:
    inside, *edges = (made_up_sample(*fleet, "saturate uniform") for fleet in ((2, 3), (1, 3), (2, 1)))
    rows = check([inside, *(replace(edge, node_us=1.0) for edge in edges)], COSTS, cores=2)
    assert [row.rounds for row in rows] == [pytest.approx([1.0])] * 4
    dearer = check([replace(inside, node_us=2 * inside.node_us)], COSTS, cores=2)
    assert next(row.median for row in dearer if "node CPU" in row.name) == pytest.approx(0.5)


def test_skew_is_checked_shard_by_shard() -> None:
    sample = replace(made_up_sample(2, 2, "fixed zipf"), shard_requests=[0.8, 0.2], shard_calls=[0.76, 0.24])
    calls = check_skew([sample])[0]
    assert (calls.low, calls.high) == pytest.approx((0.95, 1.2))


def _call_cost(nodes: int, operations: int, call_us: float) -> dict[str, float]:
    return {"nodes": nodes, "operations": operations, "call_us": call_us}


def test_a_shards_call_is_interpolated_by_nodes() -> None:
    costs = [_call_cost(1, 1, 45), _call_cost(4, 1, 12), _call_cost(30, 1, 14), _call_cost(100, 1, 21)]
    document = {"shard_calls": [*costs, _call_cost(100, 32, 52)]}
    assert shard_call(document, 30) == pytest.approx((14, 1))
    assert shard_call(document, 17).call_us == pytest.approx(13)
    assert shard_call(document, 1).call_us == pytest.approx(12)  # asleep between calls is not what a busy one costs
    assert shard_call(document, 200).call_us == pytest.approx(31)


# ---- a fleet's capacity ----------------------------------------------------------------------------------------------


def _fleet(nodes: int, shards: int, *, longest_round_trip_ms: float = 0.5) -> Fleet:
    return Fleet(nodes, shards, 1.0, 0.5, longest_round_trip_ms)


def capacity(fleet: Fleet, costs: Costs, call: ShardCall, weights: list[float]) -> Capacity:
    return capacity_of(fleet, costs, [Part(PlainKeys(call), weights)])


def test_the_bottleneck_is_what_is_fullest() -> None:
    assert bottleneck({"a": 0.2, "b": 0.9, "c": 0.5}) == ("b", 0.9)


def test_few_nodes_are_full_before_many_shards() -> None:
    result = capacity(_fleet(2, 30), COSTS, CALL, zipf_weights(10_000, 0))
    assert result.bottleneck == NODES
    assert result.utilization[NODES] == pytest.approx(1, abs=1e-3)
    # 2 nodes; a request is 60 µs, two calls of 10 µs and two writes of 5 µs; next to nothing coalesces.
    assert result.requests_per_s == pytest.approx(2e6 / 90, rel=0.01)


def test_one_shard_is_full_before_many_nodes() -> None:
    result = capacity(_fleet(100, 1), COSTS, CALL, zipf_weights(10_000, 0))
    assert result.bottleneck == SHARD
    assert result.requests_per_s == pytest.approx(1e6 / 32, rel=0.01)


def test_skew_lowers_the_rate_at_which_the_fullest_shard_is_full() -> None:
    uniform = capacity(_fleet(100, 10), COSTS, CALL, zipf_weights(2000, 0))
    skewed = capacity(_fleet(100, 10), COSTS, CALL, zipf_weights(2000, 1))
    assert skewed.bottleneck == SHARD
    assert skewed.requests_per_s < 0.8 * uniform.requests_per_s


def test_a_hot_key_is_bound_by_its_calls_where_the_round_trip_is_long() -> None:
    # One call of 64 operations per node and 20 ms: 10 nodes × 64 / 2 / 0.02 s.
    result = capacity(Fleet(10, 3, 1.0, 20.0, 20.0), COSTS, CALL, [1.0])
    assert result.bottleneck == KEY
    assert result.requests_per_s == pytest.approx(16_000, rel=0.01)


def test_waiting_at_a_full_shard_makes_calls_larger_until_they_are_full() -> None:
    # Calls of 64 operations cost 16 + 63 × 0.5 µs and decide 32 requests.
    result = capacity(_fleet(100, 3, longest_round_trip_ms=50), COSTS, CALL, [1.0])
    assert result.round_trip_ms > 0.5
    assert result.requests_per_s == pytest.approx(32e6 / 47.5, rel=0.02)


def test_placing_keeps_all_load() -> None:
    for weights in (zipf_weights(3000, 1.0), zipf_weights(10, 0.5)):
        groups = Placements([Part(PlainKeys(CALL), weights)], placements=3).on(7)
        assert sum(group.things * group.weight for group in groups) == pytest.approx(1)
