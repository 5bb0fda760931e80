"""A stored policy and a declared one, made one: times, windows without limits, their number, and what stays."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from limiter_node.policy import REQUESTS, AccountPolicy, KeyPolicy, Limit, PolicyWindow, Subject, shape_of
from limiter_node.policy_body import body_of
from limiter_node.store.admin.merging import merge_account, merge_key
from limiter_node.window_merging import MAX_STORED_WINDOWS

LIMITS = (Limit(REQUESTS, 5),)
NOW_MS = 1_700_000_000_000


def key(*windows: PolicyWindow) -> KeyPolicy:
    return KeyPolicy("0" * 32, windows=windows)


def lengths(windows: Sequence[PolicyWindow]) -> list[int]:
    return [each.per_ms for each in windows]


def test_new_windows_count_from_now() -> None:
    assert merge_key(None, key(PolicyWindow(1_000, limits=LIMITS)), NOW_MS) == key(
        PolicyWindow(1_000, limits=LIMITS, since_ms=NOW_MS)
    )


def test_a_window_that_ends_this_moment_has_ended() -> None:
    lingering = PolicyWindow(1_000, since_ms=1, until_ms=NOW_MS)
    assert merge_key(key(lingering), key(), NOW_MS).windows == ()
    assert merge_key(key(lingering), key(), NOW_MS - 1).windows == (lingering,)
    declared = PolicyWindow(1_000, limits=LIMITS)
    assert merge_key(key(lingering), key(declared), NOW_MS).windows[0].since_ms == NOW_MS
    assert merge_key(key(lingering), key(declared), NOW_MS - 1).windows == (declared._replace(since_ms=1),)


def test_of_many_windows_without_limits_those_stay_that_end_last() -> None:
    many = [PolicyWindow(1_000 * (n + 1), limits=LIMITS, since_ms=1) for n in range(MAX_STORED_WINDOWS + 5)]
    declared = PolicyWindow(999_000, limits=LIMITS)
    merged = merge_key(key(*many), key(declared), NOW_MS).windows
    assert len(merged) == MAX_STORED_WINDOWS
    assert merged[0].per_ms == 999_000
    assert sorted(lengths(merged[1:])) == lengths(many)[6:]


def test_teams_that_are_not_declared_stay_as_they_are() -> None:
    old = Subject("old", (PolicyWindow(1_000, limits=LIMITS, since_ms=1),), 7)
    stored = AccountPolicy("a", (Subject(""), old, Subject("kept")), "own", (("rpm", 1),))
    merged = merge_account(stored, AccountPolicy("a", (Subject(""), Subject("new"), Subject("kept"))), NOW_MS)
    assert merged == AccountPolicy("a", (Subject(""), Subject("new"), Subject("kept"), old))


window = st.builds(
    lambda per_ms, models: PolicyWindow(per_ms, models, LIMITS),
    st.sampled_from([1_000, 2_000, 60_000]),
    st.sampled_from([(), ("a",), ("A",), ("b", "a"), ("A", "b")]),
)
declared = st.lists(window, max_size=6, unique_by=shape_of)


@given(st.lists(st.tuples(declared, st.integers(0, 5_000)), min_size=1, max_size=8))
def test_any_sequence_of_files(files: list[tuple[list[PolicyWindow], int]]) -> None:
    """Windows keep the time since when they have counted without a break; loading twice changes nothing."""
    now_ms, stored = NOW_MS, None
    since: dict[object, int] = {}
    until: dict[object, int] = {}
    for windows, later_ms in files:
        now_ms += later_ms
        stored = merge_key(stored, key(*windows), now_ms)
        assert body_of(merge_key(stored, key(*windows), now_ms)) == body_of(stored)
        for each in [shape for shape, ends_ms in until.items() if ends_ms <= now_ms]:
            del since[each], until[each]
        shapes = [shape_of(each) for each in windows]
        for shape in shapes:
            since.setdefault(shape, now_ms)
            until.pop(shape, None)
        for shape in since.keys() - set(shapes) - until.keys():
            until[shape] = now_ms + shape[0]  # type: ignore[index]
        assert {shape_of(each): each.since_ms for each in stored.windows} == since
        assert {shape_of(each): each.until_ms for each in stored.windows if not each.limits} == until
        assert list(stored.windows[: len(windows)]) == [
            each._replace(since_ms=since[shape_of(each)]) for each in windows
        ]
