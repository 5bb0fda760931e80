"""Which address is asked next, by a clock that the test sets."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from yarl import URL

from limiter_node.upstream.gateway.sending.rotation import Rotation
from limiter_node.upstream.gateway.sending.service_address import EJECT_AFTER, EJECT_S, ServiceAddress


class Clock:
    """Seconds, as they are set."""

    def __init__(self) -> None:
        self.now_s = 1_000.0

    def __call__(self) -> float:
        return self.now_s


def rotation_of(count: int, clock: Callable[[], float]) -> Rotation:
    return Rotation("s", [URL(f"http://{letter}:80/v1?key=1") for letter in "abcdef"[:count]], clock)


def asked(rotation: Rotation, times: int) -> str:
    """Whom each of so many requests asks first."""
    return "".join(_letter(rotation.order()[0]) for _ in range(times))


def order(rotation: Rotation) -> str:
    return "".join(_letter(address) for address in rotation.order())


def _letter(address: ServiceAddress) -> str:
    return address.name[0]


def fail(rotation: Rotation, letters: str) -> None:
    """Each of these addresses fails once."""
    for letter in letters:
        named(rotation, letter).note_failure(why="broke off", is_only=rotation.is_single)


def named(rotation: Rotation, letter: str) -> ServiceAddress:
    return next(address for address in rotation.addresses if _letter(address) == letter)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.mark.parametrize("count", [1, 2, 3, 6])
def test_requests_go_round(clock: Clock, count: int) -> None:
    rotation = rotation_of(count, clock)
    assert asked(rotation, 2 * count) == 2 * "abcdef"[:count]
    assert set(Counter(asked(rotation, 10 * count)).values()) == {10}
    assert rotation.is_single is (count == 1)


def test_a_request_may_try_all_of_them_in_turn(clock: Clock) -> None:
    rotation = rotation_of(3, clock)
    assert [order(rotation) for _ in range(4)] == ["abc", "bca", "cab", "abc"]


def test_names_are_hosts_and_ports() -> None:
    rotation = Rotation("s", [URL("https://host/v1?key=1"), URL("http://[::1]:81/v1")], Clock())
    assert [address.name for address in rotation.addresses] == ["host:443", "::1:81"]
    assert [address.service for address in rotation.addresses] == ["s", "s"]


def test_an_address_is_left_alone_after_three_failures_in_a_row(clock: Clock) -> None:
    rotation = rotation_of(3, clock)
    fail(rotation, "b" * (EJECT_AFTER - 1))
    assert asked(rotation, 3) == "abc"
    assert not named(rotation, "b").is_out
    fail(rotation, "b")
    assert named(rotation, "b").is_out
    assert "b" not in asked(rotation, 30)
    assert [order(rotation)[-1] for _ in range(3)] == ["b"] * 3  # it is the last to be tried


def test_a_success_between_failures_starts_anew(clock: Clock) -> None:
    rotation = rotation_of(2, clock)
    for _ in range(5):
        fail(rotation, "a" * (EJECT_AFTER - 1))
        named(rotation, "a").note_success()
    assert not named(rotation, "a").is_out
    assert asked(rotation, 4) == "abab"


@pytest.mark.parametrize("skipped", range(3))
def test_one_request_tries_it_again_after_ten_seconds(clock: Clock, skipped: int) -> None:
    rotation = rotation_of(3, clock)
    asked(rotation, skipped)  # whoever's turn it is
    fail(rotation, "bbb")
    clock.now_s += EJECT_S - 0.001
    assert "b" not in asked(rotation, 6)
    clock.now_s += 0.001
    assert asked(rotation, 1) == "b"
    assert "b" not in asked(rotation, 30)  # nobody else until it is known what comes of that
    named(rotation, "b").note_success()
    assert set(Counter(asked(rotation, 9)).values()) == {3}


def test_a_trial_that_fails_leaves_it_out_for_as_long_again(clock: Clock) -> None:
    rotation = rotation_of(2, clock)
    fail(rotation, "bbb")
    for _ in range(3):
        clock.now_s += EJECT_S
        assert asked(rotation, 5) == "baaaa"
        clock.now_s += 1
        fail(rotation, "b")
        clock.now_s += EJECT_S - 0.001
        assert asked(rotation, 5) == "aaaaa"
        clock.now_s += 0.001
        assert asked(rotation, 1) == "b"


def test_a_trial_that_nobody_hears_of_is_followed_by_another(clock: Clock) -> None:
    rotation = rotation_of(2, clock)
    fail(rotation, "bbb")
    clock.now_s += EJECT_S
    assert asked(rotation, 3) == "baa"  # its client has left, say
    clock.now_s += EJECT_S
    assert asked(rotation, 3) == "baa"


def test_each_request_tries_one_of_those_that_are_due(clock: Clock) -> None:
    rotation = rotation_of(4, clock)
    fail(rotation, "bbbccc")
    clock.now_s += EJECT_S
    assert [order(rotation)[0] for _ in range(2)] == ["b", "c"]
    assert set(asked(rotation, 8)) == {"a", "d"}


def test_with_all_out_the_one_that_has_been_out_longest_is_asked_first(clock: Clock) -> None:
    rotation = rotation_of(3, clock)
    for letter in "cab":
        fail(rotation, letter * EJECT_AFTER)
        clock.now_s += 1
    assert all(address.is_out for address in rotation.addresses)
    assert [order(rotation) for _ in range(4)] == ["cab"] * 4
    clock.now_s += EJECT_S
    orders = [order(rotation) for _ in range(4)]
    assert all(sorted(each) == ["a", "b", "c"] for each in orders)
    assert {each[0] for each in orders[:3]} == {"a", "b", "c"}  # each is tried


def test_success_brings_it_back_at_once(clock: Clock) -> None:
    rotation = rotation_of(2, clock)
    fail(rotation, "aaabbb")
    named(rotation, "b").note_success()
    assert asked(rotation, 4) == "bbbb"
    named(rotation, "a").note_success()
    assert set(asked(rotation, 2)) == {"a", "b"}
    fail(rotation, "aa")
    assert not named(rotation, "a").is_out  # counted anew


def test_a_single_address_is_never_left_alone(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    rotation = rotation_of(1, clock)
    with caplog.at_level(logging.DEBUG):
        fail(rotation, "a" * 20)
        assert not named(rotation, "a").is_out
        assert named(rotation, "a").failures == 20
        assert order(rotation) == "a"
        named(rotation, "a").note_success()
    assert caplog.records == []


def test_the_log_says_when_an_address_goes_and_comes_back(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    rotation = rotation_of(2, clock)
    with caplog.at_level(logging.DEBUG):
        named(rotation, "a").note_success()
        fail(rotation, "aa")
        assert caplog.records == []
        fail(rotation, "aaa")
        gone = caplog.records.pop()
        assert caplog.records == []  # once
        named(rotation, "a").note_success()
        back = caplog.records.pop()
        named(rotation, "a").note_success()
        assert caplog.records == []
    assert (gone.levelno, gone.getMessage()) == (
        logging.WARNING,
        "upstream s (a:80) failed 3 times in a row, last: broke off; no requests go there for 10 s",
    )
    assert (back.levelno, back.getMessage()) == (logging.INFO, "upstream s (a:80) answers again")
    for record, event in ((gone, "upstream_ejected"), (back, "upstream_back")):
        said = record.__dict__
        assert (said["event"], said["upstream"], said["target"]) == (event, "s", "a:80")


steps = st.lists(
    st.tuples(st.sampled_from(["ask", "fail", "succeed"]), st.integers(0, 3), st.sampled_from([0.0, 0.5, 4.0, 10.0])),
    max_size=60,
)


@given(steps, st.integers(1, 4))
def test_whatever_happens_each_request_has_all_of_them_to_ask(steps: list[tuple[str, int, float]], count: int) -> None:
    clock = Clock()
    rotation = rotation_of(count, clock)
    for what, which, passing_s in steps:
        clock.now_s += passing_s
        address = rotation.addresses[which % count]
        if what == "fail":
            address.note_failure(why="broke off", is_only=rotation.is_single)
        elif what == "succeed":
            address.note_success()
        addresses = rotation.order()
        assert sorted(address.name for address in addresses) == sorted(address.name for address in rotation.addresses)
        inside = [address for address in addresses if not address.is_out]
        # After the one that is tried again, those that are in come before those that are out.
        assert inside in (list(addresses[: len(inside)]), list(addresses[1 : len(inside) + 1]))


def test_what_tells_nothing_of_an_address_does_not_try_it(clock: Clock) -> None:
    rotation = rotation_of(3, clock)
    fail(rotation, "aaa")
    clock.now_s += EJECT_S
    assert [_letter(address) for address in rotation.order(may_try=False)][-1] == "a"
    assert asked(rotation, 1) == "a", "the one request that may is still to come"
