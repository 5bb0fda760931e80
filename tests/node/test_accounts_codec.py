"""The packed form of an account's batch and reply: what is written by the layout, what is refused as unreadable."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from limiter_node.limits import Amounts
from limiter_node.plans import NO_LIMIT, PlannedWindow
from limiter_node.policy import BUCKETS, bucket_ms_of
from limiter_node.store.accounts import costs
from limiter_node.store.accounts.codec import (
    ENDED,
    NEVER,
    NO_SUCH_KEY,
    POLICY_OLD,
    Layout,
    pack_admit,
    pack_charge,
    pack_settle,
    unpack_reply,
)
from limiter_node.store.codec import DECIDED, LOST, REPLAYED, STALE, UNKNOWN_KEY, UnreadableReply

HEADER, HEADER_SIZE = "<QBQQ8sBHH", 38
VERSION = b"version8"
VERDICTS = (0, 1, 2, 3, 4, *(NEVER + unit for unit in (1, 2, 3, 4)), POLICY_OLD, NO_SUCH_KEY, ENDED)
amounts = st.integers(0, 2**53 - 1)


def window(
    id_: bytes = b"window", *, is_own: bool = False, limit: int = NO_LIMIT, per_ms: int = 60_000
) -> PlannedWindow:
    bucket_ms = bucket_ms_of(per_ms)
    limits = (limit, NO_LIMIT, NO_LIMIT, NO_LIMIT)
    return PlannedWindow(id_, is_own, "", per_ms, bucket_ms, -(-per_ms // bucket_ms), (), (), limits, 0, 0)


def meta(used: Amounts, newest: Amounts) -> bytes:
    """A window's meta, byte by byte as lua/README.md has it."""
    numbers = [
        (1, 5),
        (2, 5),
        *((each, 5) for each in newest),
        (used[0], 6),
        (used[1], 7),
        (used[2], 7),
        (3, 4),
        (4, 7),
    ]
    return b"".join(number.to_bytes(size, "little") for number, size in (*numbers, (5, 7)))


def reply_of(metas: list[bytes], results: bytes = b"", state: int = DECIDED) -> bytes:
    return struct.pack("<BQQ", state, 1_763_900_000_000, 7) + b"".join(metas) + results


def result(verdict: int, place: int, retry_ms: int = 0) -> bytes:
    return bytes((verdict, place)) + retry_ms.to_bytes(5, "little")


def policy(which: int, body: bytes) -> bytes:
    return bytes((which,)) + len(body).to_bytes(4, "little") + body


@given(st.tuples(st.integers(0, 2**48 - 1), amounts, amounts), st.tuples(*[st.integers(0, 2**40 - 1)] * 3))
def test_counters_of_any_width_are_read(used: tuple[int, int, int], newest: tuple[int, int, int]) -> None:
    reply = unpack_reply(reply_of([meta(Amounts(*used), Amounts(*newest)), bytes(63)]), 2, 0)
    assert reply.windows == [(used, newest), ((0, 0, 0), (0, 0, 0))]
    assert (reply.time_ms, reply.recorded) == (1_763_900_000_000, 7)


@pytest.mark.parametrize("verdict", VERDICTS)
def test_each_verdict_is_read(verdict: int) -> None:
    of_window = verdict not in (0, POLICY_OLD, NO_SUCH_KEY, ENDED)
    found = unpack_reply(reply_of([bytes(63)] * 2, result(verdict, 2 if of_window else 0, 2**40 - 1)), 2, 1)
    assert found.results == [(verdict, 1 if of_window else -1, 2**40 - 1)]


@pytest.mark.parametrize("state", [DECIDED, REPLAYED])
def test_a_whole_reply_that_is_cut_or_longer_is_unreadable(state: int) -> None:
    results = result(POLICY_OLD, 0) + result(1, 3, 59_999) + result(POLICY_OLD, 0)
    whole = reply_of([bytes(63)] * 3, results, state) + policy(0, b"account") + policy(2, b"")
    assert unpack_reply(whole, 3, 3, 2).policies == [(0, b"account"), (2, b"")]
    readable = {17 + 3 * 63, 17 + 3 * 63 + 3 * 7, len(whole) - 5}  # nothing rejected; without one policy or the other
    for size in range(len(whole)):
        if size not in readable:
            with pytest.raises(UnreadableReply):
                unpack_reply(whole[:size], 3, 3, 2)
    for more in range(1, 20):
        with pytest.raises(UnreadableReply):
            unpack_reply(whole + bytes(more), 3, 3, 2)


