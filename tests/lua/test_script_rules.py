"""The accounting rules as literal cases on the real script, each on both stores.

Times are the window's clock in ms after `EPOCH_MS`, which begins a bucket of 100 ms; buckets are counted from `EPOCH`.
A verdict is (0, 0) for done, (1, 2 or 3, ms) for rejected by requests, input or output, (5, 6 or 7, 0) for never.
"""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
import redis
from reference import Admit, Charge, Limits, Operation, Settle
from script_driver import EPOCH, EPOCH_MS, Window

from limiter_node.store.codec import DECIDED, LOST, REPLAYED, STALE, UNKNOWN_KEY

OpenWindow = Callable[..., Window]
DONE = (0, 0)
FAR = 4_000_000_000
"""The largest limit there is: one that no case runs into."""


def at(window: Window, ms: int) -> Window:
    """The window at that time."""
    window.clock_ms = EPOCH_MS + ms
    return window


def buckets(window: Window) -> dict[int, tuple[int, int, int]]:
    """What counts now, by bucket since `EPOCH`."""
    usage = window.peek()
    assert usage
    return {b.bucket - EPOCH: b[1:] for b in usage.buckets}


# ---- rules 1 to 3: three limits, one decision, the reservation -----------------------------------------------


@pytest.mark.parametrize(
    ("limits", "needs", "verdicts"),
    [
        pytest.param((2, FAR, FAR), [(1, 1), (1, 1), (1, 1)], [0, 0, 1], id="requests"),
        pytest.param((9, 100, FAR), [(60, 0), (41, 0), (40, 0), (1, 0)], [0, 2, 0, 2], id="input"),
        pytest.param((9, FAR, 100), [(0, 60), (0, 41), (0, 40), (0, 1)], [0, 3, 0, 3], id="output"),
        pytest.param((9, 100, 100), [(60, 60), (41, 1), (1, 41), (40, 40)], [0, 2, 3, 0], id="each of two"),
        pytest.param((9, 100, 100), [(60, 60), (41, 41)], [0, 2], id="two that free together: the first is named"),
        pytest.param((1, 10, 10), [(10, 10), (10, 10)], [0, 1], id="all three together: requests"),
        pytest.param((9, 100, 100), [(100, 100), (0, 0)], [0, 0], id="full of tokens admits one that needs none"),
        pytest.param((0, 9, 9), [(0, 0)], [5], id="no requests allowed: never"),
        pytest.param((9, 50, 9), [(51, 0), (50, 0)], [6, 0], id="larger than the input limit: never"),
        pytest.param((9, 9, 50), [(0, 51), (0, 50)], [7, 0], id="larger than the output limit: never"),
        pytest.param((0, 0, 0), [(1, 1)], [5], id="never fits any: the first is named"),
        pytest.param((9, 50, 40), [(51, 41), (51, 40)], [7, 6], id="never fits either: the smaller is named, output"),
        pytest.param((9, 40, 50), [(41, 51), (40, 51)], [6, 7], id="never fits either: the smaller is named, input"),
        pytest.param((9, 40, 40), [(41, 41)], [6], id="never fits either of two equal ones: the first is named"),
        pytest.param((9, 0, 0), [(1, 1), (0, 0)], [6, 0], id="limit 0 admits what needs nothing of it"),
        pytest.param((9, FAR, FAR), [(FAR, FAR), (1, 0), (0, 1), (0, 0)], [0, 2, 3, 0], id="huge"),
        pytest.param((FAR, FAR, FAR), [(2**40, 0), (0, 2**40)], [6, 7], id="beyond any limit"),
    ],
)
def test_each_limit_holds_to_the_last_token(
    open_window: OpenWindow, limits: tuple[int, int, int], needs: list[tuple[int, int]], verdicts: list[int]
) -> None:
    window = open_window(*limits)
    assert [window.verdict(*need)[0] for need in needs] == verdicts
    admitted = [need for need, verdict in zip(needs, verdicts, strict=True) if verdict == 0]
    assert window.used() == (len(admitted), sum(i for i, _ in admitted), sum(o for _, o in admitted))


def test_the_reservation_is_the_cap_or_the_keys_reserve_for_each_choice(open_window: OpenWindow) -> None:
    window = open_window(output=1000, reserve=100)
    assert window.admit(5, 30).used == (1, 5, 30)
    assert window.admit(5, 0, choices=1).used == (2, 10, 130)
    assert window.admit(5, 0, choices=3).used == (3, 15, 430)
    assert window.admit(0, 0, choices=6).results == [(3, 60_100)]
    assert window.admit(0, 0, choices=11).results == [(7, 0)]
    reply = window.admit()
    assert (reply.output_reserve, reply.limits, reply.name) == (100, (10, 1000, 1000), "")


