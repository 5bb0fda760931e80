"""The capacity model of accounts: its formulas against known cases, its fits against data that follow them exactly."""

from __future__ import annotations

import asyncio
import itertools
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from itertools import pairwise
from math import e
from pathlib import Path

import pytest
from dispatching import dispatching
from test_capacity_model import COSTS as PLAIN_COSTS
from test_capacity_model import LOADS, made_up_sample

from benchmarks.capacity import main
from benchmarks.paths.measured_account import TEAMS
from benchmarks.scale.account_bounds import AccountModel, bounds, latencies
from benchmarks.scale.account_calls import CALLS, AccountCall, Call, Memory, work_in
from benchmarks.scale.account_costs import AccountCosts, account_bytes, check_calls, fit_calls, window_bytes
from benchmarks.scale.account_fit import (
    NodeFactor,
    check_accounts,
    fit_nodes,
    predicted_calls,
    predicted_store_us,
)
from benchmarks.scale.account_loads import ONE_ACCOUNT, SATURATED, AccountSample, Setting, write_accounts
from benchmarks.scale.account_measurements import read_measurements
from benchmarks.scale.account_shape import (
    AccountShape,
    Work,
    buckets_in_use,
    distinct,
    most_operations,
    moved_on,
    shape_of,
    turning,
    windows_of,
    work_of,
)
from benchmarks.scale.account_waiting import shard_wait_s, waiting
from benchmarks.scale.capacity_fleet import SHARD, Fleet, Part, Placements, capacity
from benchmarks.scale.capacity_needs import MOST_SHARDS, needs
from benchmarks.scale.key_skew import zipf_weights
from benchmarks.scale.placed import ACCOUNT, Accounts, PlainKeys, ShardCall
from benchmarks.scale.scaling_sample import Sample
from limiter_node.credentials import key_id
from limiter_node.decisions import Need, Outcome
from limiter_node.key_states import CredentialState
from limiter_node.keysfile.reading import read_keys
from limiter_node.limiter.admission import Limiter
from limiter_node.limits import MAX_BATCH
from limiter_node.plans import plan_of
from limiter_node.store.accounts import costs as batch_costs
from limiter_node.store.accounts.codec import Layout
from limiter_node.store.admin.store_admin import administering
from limiter_node.store.embedded.stores import EmbeddedStore
from limiter_node.store.url import parse_store_url
from limiter_node.telemetry import Telemetry

CALL_COSTS = AccountCosts(call=12.0, key=3.0, window=1.5, operation=0.5, visit=0.25, turnover=2.0, earlier=4.0)
NODE = NodeFactor(request=1.2, path=0.1, batch=0.05)
COSTS = replace(PLAIN_COSTS, node_request=50.0, node_call=5.0, node_neighbour=0.0, store_call=10.0)
MEMORY = [Memory(1, 200, 400, 600), Memory(10, 400, 500, 600), Memory(600, 9_840, 9_600, 600)]
"""From 10 buckets on, 16 bytes each for a window."""


# ---- the shape of an account, and of its batches ---------------------------------------------------------------------


def test_the_paths_are_those_that_are_measured() -> None:
    shape = shape_of(5, 100)
    assert shape == AccountShape(100, TEAMS, (0.1, 0.1), (0.1,), (0.1, 144.0))
    assert [shape_of(path, 1).path for path in (2, 5, 8)] == [2, 5, 8]


def test_random_draws_meet_so_many_different_things() -> None:
    assert distinct(1, 7) == pytest.approx(1)
    assert distinct(2, 2) == pytest.approx(1.5)
    assert distinct(5, 1) == 1
    assert distinct(1_000, 7) == pytest.approx(7)


def test_a_busy_window_seldom_begins_a_bucket_and_an_idle_one_with_each_touch() -> None:
    assert turning(0, 0.1) == 1
    assert turning(1e-3, 0.1) == pytest.approx(1, abs=1e-3)
    assert turning(10, 0.1) == pytest.approx(1 - 1 / e)
    assert turning(1_000, 0.1) == pytest.approx(0.01)


