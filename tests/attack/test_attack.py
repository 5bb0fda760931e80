"""A short selection of `make attack`: each kind of attack on a real node, judged by memory, CPU time and ends.

Others' latency is for `make attack` alone: it says something on a machine that nothing else runs on. And the bounds
themselves, on figures that are made up.
"""

from __future__ import annotations

import dataclasses
import json
import sys

import pytest

from attack.attacks import ATTACKS, Attack
from attack.bodies import WORST
from attack.bounds import FLOOR_MS, failures, failures_within
from attack.scene import Seen, scene

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")

# Title, connections, seconds: what shows each kind of fault soonest.
SHORT: dict[str, tuple[int, float]] = {
    "A1 bombs to every route, no key": (20, 1.5),
    "A2 3,000 times 1 MiB of an unknown key, then gone": (1, 1.5),
    "A3 1 MiB of [],[],… of an unknown key": (4, 1.5),
    "A4 10,000 connections 1 MiB into a body, unknown key": (400, 1.5),
    "A4 10,000 connections 1 MiB into a body, known key": (700, 2.0),
    'B1 20 times 1 MiB of "x":[[],[],…] while the service thinks': (20, 1.5),
    "B2 50 whole answers of 100 MB, read at 64 KiB per 2 s": (10, 1.5),
    "B3 gzip bomb of 1 GiB as a whole answer": (2, 1.5),
    "B4 pings for ever after [DONE]": (4, 7.0),
}


def titled(title: str) -> Attack:
    (attack,) = (attack for attack in ATTACKS if attack.title == title)
    return attack


@linux_only
@pytest.mark.parametrize("title", SHORT)
def test_an_attack_is_held(title: str) -> None:
    attack, (connections, seconds) = titled(title), SHORT[title]
    with scene(attack) as on:
        seen = on.play(attack, 1, connections, seconds, twin=False)
    assert list(failures_within(attack, seen)) == []
    assert seen.others > 0, "others were served"


def test_attacks_have_names_of_their_own() -> None:
    assert len({attack.title for attack in ATTACKS}) == len(ATTACKS)


@pytest.mark.parametrize("kind", WORST)
def test_the_worst_bodies_are_as_large_as_they_may_be_and_whole(kind: str) -> None:
    size = 1_000_000
    body = WORST[kind]("m", size)
    assert 0.8 * size < len(body) <= size
    if kind not in ("deep nesting", "long number"):  # which Python's reader refuses
        assert json.loads(body)["model"] == "m"


ATTACK = Attack("A0", "made up", list, cpu_each_ms=5, ends_within_s=6)
SEEN = Seen(
    normal_p99_ms=[10.0, 11.0, 500.0],
    p99_ms=[22.0, 15.0, 900.0],
    before_mb=100,
    peak_mb=130,
    after_mb=130,
    shots=100,
    cpu_s=0.5,
    longest_s=6,
)


def test_what_is_at_its_bounds_is_held() -> None:
    assert list(failures(ATTACK, SEEN)) == []


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"p99_ms": [23.0, 15.0, 900.0]}, "others' p99 23.0 ms, bound 22.0"),
        ({"peak_mb": 131}, "memory 31 MB more at its peak, bound 30"),
        ({"after_mb": 131}, "memory 31 MB more afterwards, bound 30"),
        ({"cpu_s": 0.51}, "5.1 ms of CPU for each, bound 5"),
        ({"longest_s": 6.1}, "an answer took 6.1 s, bound 6"),
        ({"oldest_unended_s": 7}, "an answer took 7.0 s, bound 6"),
        ({"shots": 0}, "the attacker sent nothing"),
    ],
)
def test_what_is_above_a_bound_is_told(change: dict[str, object], says: str) -> None:
    assert list(failures(ATTACK, dataclasses.replace(SEEN, **change))) == [says]  # type: ignore[arg-type]


def test_below_the_floor_a_ratio_says_nothing() -> None:
    quick = dataclasses.replace(SEEN, normal_p99_ms=[1.0], p99_ms=[FLOOR_MS])
    assert list(failures(ATTACK, quick)) == []
    assert list(failures(ATTACK, dataclasses.replace(quick, p99_ms=[FLOOR_MS + 0.1]))) != []


def test_more_than_normal_may_be_given_in_ms() -> None:
    attack = dataclasses.replace(ATTACK, more_p99_ms=20.0)
    assert list(failures(attack, dataclasses.replace(SEEN, p99_ms=[31.0]))) == []
    assert list(failures(attack, dataclasses.replace(SEEN, p99_ms=[31.1]))) != []