@pytest.mark.parametrize("moved_ms", [0, 250, 30_000, 60_099])
@pytest.mark.parametrize(
    "need",
    [Admit(1, 0), Admit(0, 1), Admit(101, 0), Admit(0, 101), Admit(1, 1), Admit(0, 0, 1)],
    ids=["input", "output", "never input", "never output", "both", "default output"],
)
def test_a_rejected_request_leaves_every_counter_byte_identical(
    open_window: OpenWindow, need: Admit, moved_ms: int
) -> None:
    window = open_window(9, 100, 100)
    window.decide(Admit(50, 50), Admit(50, 50))
    before = at(window, moved_ms).dump()
    assert before[1]
    reply = window.decide(need, need)
    assert all(verdict > 0 for verdict, _ in reply.results)
    assert reply.name == "key"
    assert window.dump() == before


def test_a_request_too_many_leaves_every_counter_byte_identical(open_window: OpenWindow) -> None:
    window = open_window(1, FAR, FAR)
    window.admit()
    before = window.dump()
    assert window.verdict() == (1, 60_100)
    assert window.dump() == before


def test_an_unknown_key_is_told_so_and_leaves_no_trace(open_window: OpenWindow) -> None:
    window = open_window()
    window.set_limits(None)
    assert window.admit().state == UNKNOWN_KEY
    assert window.decide(Charge(EPOCH, 1), resent=True).state == UNKNOWN_KEY
    assert window.peek() is None
    assert window.dump() == [None, None, None]


# ---- rule 4: settling ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settles", "left"),
    [
        pytest.param([Settle(EPOCH, 0, 60)], (1, 50, 20), id="less output than reserved"),
        pytest.param([Settle(EPOCH, 50, 80)], (1, 0, 0), id="failed before any output: tokens, never the request"),
        pytest.param([Settle(EPOCH, 51, 81)], (1, 0, 0), id="more than reserved: never below zero"),
        pytest.param([Settle(EPOCH, 0, 50), Settle(EPOCH, 0, 50)], (1, 50, 0), id="twice: never below zero"),
        pytest.param([Settle(EPOCH, -5, -7)], (1, 55, 87), id="negative: adds"),
        pytest.param([Settle(EPOCH, -5, 7)], (1, 55, 73), id="one of each"),
        pytest.param([Settle(EPOCH, 0, 0)], (1, 50, 80), id="nothing"),
        pytest.param([Settle(EPOCH, 0, 0, 2)], (0, 50, 80), id="more requests than there were: never below zero"),
        pytest.param([Settle(EPOCH + 1, 1, 1)], (1, 50, 80), id="a bucket in the future"),
        pytest.param([Settle(EPOCH - 1, 1, 1)], (1, 50, 80), id="a bucket without requests"),
        pytest.param([Settle(EPOCH - 1, -1, -1)], (1, 50, 80), id="a bucket without requests can't be added to"),
        pytest.param([Settle(EPOCH - 601, 1, 1)], (1, 50, 80), id="a bucket before the window"),
        pytest.param([Settle(0, 1, 1)], (1, 50, 80), id="bucket zero"),
        pytest.param([Settle(-EPOCH, 1, 1)], (1, 50, 80), id="a bucket that can't be"),
        pytest.param([Settle(EPOCH, -(2**32), 0)], (1, 2**32 - 1, 80), id="more than a counter holds"),
    ],
)
@pytest.mark.parametrize("moved_ms", [0, 100, 60_099])
def test_settle(open_window: OpenWindow, settles: list[Operation], left: tuple[int, int, int], moved_ms: int) -> None:
    window = open_window()
    window.admit(50, 80)
    reply = at(window, moved_ms).decide(*settles)
    assert reply.results == [DONE] * len(settles)
    assert reply.used == left
    assert buckets(window) == {0: left}


def test_a_window_that_lost_a_nodes_record_decides_nothing_for_it(open_window: OpenWindow) -> None:
    """What is gone with the record has to be charged first."""
    window = open_window()
    window.decide(Admit(1, 1), node="a")
    before = window.dump()
    for operation in (Admit(1, 1), Settle(EPOCH, 0, 1), Charge(EPOCH, 1, 1, 1)):
        for resent in (False, True):
            reply = window.decide(operation, node="b", number=8, expected=7, resent=resent)
            assert (reply.state, reply.recorded) == (LOST, 0)
            reply = window.decide(operation, node="a", number=8, expected=2, resent=resent)
            assert (reply.state, reply.recorded) == (LOST, 1), "an older record: it tells which"
    assert window.dump() == before
    assert window.decide(Admit(1, 1), node="a", expected=1).state == DECIDED
    assert window.decide(Charge(EPOCH, 3, 4, 5), Admit(1, 1), node="b", number=9).used == (6, 7, 8)
    assert window.decide(Admit(1, 1), node="b", number=10, expected=9).state == DECIDED