def test_a_settle_meets_a_newer_bucket_if_time_has_passed_and_others_were_admitted() -> None:
    assert moved_on(1_000, 0.1, 0.0) == 0
    assert moved_on(0.0, 0.1, 5.0) == 0
    assert moved_on(1_000, 0.1, 5.0) == pytest.approx(1)
    assert moved_on(1_000, 144.0, 1.44) == pytest.approx(0.01, rel=0.01)


@pytest.mark.parametrize(("path", "operations"), [(2, 14), (5, 4), (8, 2)])
def test_a_batch_of_many_keys_holds_as_much_as_a_node_puts_into_one(path: int, operations: int, tmp_path: Path) -> None:
    assert most_operations(shape_of(path, 10_000)) == operations
    setting = Setting(path, 1, 100)
    write_accounts(tmp_path / "keys.toml", [setting])
    layout, taken = Layout(), 0
    for at, found in enumerate(read_keys(tmp_path / "keys.toml").keys.values()):
        plan = plan_of(found.account, found.key, ["gpt-4o"], 1)
        cost = batch_costs.OTHER if at % 2 else batch_costs.ADMIT
        if not layout.path(found.key.kid, plan.windows, cost=cost):
            break
        taken += 1
    assert taken == operations


@pytest.mark.parametrize("setting", [Setting(2, 1, 60), Setting(5, 1, 60), Setting(8, 1, 60), Setting(5, 1, 8)])
async def test_a_node_sends_batches_of_that_size_if_enough_waits(setting: Setting, tmp_path: Path) -> None:
    """64 requests wait at any time: real decisions on a real store; what counts is the sizes of batches, not time."""
    write_accounts(tmp_path / "keys.toml", [setting])
    declared, sizes = read_keys(tmp_path / "keys.toml"), Telemetry()
    kids = itertools.cycle(declared.keys)
    async with EmbeddedStore("single") as store:
        async with administering(parse_store_url(store.url)) as admin:
            await admin.declare(declared)
        async with dispatching(store.url, telemetry=sizes) as dispatcher:
            limiter, left = Limiter(dispatcher), iter(range(640))
            for kid in declared.keys:
                assert await dispatcher.find(kid) is CredentialState.VALID

            async def caller() -> None:
                for _ in left:
                    kid = next(kids)
                    decision = await limiter.admit(kid, Need(25, 128, 0))
                    assert decision.outcome is Outcome.ADMITTED
                    limiter.reservation(kid, decision).settle(64)

            await asyncio.gather(*(caller() for _ in range(64)))
            assert await dispatcher.drain(10)
    found = sizes.batch_sizes
    assert found.operations == 2 * 640
    assert found.operations / found.batches == pytest.approx(
        most_operations(shape_of(setting.path, setting.keys)), rel=0.2
    )


def test_few_keys_share_windows_and_get_larger_batches() -> None:
    sizes = [most_operations(shape_of(5, keys, teams=1)) for keys in (1, 4, 20, 1_000)]
    assert sizes == sorted(sizes, reverse=True)
    # One key: 5 windows of 440, and 5 × 26 for each operation.
    assert sizes[0] == (batch_costs.BUDGET - 5 * 440) // (5 * 26)
    assert most_operations(AccountShape(1, 1, (0.1,), (), ())) == MAX_BATCH


