"""Frames: rows and totals from readings of before and now; who is away, who came back."""

from __future__ import annotations

from math import inf

import pytest

from limiter_node.limits import Amounts
from limiter_node.store.admin.heat import hottest
from limiter_node.store.admin.hottest import Walk
from limiter_node.store.admin.plain_heat import KeyHeat
from limiter_node.store.admin.watch import ShardReading, StoreReading
from limiter_node.top.frame import HISTORY, Before, Frame, Snapshot, make_frame
from limiter_node.top.rates import Quantile
from limiter_node.top.sample import Histogram, NodeReading, NodeSample


def node(name: str, at_s: float, count: int, **values: object) -> NodeReading:
    """A node that has decided `count` requests, a quarter of them no, each in some 0.1 ms."""
    admitted, rejected = count * 3 // 4, count - count * 3 // 4
    fixed = {
        "decisions": {
            ("admitted", "none"): admitted,
            ("rejected", "requests"): rejected,
            ("never_fits", "requests"): 0,
        },
        "responses": count,
        "latency": Histogram((0.0001, inf), (count, 0), 0),
        "shard_calls": {"s:1": Histogram((0.0001, inf), (count, 0), 0)},
        "cpu_s": count / 100,
    }
    return NodeReading(name, NodeSample(at_s, name, **{**fixed, **values}))  # type: ignore[arg-type]


def store(*shards: ShardReading, is_cluster: bool = True, **values: object) -> StoreReading:
    return StoreReading(shards, "redis://s", is_cluster, **values)  # type: ignore[arg-type]


def frames(*snapshots: Snapshot) -> list[Frame]:
    before, made = Before(), []
    for snapshot in snapshots:
        made.append(make_frame(before, snapshot))
        before = before.then(snapshot, made[-1])
    return made


def test_the_first_frame_shows_what_is_there_and_no_rates() -> None:
    (frame,) = frames(Snapshot(100, (node("a", 1, 400, waiting=3, memory_bytes=5.0),), None))
    assert frame.nodes is not None
    assert (frame.nodes[0].waiting, frame.nodes[0].memory_bytes) == (3, 5)
    assert (frame.nodes[0].decisions, frame.totals, frame.history) == (None, None, ())


def test_totals_are_of_all_nodes_that_can_be_compared() -> None:
    first = Snapshot(100, (node("a", 1, 400), node("b", 1, 0), NodeReading("c", None, "away")), None)
    second = Snapshot(102, (node("a", 3, 800), node("b", 3, 80), node("c", 3, 9_999)), None)
    _, frame = frames(first, second)
    assert frame.totals is not None
    assert frame.totals.outcomes == {"admitted": 180, "rejected": 60, "never_fits": 0} | dict.fromkeys(
        ("unknown_key", "revoked_key", "expired_key", "disabled_key"), 0
    )
    assert frame.totals.reasons == {"requests": 60, "input_tokens": 0, "output_tokens": 0, "tokens": 0}
    assert (frame.totals.decisions, frame.totals.requests, frame.history) == (240, 240, (240,))
    assert frame.totals.p50_s == Quantile(pytest.approx(0.00005))
    assert frame.nodes is not None
    assert [row.decisions for row in frame.nodes] == [200, 40, None]
    assert [row.cpu for row in frame.nodes] == [2, 0.4, None]


def test_a_node_that_was_away_is_compared_with_what_it_told_last() -> None:
    told, away, back = node("a", 1, 100), NodeReading("a", None, "connection refused"), node("a", 6, 600)
    _, gone, again = frames(*(Snapshot(0, (each,), None) for each in (told, away, back)))
    assert gone.nodes is not None
    assert (gone.nodes_up, gone.nodes[0].problem, gone.nodes[0].decisions) == (0, "connection refused", None)
    assert again.nodes is not None
    assert (again.nodes_up, again.nodes[0].decisions) == (1, 100)


def test_a_restart_leaves_a_gap() -> None:
    counts = (1_000, 1_100, 5, 25)
    made = frames(*(Snapshot(0, (node("a", 1.0 + at, count),), None) for at, count in enumerate(counts)))
    assert [frame.nodes[0].decisions if frame.nodes else 0 for frame in made] == [None, 100, None, 20]
    assert made[-1].history == (100, 20)


def test_the_history_is_bounded() -> None:
    made = frames(*(Snapshot(0, (node("a", float(at), at),), None) for at in range(HISTORY + 20)))
    assert len(made[-1].history) == HISTORY


def test_shards_have_what_their_servers_and_the_nodes_say() -> None:
    first = Snapshot(
        0, (node("a", 1, 0), node("b", 1, 0)), store(ShardReading("s:1", 1, cpu_s=1.0), ShardReading("s:2", 1))
    )
    second = Snapshot(
        2,
        (node("a", 3, 10), node("b", 3, 30, cut_off=frozenset({"s:2"}), shards_cut_off=1, live_nodes=2)),
        store(ShardReading("s:1", 3, cpu_s=1.5), ShardReading("s:2", 3, "no answer")),
    )
    _, frame = frames(first, second)
    assert frame.shards is not None
    one, two = frame.shards
    assert (one.cpu, one.p99_s, one.cut_off_by) == (0.25, Quantile(pytest.approx(0.000099)), ())
    assert (two.cpu, two.p99_s, two.cut_off_by) == (None, None, ("b",))
    assert (frame.shards_up, frame.shards_cut_off, frame.live_nodes) == (1, 1, 2)


def test_a_server_that_was_started_anew_has_no_negative_cpu() -> None:
    made = frames(
        *(Snapshot(0, None, store(ShardReading("s:1", 1.0 + at, cpu_s=cpu))) for at, cpu in enumerate((9, 1, 2)))
    )
    assert [frame.shards[0].cpu if frame.shards else 0 for frame in made] == [None, None, 1]


@pytest.mark.parametrize(("is_cluster", "expected"), [(False, Quantile(pytest.approx(0.000099))), (True, None)])
def test_a_single_store_may_have_another_name_for_the_nodes(is_cluster: bool, expected: Quantile | None) -> None:
    reading = store(ShardReading("127.0.0.1:6379", 1), is_cluster=is_cluster)
    _, frame = frames(Snapshot(0, (node("a", 1, 0),), reading), Snapshot(0, (node("a", 2, 10),), reading))
    assert frame.shards is not None
    assert frame.shards[0].p99_s == expected


def test_heat_is_the_largest_share_of_a_limit() -> None:
    def key(kid: str, used: tuple[int, int, int], limits: tuple[int, int, int] = (10, 100, 0)) -> KeyHeat:
        return KeyHeat(kid, "", Amounts(*limits), Amounts(*used), True)

    cold, warm, lowered, nothing_allowed = (
        key("a", (1, 0, 0)), key("b", (1, 50, 0)), key("c", (20, 0, 0)), key("d", (0, 0, 1))
    )  # fmt: skip
    assert [each.heat for each in (cold, warm, lowered, nothing_allowed)] == [0.1, 0.5, 2.0, 1.0]
    assert hottest([cold, warm, lowered, nothing_allowed], 3) == [lowered, nothing_allowed, warm]
    assert Snapshot(0, None, store(hottest=(warm,), walk=Walk(1, 1.0, True))).store is not None