def test_replies_tell_which_batch_is_recorded(open_window: OpenWindow) -> None:
    window = open_window(requests=1, input=100, output=100)
    assert window.admit(101, number=3).recorded == 0, "what changed nothing isn't recorded"
    assert window.admit(1, number=4).recorded == 4
    assert window.admit(1, number=5).recorded == 4
    assert window.admit(1, number=5, resent=True).recorded == 5, "sent twice, it is recorded in any case"
    assert window.decide(Settle(EPOCH, 1, 0), number=6).recorded == 6
    assert window.decide(Settle(EPOCH, 1, 0), number=6, expected=5).recorded == 6, "answered from the record"
    assert window.decide(Charge(EPOCH, 1), number=7).recorded == 7


def test_a_nodes_first_batch_learns_the_keys_name(open_window: OpenWindow) -> None:
    window = open_window()
    assert (window.admit(1).name, window.admit(1).name) == ("key", "")
    assert (window.decide(Settle(EPOCH, 1, 0), node="b").name, window.admit(1, node="b").name) == ("key", "")
    assert window.admit(1001, node="b").name == "key", "rejections say it, too"


def test_a_record_outlives_what_it_stands_for(open_window: OpenWindow, store: redis.Redis) -> None:
    """A node that expects its record for as long as the window has the batch must not take it for lost."""
    window = open_window()
    window.admit(1, 1)
    for _ in range(8):
        window.clock_ms += 9_900
        store.pexpire(window.keys[1], max(store.pttl(window.keys[1]) - 9_900, 1))
        reply = window.decide(Settle(window.bucket - 99, 0, 1) if window.clock_ms < EPOCH_MS + 60_000 else Admit(1, 1))
        if reply.recorded == window.numbers["node"]:
            assert store.pttl(window.keys[1]) > 60_100 + 5_000


def test_a_request_can_be_given_back_whole(open_window: OpenWindow) -> None:
    """Its caller was told that it wasn't admitted."""
    window = open_window(requests=1, input=100, output=100)
    assert window.decide(Admit(50, 80)).results == [DONE]
    reply = window.decide(Settle(EPOCH, 50, 80, 1), Admit(100, 100))
    assert reply.results == [DONE, DONE]
    assert reply.used == (1, 100, 100)


def test_a_settle_goes_to_its_own_bucket_only(open_window: OpenWindow) -> None:
    window = open_window()
    for ms in (0, 100, 200):
        at(window, ms).admit(10, 10)
    window.decide(Settle(EPOCH + 1, 4, 40))
    assert buckets(window) == {0: (1, 10, 10), 1: (1, 6, 0), 2: (1, 10, 10)}


def test_a_settle_after_its_bucket_has_left_is_a_no_op(open_window: OpenWindow) -> None:
    window = open_window()
    window.admit(10, 10)
    at(window, 30_000).admit(20, 20)
    assert at(window, 60_099).decide(Settle(EPOCH, 1, 1)).used == (2, 29, 29)
    assert at(window, 60_100).decide(Settle(EPOCH, 1, 1)).used == (1, 20, 20)
    before = window.dump()
    window.decide(Settle(EPOCH, -1, -1), Settle(EPOCH, 1, 1))
    assert window.dump() == before


def test_a_settle_makes_room_at_once(open_window: OpenWindow) -> None:
    window = open_window(output=100)
    window.admit(0, 100)
    assert window.decide(Admit(0, 1), Settle(EPOCH, 0, 30), Admit(0, 30), Admit(0, 1)).results == [
        (3, 60_100),
        DONE,
        DONE,
        (3, 60_100),
    ]


# ---- charging ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("charges", "left"),
    [
        pytest.param([Charge(EPOCH + 700, 2, 3, 4)], {700: (2, 3, 4), 690: (1, 5, 5)}, id="now"),
        pytest.param([Charge(EPOCH + 690, 2, 3, 4)], {690: (3, 8, 9)}, id="a bucket in use"),
        pytest.param([Charge(EPOCH + 650, 2, 3, 4)], {650: (2, 3, 4), 690: (1, 5, 5)}, id="before the oldest in use"),
        pytest.param([Charge(EPOCH + 695, 2, 3, 4)], {695: (2, 3, 4), 690: (1, 5, 5)}, id="after the newest in use"),
        pytest.param([Charge(EPOCH + 100, 2, 3, 4)], {100: (2, 3, 4), 690: (1, 5, 5)}, id="the oldest that counts"),
        pytest.param([Charge(EPOCH + 99, 2, 3, 4)], {690: (1, 5, 5)}, id="one that has just left: no-op"),
        pytest.param([Charge(EPOCH - 999, 2, 3, 4)], {690: (1, 5, 5)}, id="long ago: no-op"),
        pytest.param([Charge(EPOCH + 701, 2, 3, 4)], {700: (2, 3, 4), 690: (1, 5, 5)}, id="the future counts now"),
        pytest.param([Charge(2**52, 2, 3, 4)], {700: (2, 3, 4), 690: (1, 5, 5)}, id="far future"),
        pytest.param([Charge(EPOCH + 700, 0, 0, 0)], {690: (1, 5, 5)}, id="nothing"),
        pytest.param([Charge(EPOCH + 690, 0, 3, 0)], {690: (1, 8, 5)}, id="tokens only"),
        pytest.param([Charge(EPOCH + 690, FAR, FAR, FAR)] * 2, {690: (2**32 - 1,) * 3}, id="more than a counter holds"),
        pytest.param(
            [Charge(EPOCH + 693, 1), Charge(EPOCH + 697, 1), Charge(EPOCH + 700, 1), Charge(EPOCH + 694, 1)],
            {690: (1, 5, 5), 693: (1, 0, 0), 694: (1, 0, 0), 697: (1, 0, 0), 700: (1, 0, 0)},
            id="several new buckets in one batch",
        ),
    ],
)
def test_charge(open_window: OpenWindow, charges: list[Operation], left: dict[int, tuple[int, int, int]]) -> None:
    window = open_window(1, 10, 10)
    at(window, 69_000).admit(5, 5)
    reply = at(window, 70_050).decide(*charges)
    assert reply.results == [DONE] * len(charges)
    assert buckets(window) == left
    assert reply.used == tuple(min(sum(column), 2**32 - 1) for column in zip(*left.values(), strict=True))