@pytest.mark.parametrize(
    ("reply", "admits"),
    [
        (reply_of([bytes(63)], policy(0, b"nobody asked")), 0),
        (reply_of([bytes(63)], result(5, 1)), 1),
        (reply_of([bytes(63)], result(NEVER, 1)), 1),
        (reply_of([bytes(63)], result(19, 1)), 1),
        (reply_of([bytes(63)], result(255, 1)), 1),
        (reply_of([bytes(63)], result(1, 0)), 1),
        (reply_of([bytes(63)], result(NEVER + 4, 2)), 1),
        (reply_of([bytes(63)], result(POLICY_OLD, 0) + policy(3, b"{}")), 1),
        (reply_of([bytes(63)], result(POLICY_OLD, 0) + policy(1, b"{}") + policy(1, b"{}")), 1),
        (reply_of([bytes(63)], result(POLICY_OLD, 0) + policy(1, b"{}") + policy(0, b"{}")), 1),
        (reply_of([bytes(63)], state=5), 1),
        (bytes((UNKNOWN_KEY, 0)), 1),
        (bytes((STALE, 0)), 1),
        (bytes((LOST,)), 1),
        (bytes((LOST, *range(9))), 1),
        (b"", 0),
    ],
)
def test_replies_that_no_script_sends_are_unreadable(reply: bytes, admits: int) -> None:
    with pytest.raises(UnreadableReply):
        unpack_reply(reply, 1, admits, 2)


@given(st.binary(max_size=300), st.integers(0, 4), st.integers(0, 4), st.integers(0, 4))
def test_any_bytes_are_read_or_refused(reply: bytes, windows: int, admits: int, keys: int) -> None:
    try:
        found = unpack_reply(reply, windows, admits, keys)
    except UnreadableReply:
        return
    if found.state in (DECIDED, REPLAYED):
        assert (len(found.windows), len(found.results)) == (windows, admits)
        assert all(which <= keys for which, _ in found.policies)


paths = st.lists(
    st.tuples(
        st.sampled_from(["", "a" * 32, "b" * 32, "c" * 32]),
        st.lists(st.integers(0, 11), unique=True, max_size=8),
        st.sampled_from([0, 0, 1, 2**48 - 1]),
    ),
    min_size=1,
    max_size=12,
)