def test_the_work_of_a_call_counts_what_it_touches() -> None:
    one = work_of(shape_of(5, 1, teams=1), 2, calls_per_s=1e6)
    assert one == pytest.approx(Work(1, 5, 2, 10, turnovers=0, earlier=0), abs=1e-3)
    many = work_of(shape_of(5, 10**6), 4, calls_per_s=1_000)
    assert many.keys == pytest.approx(4, abs=1e-3)
    assert many.windows == pytest.approx(2 + distinct(4, TEAMS) + 8, abs=1e-3)
    # Two keys are admitted, each every 500 s: a bucket of their minutes begins, and mostly one of their days.
    seldom = turning(1_000 * 2 / 10**6, 144.0)
    assert many.turnovers == pytest.approx(2 * (1 + seldom), abs=0.15)
    assert many.earlier == 0
    late = work_of(shape_of(5, 10**6), 4, calls_per_s=1_000, answer_s=5.0)
    # Two settles: the account and the team have gone on, the keys not.
    assert late.earlier == pytest.approx(6, abs=0.1)


def test_windows_fill_by_time() -> None:
    assert buckets_in_use(1e6, 0.1) == 601
    assert buckets_in_use(10, 0.1) == pytest.approx(601 * (1 - 1 / e))
    assert buckets_in_use(0, 0.1) == 0


# ---- the calls that are measured -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "work"),
    [
        (Call(2, 1, 1), Work(1, 2, 1, 2, 0, 0)),
        (Call(2, 1, 1, is_turning=True), Work(1, 2, 1, 2, 2, 0)),
        (Call(5, 1, 32), Work(1, 5, 32, 160, 0, 0)),
        (Call(5, 8, 32), Work(8, 2 + 7 + 16, 32, 160, 0, 0)),
        (Call(8, 8, 32), Work(8, 3 + 14 + 24, 32, 256, 0, 0)),
        (Call(2, 1, 1, 1, is_turning=True), Work(1, 2, 2, 4, 2, 2)),
        (Call(2, 6, 2, 2, is_turning=True), Work(4, 5, 4, 8, 3, 2)),
    ],
)
def test_what_each_measured_call_touches(call: Call, work: Work) -> None:
    assert work_in(call) == pytest.approx(work)


def test_days_and_hours_seldom_begin_a_bucket() -> None:
    # Of eight windows five are of a minute, one of an hour, two of a day.
    assert work_in(Call(8, 1, 1, is_turning=True)).turnovers == pytest.approx(5 + 1 / 6 + 2 / 144)


def _measured(costs: AccountCosts) -> list[AccountCall]:
    plain_us = 10.0  # which says nothing of paths
    return [AccountCall(*call, costs.call_us(work_in(call)) if call.path else plain_us) for call in CALLS]


def test_the_fit_finds_what_made_the_calls() -> None:
    assert asdict(fit_calls(_measured(CALL_COSTS))) == pytest.approx(asdict(CALL_COSTS))


def test_the_check_is_of_paths_that_were_not_fitted() -> None:
    calls = _measured(CALL_COSTS)
    rows = check_calls(calls, fit_calls(calls))
    assert len(rows) == len([call for call in CALLS if call.path == 5])
    assert all("path of 5" in row.name for row in rows)
    assert [row.median for row in rows] == pytest.approx([1] * len(rows))
    dearer = [replace(call, call_us=call.call_us * (2 if call.path == 5 else 1)) for call in calls]
    assert [row.median for row in check_calls(dearer, fit_calls(dearer))] == pytest.approx([0.5] * len(rows))


def test_what_no_call_shows_costs_nothing() -> None:
    free = replace(CALL_COSTS, operation=0.0, visit=0.0)
    assert asdict(fit_calls(_measured(free))) == pytest.approx(asdict(free))


# ---- memory ----------------------------------------------------------------------------------------------------------


def test_memory_is_interpolated_by_buckets_in_use() -> None:
    assert window_bytes(MEMORY, 10) == 400
    assert window_bytes(MEMORY, 20) == pytest.approx(560)
    assert window_bytes(MEMORY, 601) == pytest.approx(9_856)
    assert window_bytes(MEMORY, 0) == 0
    assert window_bytes(MEMORY, 600, is_plain_key=True) == 9_600