def test_what_was_charged_counts_against_the_limits(open_window: OpenWindow) -> None:
    window = at(open_window(10, FAR, FAR), 60_000)
    window.decide(Charge(EPOCH + 100, 7), Charge(EPOCH + 200, 8))
    assert window.verdict() == (1, 100 * 100 + 60_100 - 60_000)
    window.decide(Charge(EPOCH + 100, 0, 1), Charge(EPOCH + 300, 2))
    # 17 of 10, and one more: the first seven are not enough.
    assert window.verdict() == (1, 200 * 100 + 60_100 - 60_000)


def test_a_charge_to_a_new_bucket_before_an_admit_of_the_same_batch(open_window: OpenWindow) -> None:
    window = open_window()
    window.admit(1, 1)
    at(window, 1_000).decide(Charge(EPOCH + 5, 1, 2, 2), Admit(3, 3))
    assert buckets(window) == {0: (1, 1, 1), 5: (1, 2, 2), 10: (1, 3, 3)}


def test_a_charge_and_an_admit_into_a_window_that_has_emptied(open_window: OpenWindow) -> None:
    # 768 buckets later, the new buckets take the very fields of the old ones.
    window = open_window()
    for ms in (0, 100, 200, 300):
        at(window, ms).admit(7, 7)
    at(window, 77_200).decide(Charge(EPOCH + 770, 1, 2, 2), Charge(EPOCH + 771, 1, 2, 2), Admit(3, 3))
    assert buckets(window) == {770: (1, 2, 2), 771: (1, 2, 2), 772: (1, 3, 3)}


def test_a_new_bucket_takes_the_field_of_one_that_has_just_left(open_window: OpenWindow) -> None:
    window = open_window()
    for bucket in (0, 1, 2, 3, 4, 300):
        at(window, bucket * 100).admit(7, 7)
    at(window, 77_200).decide(Charge(EPOCH + 769, 1, 2, 2), Charge(EPOCH + 771, 1, 2, 2), Admit(3, 3))
    assert buckets(window) == {300: (1, 7, 7), 769: (1, 2, 2), 771: (1, 2, 2), 772: (1, 3, 3)}
    assert window.decide().used == window.used()


# ---- rule 5: the window --------------------------------------------------------------------------------------


@pytest.mark.parametrize("admitted_ms", [0, 1, 99])
def test_the_partial_bucket_and_600_whole_ones_count(open_window: OpenWindow, admitted_ms: int) -> None:
    window = open_window(1, FAR, FAR)
    at(window, admitted_ms).admit()
    assert at(window, 60_000).verdict() == (1, 100)
    assert at(window, 60_099).verdict() == (1, 1)
    assert window.used() == (1, 0, 0)
    assert at(window, 60_100).used() == (0, 0, 0)
    assert at(window, 60_100).verdict() == DONE


@pytest.mark.parametrize("width", [1, 5, 20, 600])
def test_buckets_leave_one_by_one(open_window: OpenWindow, width: int) -> None:
    window = open_window(width + 1, FAR, FAR, width=width)
    for bucket in range(width + 1):
        assert at(window, bucket * 100).verdict(1, 1) == DONE
    for bucket in range(width + 1, 2 * width):
        assert at(window, bucket * 100 - 1).verdict(1, 1) == (1, 1)
        assert at(window, bucket * 100).verdict(1, 1) == DONE
        assert window.used() == (width + 1,) * 3