@given(paths)
def test_a_batch_is_packed_as_the_script_reads_it(asked: list[tuple[str, list[int], int]]) -> None:
    """Numbers below 6 are the account's windows, others the key's own: read back with `struct` alone."""
    per_ms = (1_000, 60_000, 3_600_000, 86_400_000, 7 * 86_400_000, 31 * 86_400_000)
    layout, taken = Layout(), []
    for kid, numbers, ends_ms in asked:
        windows = tuple(
            window(b"%06d" % n, is_own=n >= 6, limit=n, per_ms=per_ms[n % 6]) for n in numbers if kid or n < 6
        )
        if layout.path(kid, windows, ends_ms=ends_ms) > len(taken):  # else the same path again
            taken.append((kid, windows, ends_ms))
    others = [pack_settle(1, 2**48 - 1, 1, -5, 2**53 - 1), pack_charge(1, 0, 3, 4, 5)]
    admits = [pack_admit(1, 2**53 - 1, 0)]
    keys = [b"%08d" % at for at in range(len(layout.kids))]
    packed = layout.pack(9, others, admits, resent=True, expected=8, version=VERSION, key_versions=keys, clock_ms=5)

    assert struct.unpack_from(HEADER, packed) == (9, 1, 8, 5, VERSION, len(taken), 2, 1)
    at = HEADER_SIZE + 8 * len(keys)
    assert packed[HEADER_SIZE:at] == b"".join(keys)
    read: list[tuple[str, bytes, int, int, int]] = []
    for kid in ("", *layout.kids):
        count, at = packed[at], at + 1
        for _ in range(count):
            id_, bucket_ms, buckets = struct.unpack_from("<6sIH", packed, at)
            limits = [int.from_bytes(packed[at + 12 + 7 * n : at + 19 + 7 * n], "little") for n in range(4)]
            assert limits[1:] == [NO_LIMIT] * 3
            read.append((kid, id_, bucket_ms, buckets, limits[0]))
            at += 40
    assert len({(kid, id_) for kid, id_, *_ in read}) == len(read)
    for kid, windows, ends_ms in taken:
        key, count = packed[at], packed[at + 1]
        assert int.from_bytes(packed[at + 2 : at + 8], "little") == ends_ms
        at += 6
        assert kid == ("" if key == 0 else layout.kids[key - 1])
        path = [read[number - 1] for number in packed[at + 2 : at + 2 + count]]
        assert path == [
            (kid if each.is_own else "", each.id, each.bucket_ms, each.buckets, each.enforced[0]) for each in windows
        ]
        assert all(1 <= buckets <= BUCKETS for _, _, _, buckets, _ in path)
        at += 2 + count
    assert packed[at:] == b"".join((*others, *admits))
    assert others[0] == struct.pack("<BB", 2, 1) + b"\xff" * 6 + struct.pack("<qqq", 1, -5, 2**53 - 1)


def test_an_empty_batch_has_room_for_a_long_path_and_for_nothing_else() -> None:
    long = tuple(window(b"%06d" % n) for n in range(60))
    layout = Layout()
    assert layout.path("", long) == 1
    assert layout.path("", (window(b"others"),)) == 0
    assert layout.path("", long) == 0
    assert layout.path("", tuple(long[:5])) == 0
    assert layout.windows() == list(long)
    assert len(layout.places()) == 1


@pytest.mark.parametrize("cost", [costs.ADMIT, costs.OTHER])
def test_each_operation_takes_of_what_a_batch_may_cost(cost: int) -> None:
    windows = tuple(window(b"%06d" % n) for n in range(8))
    layout, operations = Layout(), 0
    while layout.path("", windows, cost=cost):
        operations += 1
    assert operations == (costs.BUDGET - 8 * costs.WINDOW) // (8 * cost)
    assert layout.path("", windows[:1], cost=costs.BUDGET) == 0
    assert layout.path("", windows, cost=cost, most=2 * costs.BUDGET) == 1


def test_each_new_window_takes_of_what_a_batch_may_cost() -> None:
    layout, kept = Layout(), [(window(b"%06d" % n),) for n in range(100)]
    taken = sum(layout.path("", each) > 0 for each in kept)
    assert taken == costs.BUDGET // (costs.WINDOW + costs.ADMIT) == len(layout.windows())


def test_a_refused_path_leaves_nothing_in_the_batch() -> None:
    layout = Layout()
    assert layout.path("a" * 32, tuple(window(b"%06d" % n) for n in range(29))) == 1
    before = layout.pack(1, [], [], resent=False)
    assert layout.path("b" * 32, (window(b"own 01", is_own=True),)) == 0
    assert layout.kids == ["a" * 32]
    assert layout.pack(1, [], [], resent=False) == before


def test_a_batch_has_at_most_255_paths() -> None:
    layout, one = Layout(), window()
    kept = [(one,) for _ in range(256)]
    assert [layout.path("", each, cost=1) for each in kept] == [*range(1, 256), 0]
    assert layout.path("", kept[0]) == 1


def test_the_limits_are_those_of_the_current_path() -> None:
    """A settle may bring the windows of an older policy."""
    old, new = window(limit=5), window(limit=6)
    layout = Layout()
    old_path, new_path = (old,), (new,)
    assert layout.path("", old_path) == 1
    assert layout.path("", new_path, is_current=True) == 2
    assert layout.path("", (old,)) == 3
    assert layout.windows() == [new]
    assert layout.places() == [[0], [0], [0]]