def test_an_accounts_memory_is_that_of_its_windows_and_policies() -> None:
    busy = account_bytes(MEMORY, shape_of(5, 100), 1e9)
    assert busy == pytest.approx((2 + TEAMS + 200) * 9_856 + 100 * 600)
    assert account_bytes(MEMORY, shape_of(5, 100), 0.0) == 100 * 600


# ---- loads on real fleets, as the model says of them -----------------------------------------------------------------


def _sample(nodes: int, setting: Setting, calls: float, node_us: float, store_us: float) -> AccountSample:
    sample = Sample(
        nodes=nodes,
        shards=1,
        load=setting.text,
        keys=setting.keys,
        zipf=0.0,
        in_flight=32,
        requests=10_000,
        requests_per_s=4_000.0,
        operations_per_request=2.0,
        calls_per_request=calls,
        reads_per_request=calls,
        turns_per_request=calls,
        node_us=node_us,
        store_us=store_us,
        store_call_us=0.0,
        client_us=15.0,
        shard_requests=[1.0],
        shard_calls=[1.0],
        shard_cpu=[1.0],
        nodes_cores=0.0,
        store_cores=0.0,
        client_cores=0.0,
        other_cores=0.0,
        idle_store_cores=0.0,
    )
    return AccountSample(0, *setting, None, sample)


def _samples(node: NodeFactor = NODE) -> list[AccountSample]:
    """Loads that cost exactly what the model says of them."""
    found = []
    for nodes in (1, 2, 4):
        plain = _sample(nodes, SATURATED[0], 2.0, 60.0 + nodes, 30.0)
        found.append(plain)
        for setting in SATURATED[1:]:
            blank = _sample(nodes, setting, 1.0, 1.0, 1.0)
            shape, calls = shape_of(setting.path, setting.keys), predicted_calls(blank)
            made = _sample(nodes, setting, calls, node.of(shape, calls) * plain.sample.node_us, 1.0)
            store_us = predicted_store_us(made, CALL_COSTS, COSTS.store_turn)
            found.append(replace(made, sample=replace(made.sample, store_us=store_us)))
    return found


def test_the_nodes_factor_is_found_on_one_node_and_predicts_the_others() -> None:
    fitted = fit_nodes(_samples())
    assert asdict(fitted) == pytest.approx(asdict(NODE))
    rows = check_accounts(_samples(), CALL_COSTS, fitted, COSTS.store_turn)
    assert [ratio for row in rows for ratio in row.rounds] == pytest.approx([1.0] * sum(len(r.rounds) for r in rows))
    nodes_of = {row.name: len(row.rounds) for row in rows if "node CPU" in row.name}
    checked = f"{ONE_ACCOUNT.text}: node CPU ÷ a plain key's"
    assert nodes_of.pop(checked) == 3, "it is not fitted on one node either"
    assert set(nodes_of.values()) == {2}


def test_the_check_shows_what_the_model_misses() -> None:
    rows = check_accounts(_samples(replace(NODE, path=0.3)), CALL_COSTS, NODE, COSTS.store_turn)
    found = [row.median for row in rows if "node CPU" in row.name]
    assert found
    assert max(found) < 0.9


def test_one_accounts_calls_are_full_at_saturation_and_many_accounts_calls_are_not() -> None:
    one, many = (_sample(1, setting, 1, 1, 1) for setting in (ONE_ACCOUNT, SATURATED[-1]))
    assert predicted_calls(one) == pytest.approx(2 / most_operations(shape_of(5, ONE_ACCOUNT.keys)))
    assert predicted_calls(many) > 2 * predicted_calls(one)