@pytest.mark.parametrize("idle_ms", [60_000, 60_099, 60_100, 60_101, 76_700, 76_800, 76_900, 153_600, 768_000, 10**9])
@pytest.mark.parametrize("first", [0, 3, 4])
def test_idle_for_long(open_window: OpenWindow, idle_ms: int, first: int) -> None:
    # A bucket's field in the hash comes round again after 32 groups of 24 buckets: 76.8 s.
    window = open_window()
    expected = {}
    for bucket in (first, first + 1, first + 7):
        at(window, bucket * 100).admit(bucket + 1, 2)
        expected[bucket] = (1, bucket + 1, 2)
    idle_ms += first * 100
    now = idle_ms // 100
    at(window, idle_ms)
    window.decide(Charge(EPOCH + now - 1, 1, 5, 5), Admit(4, 4))
    expected |= {now - 1: (1, 5, 5), now: (1, 4, 4)}
    assert buckets(window) == {k: v for k, v in expected.items() if k >= now - 600}
    assert window.decide().used == window.used()


def test_no_true_window_ever_holds_more_than_the_limit(open_window: OpenWindow) -> None:
    rng = random.Random(1)
    window = open_window(20, 300, FAR)
    admitted: list[tuple[int, int]] = []
    ms = 0
    while ms < 300_000:
        ms += rng.choice((1, 20, 150, 3_000))
        tokens = rng.randint(0, 60)
        if at(window, ms).verdict(tokens) == DONE:
            admitted.append((ms, tokens))
    for end, _ in admitted:
        tokens_in_window = [tokens for ms, tokens in admitted if end - 60_000 <= ms <= end]
        assert len(tokens_in_window) <= 20
        assert sum(tokens_in_window) <= 300


# ---- rule 6: the clock steps back ----------------------------------------------------------------------------

STEPS_MS = [1, 50, 99, 100, 101, 1_000, 20_000, 59_999, 60_000, 60_100, 90_000]


@pytest.mark.parametrize("step_ms", STEPS_MS)
@pytest.mark.parametrize("polled_ms", [60_000, 7_000])
def test_a_step_back_never_admits_more_nor_blocks_for_longer_than_a_window(
    open_window: OpenWindow, step_ms: int, polled_ms: int
) -> None:
    window = open_window(3, FAR, FAR)
    for ms in (0, 1_000, 2_050):
        assert at(window, ms).verdict() == DONE
    stepped_ms = 2_050 - step_ms
    verdict, retry_ms = at(window, stepped_ms).verdict()
    assert (verdict, retry_ms <= 60_100) == (1, True)
    # Rejections on the way (they count nothing) neither hold the time nor let it go on faster.
    for passed_ms in range(polled_ms, retry_ms, polled_ms):
        assert at(window, stepped_ms + passed_ms).verdict() == (1, retry_ms - passed_ms)
    assert at(window, stepped_ms + retry_ms - 1).verdict() == (1, 1)
    assert at(window, stepped_ms + retry_ms).verdict() == DONE
    assert at(window, stepped_ms + 60_100).decide().used[0] == 1
    assert window.used() == (1, 0, 0)


def test_an_answer_from_the_record_keeps_the_step_too(open_window: OpenWindow) -> None:
    window = open_window(1, FAR, FAR)
    window.admit(number=1)
    at(window, -90_000).admit(number=1, resent=True)
    assert at(window, -90_000 + 60_100).verdict(number=2) == DONE


def test_time_goes_on_from_the_newest_bucket(open_window: OpenWindow) -> None:
    window = open_window()
    at(window, 2_050).admit(1, 1)
    reply = at(window, -50_000).admit(2, 2)
    assert reply.time_ms == EPOCH_MS + 2_000
    assert buckets(window) == {20: (2, 3, 3)}
    assert at(window, -49_900).admit(3, 3).time_ms == EPOCH_MS + 2_100
    assert buckets(window) == {20: (2, 3, 3), 21: (1, 3, 3)}
    # A second step adds to the first; a settle still finds its bucket.
    assert at(window, -80_000).decide(Settle(EPOCH + 20, 1, 3)).time_ms == EPOCH_MS + 2_100
    assert buckets(window) == {20: (2, 2, 0), 21: (1, 3, 3)}


def test_random_steps_of_the_clock_against_true_time(open_window: OpenWindow) -> None:
    rng = random.Random(6)
    window = open_window(5, FAR, FAR)
    true_ms = offset_ms = 0
    admitted: list[int] = []

    def poll() -> bool:
        nonlocal true_ms
        true_ms += rng.randint(1, 900)
        if at(window, true_ms + offset_ms).verdict() != DONE:
            return False
        admitted.append(true_ms)
        return True

    for _ in range(12):
        until_ms = true_ms + rng.randint(0, 90_000)
        while true_ms < until_ms:
            poll()
        offset_ms -= rng.choice(STEPS_MS)
        stepped_ms = true_ms
        while not poll():
            assert true_ms - stepped_ms <= 60_100
    for end_ms in admitted:
        assert sum(end_ms - 60_000 <= ms <= end_ms for ms in admitted) <= 5


# ---- rule 8: retry times, and the time to full ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("need", "verdict"),
    [
        pytest.param(Admit(0, 0), (1, 60_100 - 2_000), id="requests: the first bucket has to leave"),
        pytest.param(Admit(10, 0), (1, 60_100 - 2_000), id="requests, input frees with the same"),
        pytest.param(Admit(11, 0), (2, 60_200 - 2_000), id="input: the second bucket, too"),
        pytest.param(Admit(0, 31), (3, 60_200 - 2_000), id="output: two buckets"),
        pytest.param(Admit(0, 61), (3, 60_900 - 2_000), id="output: three buckets, the third in another group"),
        pytest.param(Admit(31, 61), (2, 60_900 - 2_000), id="input and output free together: input is named"),
        pytest.param(Admit(61, 61), (2, 61_500 - 2_000), id="input after output"),
        pytest.param(Admit(11, 61), (3, 60_900 - 2_000), id="output last"),
        pytest.param(Admit(31, 31), (2, 60_900 - 2_000), id="input last"),
        pytest.param(Admit(100, 0), (2, 61_500 - 2_000), id="the newest bucket has to leave"),
    ],
)
def test_retry_names_the_dimension_that_frees_last_and_when(
    open_window: OpenWindow, need: Admit, verdict: tuple[int, int]
) -> None:
    window = open_window(4, 100, 100)
    for bucket, input_tokens, output in [(0, 10, 30), (1, 20, 30), (8, 30, 30), (14, 40, 10)]:
        assert at(window, bucket * 100).verdict(input_tokens, output) == DONE
    at(window, 2_000)
    assert window.decide(need).results == [verdict]
    assert at(window, 2_000 + verdict[1] - 1).decide(need).results == [(verdict[0], 1)]
    assert at(window, 2_000 + verdict[1]).decide(need).results == [DONE]


@pytest.mark.parametrize("limits", [(12, FAR, FAR), (FAR, 300, FAR), (FAR, FAR, 300), (15, 400, 400)])
@pytest.mark.parametrize("width", [5, 600])
def test_retry_is_exact_to_the_millisecond(open_window: OpenWindow, limits: tuple[int, int, int], width: int) -> None:
    rng = random.Random(str(limits))
    window = open_window(*limits, width=width)
    ms, rejected = 0, 0
    while rejected < 25:
        ms += rng.choice((0, 7, 130, width * 5))
        need = Admit(rng.randint(0, 100), rng.randint(0, 100))
        verdict, retry_ms = at(window, ms).decide(need).results[0]
        if verdict == 0:
            continue
        rejected += 1
        assert 0 < verdict < 4
        assert 0 < retry_ms <= (width + 1) * 100
        if rng.random() < 0.5:
            assert at(window, ms + retry_ms - 1).decide(need).results == [(verdict, 1)]
            ms += retry_ms
            assert at(window, ms).decide(need).results == [DONE]


def test_reset_is_the_time_until_the_newest_use_leaves(open_window: OpenWindow) -> None:
    window = open_window()
    assert window.decide().reset_ms == (0, 0, 0)
    assert window.admit(1, 0).reset_ms == (60_100, 60_100, 0)
    assert at(window, 130).admit(0, 1).reset_ms == (60_070, 59_970, 60_070)
    assert at(window, 260).admit(0, 0).reset_ms == (60_040, 59_840, 59_940)
    assert at(window, 60_099).decide().reset_ms == (201, 1, 101)
    assert at(window, 60_100).decide().reset_ms == (200, 0, 100)
    assert at(window, 60_300).decide().reset_ms == (0, 0, 0)


def test_reset_after_the_newest_use_was_given_back(open_window: OpenWindow) -> None:
    window = open_window()
    window.admit(10, 10)
    at(window, 1_000).admit(10, 10)
    at(window, 2_000).admit(0, 10)
    assert window.decide(Settle(EPOCH + 20, 0, 10)).reset_ms == (60_100, 59_100, 59_100)
    assert window.decide(Settle(EPOCH + 10, 10, 10)).reset_ms == (60_100, 58_100, 58_100)
    assert window.decide(Settle(EPOCH, 10, 10)).reset_ms == (60_100, 0, 0)
    usage = window.peek()
    assert usage
    assert usage.reset_ms == (60_100, 0, 0)


def test_reset_of_requests_where_only_tokens_were_charged_since(open_window: OpenWindow) -> None:
    window = open_window()
    window.admit(1, 1)
    reply = at(window, 1_000).decide(Charge(EPOCH + 10, 0, 5, 0))
    assert reply.reset_ms == (59_100, 60_100, 59_100)


# ---- rule 9: changing limits ---------------------------------------------------------------------------------


def test_changed_limits_hold_at_the_next_decision_and_keep_the_history(open_window: OpenWindow) -> None:
    window = open_window(2, 100, 100)
    window.decide(Admit(10, 10), Admit(10, 10))
    history = window.dump()[1:]
    window.set_limits(Limits(3, 25, 100))
    assert window.verdict(6) == (2, 60_100)
    assert window.verdict(26) == (6, 0)
    window.set_limits(Limits(1, 100, 100))
    assert window.verdict() == (1, 60_100)
    window.set_limits(Limits(0, 0, 0))
    assert window.verdict() == (5, 0)
    assert window.dump()[1:] == history
    window.set_limits(Limits(3, 26, 30, reserve=10))
    assert window.verdict(6, 0, choices=1) == DONE
    assert window.used() == (3, 26, 30)