def test_what_was_written_is_read_and_fitted() -> None:
    calls, samples = _measured(CALL_COSTS), _samples()
    document = {
        "calls": [asdict(each) for each in calls],
        "memory": [asdict(each) for each in MEMORY],
        "samples": [asdict(each) for each in samples],
    }
    found = read_measurements(document)
    assert found.samples == samples
    assert asdict(found.calls) == pytest.approx(asdict(CALL_COSTS))
    assert [row.median for row in found.check(COSTS.store_turn)] == pytest.approx([1.0] * len(found.check(40.0)))
    assert found.bytes_of(None, 1e9) == pytest.approx(9_615, rel=1e-3)
    assert found.bytes_of(shape_of(2, 1), 0.0) == 600


def test_the_keys_file_has_the_paths_that_its_settings_say(tmp_path: Path) -> None:
    write_accounts(tmp_path / "keys.toml", SATURATED)
    declared = read_keys(tmp_path / "keys.toml")
    assert len(declared.plain) == SATURATED[0].keys
    for setting in SATURATED[1:]:
        found = [declared.keys[key_id(name)] for name in setting.names]
        assert len({each.account.name for each in found}) == setting.accounts
        assert {len(plan_of(*each, ["gpt-4o"], 1).windows) for each in found} == {setting.path}


# ---- the capacity of fleets with accounts ----------------------------------------------------------------------------


def _fleet(nodes: int, shards: int, longest_round_trip_ms: float = 0.5) -> Fleet:
    return Fleet(nodes, shards, 1.0, 0.5, longest_round_trip_ms)


def _accounts(path: int = 5, keys: int = 1_000, answer_s: float = 0.0) -> Accounts:
    return Accounts(shape_of(path, keys), CALL_COSTS, NODE, answer_s=answer_s)


def _rate(nodes: int, shards: int, kind: Accounts, weights: Sequence[float]) -> float:
    return capacity(_fleet(nodes, shards), COSTS, [Part(kind, weights)]).requests_per_s


def test_one_account_is_bound_by_one_shard_core() -> None:
    one = capacity(_fleet(200, 1), COSTS, [Part(_accounts(), [1.0])])
    assert one.bottleneck == SHARD
    assert _rate(200, 30, _accounts(), [1.0]) == pytest.approx(one.requests_per_s)
    work = work_of(_accounts().shape, 2 / one.calls_per_request, one.requests_per_s * one.calls_per_request)
    assert one.requests_per_s == pytest.approx(1e6 / (one.calls_per_request * CALL_COSTS.call_us(work)), rel=0.01)


def test_an_account_divided_into_many_uses_more_cores() -> None:
    one, many = _rate(1_000, 30, _accounts(), [1.0]), _rate(1_000, 30, _accounts(), zipf_weights(3_000, 0))
    assert many > 15 * one


def test_few_large_accounts_are_uneven() -> None:
    even, few = (capacity(_fleet(1_000, 30), COSTS, [Part(_accounts(), zipf_weights(n, 0))]) for n in (3_000, 30))
    assert few.bottleneck == even.bottleneck == SHARD
    assert few.requests_per_s < 0.6 * even.requests_per_s, "some shard has three of them, another none"


def test_the_largest_account_bounds_a_skewed_load() -> None:
    weights = zipf_weights(1_000, 1.0)
    skewed = capacity(_fleet(1_000, 30), COSTS, [Part(_accounts(), weights)])
    assert skewed.bottleneck == SHARD
    assert skewed.requests_per_s * weights[0] <= _rate(1_000, 1, _accounts(), [1.0]) * 1.01
    assert skewed.requests_per_s < 0.7 * _rate(1_000, 30, _accounts(), zipf_weights(1_000, 0))


def test_an_account_costs_more_the_longer_its_paths_the_more_its_keys_and_the_later_its_answers() -> None:
    rates = [_rate(500, 1, _accounts(path), [1.0]) for path in (2, 5, 8)]
    assert rates == sorted(rates, reverse=True)
    by_keys = [_rate(500, 1, _accounts(keys=keys), [1.0]) for keys in (10, 100, 10_000)]
    assert by_keys == sorted(by_keys, reverse=True)
    assert _rate(500, 1, _accounts(answer_s=5.0), [1.0]) < 0.9 * _rate(500, 1, _accounts(), [1.0])