@pytest.mark.parametrize(
    ("limits", "need", "verdict"),
    [
        pytest.param(Limits(9, 400, 5), (1, 0), DONE, id="no output, its limit lowered"),
        pytest.param(Limits(9, 5, 400), (0, 1), DONE, id="no input, its limit lowered"),
        pytest.param(Limits(9, 5, 5), (0, 0), DONE, id="no tokens at all"),
        pytest.param(Limits(9, 5, 0), (6, 0), (6, 0), id="never fits the other limit"),
        pytest.param(Limits(9, 400, 0), (0, 1), (7, 0), id="a limit of 0 blocks what needs it"),
        pytest.param(Limits(9, 5, 5), (0, 1), (3, 60_100), id="only what is needed rejects: output"),
        pytest.param(Limits(9, 5, 5), (1, 0), (2, 60_100), id="only what is needed rejects: input"),
        pytest.param(Limits(1, 5, 5), (0, 0), (1, 60_100), id="each request needs a request"),
        pytest.param(Limits(1, 5, 5), (1, 0), (1, 60_100), id="the first of those that free together"),
    ],
)
def test_a_need_of_nothing_always_fits(
    open_window: OpenWindow, limits: Limits, need: tuple[int, int], verdict: tuple[int, int]
) -> None:
    window = open_window(9, 400, 400)
    assert window.verdict(100, 100) == DONE
    window.set_limits(limits)
    assert window.verdict(*need) == verdict


def test_a_need_of_nothing_fits_an_overrun_and_its_retry_time_ignores_it(open_window: OpenWindow) -> None:
    window = open_window(2, 1000, 100)
    window.admit(1, 50)
    bucket = window.bucket
    at(window, 1_000).decide(Settle(bucket, 0, -500))
    assert window.verdict(1, 0) == DONE
    assert window.verdict(1, 0, number=4) == (1, 59_100)
    assert window.verdict(1, 0, number=4, resent=True) == (1, 59_100)
    window.numbers["node"] = 4
    window.set_limits(Limits(3, 1000, 100))
    assert window.verdict(1, 1) == (3, 59_100)


def test_lowered_far_below_the_usage(open_window: OpenWindow) -> None:
    window = open_window(10, FAR, FAR)
    for bucket in range(10):
        at(window, bucket * 100).admit()
    window.set_limits(Limits(2, FAR, FAR))
    # One of ten may stay: nine have to leave.
    assert at(window, 1_000).verdict() == (1, 800 + 60_100 - 1_000)


# ---- exactly once --------------------------------------------------------------------------------------------


def test_a_resent_batch_is_answered_from_the_record(open_window: OpenWindow) -> None:
    window = open_window(3, 100, 100)
    batch = (Admit(60, 10), Admit(41, 10), Admit(101, 0), Admit(0, 0, 1), Settle(EPOCH, 0, 5), Charge(EPOCH, 0, 1, 1))
    first = window.decide(*batch, number=7)
    assert [verdict for verdict, _ in first.results] == [0, 2, 6, 3, 0, 0]
    before = window.dump()
    again = window.decide(*batch, number=7, resent=True)
    assert again == first._replace(state=REPLAYED)
    assert window.decide(*batch, number=7) == again  # the first sending may arrive after the second
    assert window.dump() == before


def test_answered_from_the_record_with_the_window_as_it_is_now(open_window: OpenWindow) -> None:
    window = open_window(3, 100, 100, reserve=10)
    batch = (Admit(60, 0, 1), Admit(50, 0, 1), Admit(101))
    at(window, 30).decide(*batch, number=1)
    at(window, 5_070).admit(20, number=1, node="other")
    window.set_limits(Limits(9, 90, 100, reserve=99, name="renamed"))
    reply = at(window, 10_000).decide(*batch, number=1, resent=True)
    assert reply.results == [DONE, (2, 60_100 - 10_000), (6, 0)]
    assert (reply.state, reply.time_ms, reply.name) == (REPLAYED, EPOCH_MS + 30, "renamed")
    assert (reply.limits, reply.used, reply.output_reserve) == ((9, 90, 100), (2, 80, 10), 10)
    assert reply.reset_ms == (55_100, 55_100, 50_100)
    # Its own admission has left: nothing is in the way any more.
    reply = at(window, 60_100).decide(*batch, number=1, resent=True)
    assert (reply.results, reply.used) == ([DONE, (2, 0), (6, 0)], (1, 20, 0))
    # As long as the record lives, even with an empty window.
    reply = at(window, 80_000).decide(*batch, number=1, resent=True)
    assert (reply.state, reply.results, reply.used) == (REPLAYED, [DONE, (2, 0), (6, 0)], (0, 0, 0))
    assert reply.reset_ms == (0, 0, 0)