def test_an_account_is_bound_by_its_batches_on_few_nodes_with_long_round_trips() -> None:
    # One call of 4 operations per node and 20 ms decides 2 requests.
    result = capacity(Fleet(3, 1, 1.0, 20.0, 20.0), COSTS, [Part(_accounts(keys=10_000), [1.0])])
    assert result.bottleneck == ACCOUNT
    assert result.requests_per_s == pytest.approx(3 * 2 / 0.02, rel=0.01)


def test_paths_cost_nodes_more() -> None:
    plain = capacity(_fleet(1, 30), COSTS, [Part(PlainKeys(ShardCall(10, 0.5)), zipf_weights(5_000, 0))])
    paths = capacity(_fleet(1, 30), COSTS, [Part(_accounts(), zipf_weights(5_000, 0))])
    assert paths.bottleneck == plain.bottleneck == "nodes"
    assert paths.node_us / plain.node_us == pytest.approx(
        NODE.of(shape_of(5, 1_000), paths.calls_per_request), rel=0.01
    )


def test_keys_and_accounts_share_a_fleet() -> None:
    keys, accounts = PlainKeys(ShardCall(10, 0.5)), _accounts()
    halves = [0.5 * weight for weight in zipf_weights(2_000, 0)]
    mixed = capacity(_fleet(1_000, 10), COSTS, [Part(keys, halves), Part(accounts, halves)])
    alone = [capacity(_fleet(1_000, 10), COSTS, [Part(k, zipf_weights(2_000, 0))]) for k in (keys, accounts)]
    assert alone[1].requests_per_s < mixed.requests_per_s < alone[0].requests_per_s
    assert mixed.store_us == pytest.approx((alone[0].store_us + alone[1].store_us) / 2, rel=0.1)
    groups = Placements([Part(keys, halves), Part(accounts, halves)], placements=3).on(10)
    assert sum(group.things * group.weight for group in groups) == pytest.approx(1)
    for kind in (keys, accounts):
        assert sum(group.things for group in groups if group.kind is kind) == 2_000


# ---- what a rate needs -----------------------------------------------------------------------------------------------


def test_the_fleet_that_a_rate_needs_carries_it_and_a_smaller_one_does_not() -> None:
    workload = [Part(_accounts(), zipf_weights(1_000, 0))]
    found = needs(_fleet(1, 1), COSTS, workload, 100_000)
    assert found.shards is not None
    assert capacity(_fleet(found.nodes, found.shards), COSTS, workload).requests_per_s >= 99_900
    assert capacity(_fleet(found.nodes - 1, MOST_SHARDS), COSTS, workload).requests_per_s < 100_100
    assert capacity(_fleet(found.nodes, found.shards - 1), COSTS, workload).requests_per_s < 100_100


def test_no_number_of_shards_carries_an_account_beyond_its_bound() -> None:
    bound = max(_rate(nodes, 1, _accounts(), [1.0]) for nodes in range(1, 40))
    assert needs(_fleet(1, 1), COSTS, [Part(_accounts(), [1.0])], 0.9 * bound).shards == 1
    beyond = needs(_fleet(1, 1), COSTS, [Part(_accounts(), [1.0])], 1.1 * bound)
    assert beyond.shards is None
    assert beyond.full == SHARD


# ---- how much one account may do -------------------------------------------------------------------------------------

MODEL = AccountModel(_fleet(100, 30, 10.0), COSTS, CALL_COSTS, NODE, answer_s=5.0)


def test_the_bounds_rise_with_nodes_until_the_shard_is_full() -> None:
    table = list(bounds(MODEL, TEAMS, 100))
    for path in (2, 5, 8):
        rates = [each.requests_per_s for each in table if each.path == path and each.keys == 10_000]
        assert rates[:3] == sorted(rates[:3])
        assert rates[-1] > 4 * rates[0]
        last = next(each for each in table if (each.path, each.keys, each.nodes) == (path, 10_000, 100))
        assert last.full == SHARD
        assert last.operations_per_call <= most_operations(shape_of(path, 10_000)) + 1e-6


def test_latency_rises_near_the_bound() -> None:
    near = list(latencies(MODEL, MODEL.accounts(5, 1_000, TEAMS), 1))
    for before, after in pairwise(near):
        assert before.p99_ms < after.p99_ms
    assert all(each.p50_ms < each.p99_ms for each in near)


def test_an_operation_waits_for_half_a_batch_and_longer_where_batches_are_full() -> None:
    alone = waiting(0.01, 4)
    assert alone.p50 == pytest.approx(1, abs=0.01)
    half = waiting(0.5, 64)
    assert half.p50 == pytest.approx(1.5, abs=0.02)  # the rest of the batch before, and the own one
    assert half.p99 == pytest.approx(2, abs=0.02)
    assert waiting(0.95, 4).p99 > 2 * waiting(0.5, 4).p99
    assert waiting(0.5, 4) == waiting(0.5, 4)
    with pytest.raises(ValueError, match="not a part"):
        waiting(1.0, 4)


def test_calls_wait_at_a_shard_as_in_a_queue_of_equal_calls() -> None:
    assert shard_wait_s(0.0, 100) == 0
    assert shard_wait_s(0.8, 100) == pytest.approx(200e-6)
    assert shard_wait_s(1.0, 100) == float("inf")


def test_the_command_predicts_keys_and_accounts_and_what_a_rate_needs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fleets = [(1, 1), (1, 3), (1, 6), (2, 1), (4, 1), (2, 3)]
    calls = [(4, 1, 12), (30, 1, 12), (100, 1, 13), (100, 32, 29)]
    scaling = {
        "machine": {"cores": 2},
        "samples": [asdict(made_up_sample(*fleet, load)) for fleet in fleets for load in LOADS],
        "shard_calls": [{"nodes": n, "operations": o, "call_us": us} for n, o, us in calls],
    }
    accounts = {
        "calls": [asdict(each) for each in _measured(CALL_COSTS)],
        "memory": [asdict(each) for each in MEMORY],
        "samples": [asdict(each) for each in _samples()],
    }
    for name, document in (("scaling", scaling), ("accounts", accounts)):
        (tmp_path / f"{name}.json").write_text(json.dumps(document))
    options = {
        "from": tmp_path / "scaling.json",
        "accounts-from": tmp_path / "accounts.json",
        "json": tmp_path / "out.json",
        "nodes": 8,
        "shards": 3,
        "keys": 300,
        "accounts": 20,
        "account-keys": 50,
        "requests-per-s": 20_000,
    }
    monkeypatch.setattr(sys, "argv", ["capacity", *(word for k, v in options.items() for word in (f"--{k}", str(v)))])
    main()
    said, found = capsys.readouterr().out, json.loads((tmp_path / "out.json").read_text())
    assert len(found["predictions"]) == 7
    assert "How much one account of 7 teams may do" in said
    assert "for 20,000/s" in said
    for name, prediction in found["predictions"].items():
        assert prediction["requests_per_s"] > 0, name
        assert prediction["memory_bytes"] > 0, name
        assert prediction["needs"]["nodes"] >= 1, name
    one = next(prediction for name, prediction in found["predictions"].items() if name.startswith("one of the"))
    assert one["skew"]["largest"] == 1
    assert {each["path"] for each in found["one_account"]["bounds"]} == {2, 5, 8}
    assert found["calls"] == pytest.approx(asdict(CALL_COSTS))


def test_windows_of_a_call() -> None:
    assert windows_of(shape_of(8, 1, teams=1), 32) == 8
    assert windows_of(shape_of(2, 10**6), 10) == pytest.approx(11, abs=1e-3)