def test_a_resent_batch_that_had_not_arrived_is_decided(open_window: OpenWindow) -> None:
    window = open_window(1, 100, 100)
    assert window.admit(number=1).state == DECIDED
    reply = at(window, 60_100).admit(number=2, resent=True)
    assert (reply.state, reply.results, reply.used) == (DECIDED, [DONE], (1, 0, 0))
    assert window.admit(number=2, resent=True).state == REPLAYED
    assert window.used() == (1, 0, 0)


def test_a_batch_that_counted_nothing_is_recorded_when_resent(open_window: OpenWindow) -> None:
    window = open_window(1, 100, 100)
    window.admit(number=1)
    assert window.verdict(number=2) == (1, 60_100)
    # Its reply was lost, and by now there is room: the caller gets what is true when it is told.
    assert at(window, 60_100).admit(101, number=2, resent=True).results == [(6, 0)]
    assert window.admit(101, number=2, resent=True).state == REPLAYED
    assert window.used() == (0, 0, 0)


def test_an_older_number_is_refused(open_window: OpenWindow) -> None:
    window = open_window()
    window.admit(number=5)
    before = window.dump()
    for number in (4, 1, 0):
        assert window.admit(number=number).state == STALE
        assert window.admit(number=number, resent=True).state == STALE
    assert window.dump() == before
    assert window.admit(number=6).used == (2, 0, 0)
    assert window.admit(number=2**52).used == (3, 0, 0)  # numbers need not be in sequence


def test_nodes_do_not_share_records(open_window: OpenWindow) -> None:
    window = open_window()
    assert window.admit(1, node="a", number=1).state == DECIDED
    assert window.admit(2, node="b", number=1).state == DECIDED
    assert window.admit(1, node="a", number=1, resent=True).state == REPLAYED
    assert window.admit(2, node="b", number=1, resent=True).state == REPLAYED
    assert window.admit(4, node="a", number=2).state == DECIDED
    assert window.admit(2, node="b", number=1, resent=True).state == REPLAYED
    assert window.used() == (3, 7, 0)


def test_records_of_nodes_long_gone_are_forgotten(open_window: OpenWindow, store: redis.Redis) -> None:
    window = open_window()
    window.admit(node="old")
    at(window, 50_000).admit(node="middle")
    at(window, 180_000).admit(node="new")
    assert set(store.hkeys(window.keys[1])) == {b"m", b"old", b"middle", b"new"}
    at(window, 180_001).admit(node="newer")
    assert set(store.hkeys(window.keys[1])) == {b"m", b"middle", b"new", b"newer"}


# ---- batches -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(12))
def test_a_batch_is_as_each_operation_alone(open_window: OpenWindow, seed: int, store: redis.Redis) -> None:
    rng = random.Random(seed)
    width = rng.choice((5, 600))
    limits = (rng.choice((8, 40)), rng.choice((300, FAR)), rng.choice((300, FAR)))
    together, alone = open_window(*limits, width=width), open_window(*limits, width=width)
    ms = 0
    for _ in range(12):
        ms += rng.choice((50, 100, 1_000, width * 90))
        now = EPOCH + ms // 100
        batch: list[Operation] = []
        for _ in range(rng.randint(1, 12)):
            kind = rng.random()
            if kind < 0.6:
                batch.append(Admit(rng.randint(0, 60), rng.randint(0, 60), rng.choice((0, 0, 1))))
            elif kind < 0.85:
                batch.append(Settle(now - rng.choice((0, 0, 1, 10)), rng.randint(-9, 60), rng.randint(-9, 60)))
            else:
                batch.append(Charge(now - rng.choice((-1, 0, 1, 2, width)), 1, rng.randint(0, 9), 3))
        reply = at(together, ms).decide(*batch)
        replies = [at(alone, ms).decide(operation) for operation in batch]
        assert reply.results == [r.results[0] for r in replies]
        own = {"recorded": 0, "results": [], "name": ""}  # each batch has a number of its own
        assert reply._replace(**own) == replies[-1]._replace(**own)
        assert together.peek() == alone.peek()
        assert store.hget(together.keys[1], "m") == store.hget(alone.keys[1], "m")
        assert store.hgetall(together.keys[2]) == store.hgetall(alone.keys[2])


def test_an_empty_batch_tells_the_state_and_writes_nothing(open_window: OpenWindow) -> None:
    window = open_window()
    window.admit(1, 2)
    before = window.dump()
    reply = window.decide()
    assert (reply.state, reply.results, reply.used) == (DECIDED, [], (1, 1, 2))
    assert window.dump() == before


def test_a_large_batch(open_window: OpenWindow) -> None:
    window = open_window(FAR, FAR, FAR)
    assert window.decide(*[Admit(1, 2)] * 1_000).used == (1_000, 1_000, 2_000)
