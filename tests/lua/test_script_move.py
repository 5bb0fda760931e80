"""``seal.lua``, ``open.lua``, ``forward.lua``: a key's windows go along to another account, and leave them in time.

The former account is left as it was after the seal: its frozen windows say what should count. The two accounts have
clocks of their own. The suite takes some walks; ``PATHS_WALKS=240`` takes that many.
"""

from __future__ import annotations

import json
import os
import random
import struct
from collections.abc import Iterator
from typing import Any

import pytest
import redis
from paths_driver import (
    SHARED,
    UNKNOWN_ACCOUNT,
    UNKNOWN_KEY,
    Admit,
    Charge,
    Path,
    PathsDriver,
    PathWindow,
    Settle,
)

from limiter_node.store.scripts import load_script

SEAL, OPEN, FORWARD = load_script("seal"), load_script("open"), load_script("forward")
EPOCH_MS = 1_699_920_000_000
"""A multiple of all widths of buckets here: 100 ms, 6 s and 144 s."""
V1, V2 = b"version1", b"version2"
KID = "0123456789abcdef" * 2
NODE, OTHER = b"node-aaa", b"node-bbb"
MINUTE, HOUR, DAY = PathWindow(b"minute"), PathWindow(b"hourly", 6_000), PathWindow(b"oneday", 144_000)
OWN = {KID: [MINUTE, HOUR, DAY]}
PATH = [Path(KID, (1, 2, 3))]
CLOSED, OPENED, WAS_OPENED, NO_ACCOUNT = range(4)
WALKS = int(os.environ.get("PATHS_WALKS", "12"))
NOTHING = (0, 0, 0)


@pytest.fixture(scope="module", autouse=True)
def scripts(store: redis.Redis) -> None:
    for script in (SEAL, OPEN, FORWARD):
        store.script_load(script.source.decode())


@pytest.fixture
def source(store: redis.Redis, account_tags: Iterator[str]) -> PathsDriver:
    driver = PathsDriver(store, next(account_tags))
    driver.policy(V1, {KID: V1})
    return driver


@pytest.fixture
def target(store: redis.Redis, account_tags: Iterator[str]) -> PathsDriver:
    driver = PathsDriver(store, next(account_tags))
    driver.policy(V2)
    return driver


def seal(source: PathsDriver, target: PathsDriver, clock_ms: int, *, id_: str = "1", version: bytes = V1) -> int:
    mark = json.dumps({"to": target.tag, "id": id_, "body": "b"})
    reply: Any = source.client.evalsha(
        *(SEAL.sha.decode(), 2, source.policy_key, source.shared_key, KID, version, "", mark, clock_ms)
    )
    assert isinstance(reply, int)
    return reply


def open_at(
    target: PathsDriver,
    source: PathsDriver,
    clock_ms: int,
    source_ms: int = 0,
    *,
    id_: str = "1",
    revision: int = 1,
    body: bytes = b"{}",
) -> tuple[int, dict[str, Any]]:
    """Open the key. `source_ms`: 0 if both accounts are on one server."""
    client = target.client
    fields = [part for item in client.hgetall(source.key_hash(KID)).items() for part in item]
    clock = client.hget(source.shared_key, "c") or b""
    windows = b"".join(struct.pack("<6sIH", each.id, each.bucket_ms, each.buckets) for each in OWN[KID])
    arguments = (KID, id_, revision, V1, body, "", clock, source_ms, clock_ms, windows, *fields)
    keys = (target.policy_key, target.shared_key, target.key_hash(KID))
    code, told = client.evalsha(OPEN.sha.decode(), 3, *keys, *arguments)  # type: ignore[misc]
    if code == OPENED:
        target.versions[KID] = V1
    return int(code), json.loads(told) if told else {}


def end(source: PathsDriver, *, id_: str = "1") -> int:
    keys = (source.policy_key, source.key_hash(KID))
    reply: Any = source.client.evalsha(FORWARD.sha.decode(), 2, *keys, KID, id_, json.dumps({"id": id_, "body": ""}))
    assert isinstance(reply, int)
    return reply


def fill(driver: PathsDriver, rng: random.Random, clock_ms: int, steps: int, gaps: list[int]) -> int:
    """Count random amounts as time passes. Return the time then."""
    for _ in range(steps):
        clock_ms += rng.choice(gaps)
        size = rng.choice([1, 50, 3_000, 2**33 if rng.random() < 0.1 else 7])
        others = [Settle(1, clock_ms - rng.choice([0, 200, 5_000]), 0, rng.randrange(50), rng.randrange(50))]
        if rng.random() < 0.2:
            others.append(Settle(1, clock_ms, 1, 2**40, 2**40))  # all of it
        charge = Charge(1, clock_ms - rng.choice([0, 0, 300]), rng.choice([0, 1]), rng.randrange(size), 5)
        driver.decide(NODE, None, OWN, PATH, [*others, charge], [Admit(1, size, size)], clock_ms)
    return clock_ms


def used(driver: PathsDriver, clock_ms: int) -> list[tuple[int, int, int]]:
    """The content of the key's windows, added up from their buckets."""
    found = driver.peek(OWN, clock_ms)
    assert found
    return [each.used for each in found.windows]


@pytest.mark.parametrize("seed", range(WALKS))
def test_windows_count_on_elsewhere_and_leave_less_than_a_bucket_late(
    source: PathsDriver, target: PathsDriver, seed: int
) -> None:
    rng = random.Random(seed)
    gaps = rng.choice([[100, 100, 200], [0, 10, 700], [50, 9_000, 100_000], [30_000, 7_000_000]])
    now_ms = fill(source, rng, EPOCH_MS, rng.choice([1, 40, 250]), gaps) + rng.choice([0, 37, 1_000])
    # How far the other account's clock is ahead.
    ahead_ms = rng.choice([0, 0, 1, 99, 100, 5_030, 200_000, -1, -40, -100, -61_234])
    if rng.random() < 0.5:  # it has been in use, and its time may go on from before a step back of its clock
        fill(target, rng, now_ms + ahead_ms + rng.choice([-1_000, 5_430]), 1, [0])
    assert seal(source, target, now_ms) == 1
    last_ms = int.from_bytes((target.client.hget(target.shared_key, "c") or b"")[:6], "little")
    code, told = open_at(target, source, now_ms + ahead_ms, now_ms)
    assert told["opened_ms"] >= last_ms
    assert (code, told["shift_ms"] >= ahead_ms) == (OPENED, True)
    shift_ms = told["shift_ms"]
    assert told["opened_ms"] == now_ms + shift_ms
    clock_ms = now_ms + ahead_ms
    for step in range(60):
        clock_ms += 0 if step == 0 else rng.choice([0, 100, 130, 3_000, 60_000, 7_000_000])
        if rng.random() < 0.3:
            reply = target.decide(OTHER, None, OWN, PATH, clock_ms=clock_ms)
            sums = [meta.used if meta else NOTHING for meta in reply.metas]
            assert sums == used(target, clock_ms)
        then_ms = clock_ms - ahead_ms  # by the former account's clock
        at_least, found = used(source, then_ms), used(target, clock_ms)
        for at, (window, least, here) in enumerate(zip(OWN[KID], at_least, found, strict=True)):
            most = used(source, max(then_ms - window.bucket_ms, now_ms))[at]
            assert all(low <= each for low, each in zip(least, here, strict=True)), (window, step)
            assert all(each <= high for high, each in zip(most, here, strict=True)), (window, step)


@pytest.mark.parametrize("seed", range(WALKS))
def test_moved_windows_are_decided_on(source: PathsDriver, target: PathsDriver, seed: int) -> None:
    """The running sums, and those of groups, stay what the buckets add up to."""
    rng = random.Random(seed)
    gaps = rng.choice([[100, 100, 200], [0, 10, 700], [5_000, 9_000, 100_000]])
    now_ms = fill(source, rng, EPOCH_MS, rng.choice([10, 40, 250]), gaps)
    seal(source, target, now_ms)
    assert open_at(target, source, now_ms, now_ms - rng.choice([0, 3, 2_500]))[0] == OPENED
    for _ in range(60):
        now_ms = fill(target, rng, now_ms, 1, [*gaps, 7_000, 59_000])
        reply = target.decide(OTHER, None, OWN, PATH, clock_ms=now_ms)
        assert [meta.used if meta else NOTHING for meta in reply.metas] == used(target, now_ms)
        full = [each._replace(limits=(2, *each.limits[1:])) for each in OWN[KID]]
        rejected = target.decide(OTHER, None, {KID: full}, PATH, (), [Admit(1, 1)], clock_ms=now_ms)
        verdict, _, retry_ms = rejected.results[0]
        assert verdict == 0 or any(sum(each) for each in used(target, now_ms + retry_ms - 1))


@pytest.mark.parametrize("seed", range(4))
def test_on_one_server_buckets_keep_their_numbers(source: PathsDriver, target: PathsDriver, seed: int) -> None:
    rng = random.Random(seed)
    now_ms = fill(source, rng, EPOCH_MS, 200, [100, 300])
    assert seal(source, target, now_ms) == 1
    before = source.client.hgetall(source.key_hash(KID))
    code, told = open_at(target, source, now_ms + 40)
    assert (code, told["shift_ms"]) == (OPENED, 0)
    after = target.client.hgetall(target.key_hash(KID))
    metas = {id_ for id_ in after if len(id_) == 6}
    assert metas == {each.id for each in OWN[KID]}
    assert after.items() <= before.items()
    for field, value in before.items():
        assert field in after or value == before[field]
    assert used(target, now_ms + 40) == used(source, now_ms + 40)
    # A settle of before the move finds what it gives back.
    settled = target.decide(NODE, None, OWN, PATH, [Settle(1, now_ms, 0, 1, 1)], clock_ms=now_ms + 50)
    assert settled.used(1) == tuple(a - b for a, b in zip(used(source, now_ms + 50)[0], (0, 1, 1), strict=True))


def test_a_sealed_key_is_not_decided_and_what_it_counted_is_frozen(source: PathsDriver, target: PathsDriver) -> None:
    windows = {SHARED: [PathWindow(b"shared")], KID: [MINUTE]}
    paths = [Path(KID, (1, 2))]
    source.decide(NODE, 1, windows, paths, (), [Admit(1, 10, 10)], EPOCH_MS)
    assert seal(source, target, EPOCH_MS) == 1
    frozen = source.client.hgetall(source.key_hash(KID))
    reply = source.decide(NODE, 2, windows, paths, [Settle(1, EPOCH_MS, 0, 4, 4)], [Admit(1, 1, 1)], EPOCH_MS)
    assert reply.results == [(UNKNOWN_KEY, 0, 0)]
    assert (reply.used(1), reply.skipped) == ((1, 6, 6), (0,))
    assert source.client.hgetall(source.key_hash(KID)) == frozen
    again = source.decide(
        NODE, 2, windows, paths, [Settle(1, EPOCH_MS, 0, 4, 4)], [Admit(1, 1, 1)], EPOCH_MS, resent=True
    )
    assert (again.used(1), again.skipped, again.results) == ((1, 6, 6), (0,), reply.results)


def test_a_sealed_flat_key_is_not_decided_either(store: redis.Redis, target: PathsDriver) -> None:
    kid = "fedcba9876543210" * 2
    source = PathsDriver(store, kid)
    source.policy(V1)
    windows, paths = {SHARED: [MINUTE]}, [Path("", (1,))]
    source.decide(NODE, 1, windows, paths, (), [Admit(1, 10, 10)], EPOCH_MS)
    mark = json.dumps({"to": target.tag, "id": "1", "body": "b"})
    sealed: Any = store.evalsha(
        *(SEAL.sha.decode(), 2, source.policy_key, source.shared_key, kid, V1, "", mark, EPOCH_MS)
    )
    assert sealed == 1
    again = source.decide(NODE, 1, windows, paths, (), [Admit(1, 10, 10)], EPOCH_MS, resent=True)
    assert (again.state, again.results) == (1, [(0, 0, 0)])  # it was admitted before
    reply = source.decide(NODE, 2, windows, paths, [Settle(1, EPOCH_MS, 0, 4, 4)], [Admit(1, 1, 1)], EPOCH_MS)
    assert (reply.state, reply.results, reply.skipped) == (0, [(UNKNOWN_KEY, 0, 0)], (0,))
    assert reply.used(1) == (1, 10, 10)
    ended: Any = store.evalsha(
        *(FORWARD.sha.decode(), 2, source.policy_key, source.shared_key, kid, "1", json.dumps({"id": "1"}))
    )
    assert ended == 1
    assert {len(field) for field in store.hkeys(source.shared_key)} == {1, 8}  # clock and records stay
    store.hdel(source.policy_key, f"f:{kid}")
    assert source.decide(NODE, 3, windows, paths, (), [Admit(1)], EPOCH_MS).state == UNKNOWN_ACCOUNT


def test_another_version_is_not_sealed(source: PathsDriver, target: PathsDriver) -> None:
    before = source.client.hgetall(source.policy_key)
    assert seal(source, target, EPOCH_MS, version=V2) == 0
    assert source.client.hgetall(source.policy_key) == before
    assert seal(source, target, EPOCH_MS) == 1
    assert seal(source, target, EPOCH_MS) == 0


def test_the_seal_tells_the_accounts_time(source: PathsDriver, target: PathsDriver) -> None:
    source.decide(NODE, None, OWN, PATH, (), [Admit(1)], EPOCH_MS + 5_000)
    source.decide(NODE, None, OWN, PATH, (), [Admit(1)], EPOCH_MS)  # the clock stepped back
    assert seal(source, target, EPOCH_MS + 30) == 1
    mark = json.loads(source.client.hget(source.policy_key, f"f:{KID}") or b"")
    assert mark == {"to": target.tag, "id": "1", "body": "b", "time_ms": EPOCH_MS + 5_030}


def test_a_move_opens_once(source: PathsDriver, target: PathsDriver) -> None:
    source.decide(NODE, None, OWN, PATH, (), [Admit(1, 3, 4)], EPOCH_MS)
    seal(source, target, EPOCH_MS)
    code, told = open_at(target, source, EPOCH_MS, EPOCH_MS)
    assert code == OPENED
    target.decide(NODE, None, OWN, PATH, (), [Admit(1, 1, 1)], EPOCH_MS)
    assert open_at(target, source, EPOCH_MS + 900, EPOCH_MS) == (WAS_OPENED, told)
    assert used(target, EPOCH_MS)[0] == (2, 4, 5)
    assert end(source) == 1
    assert not source.client.exists(source.key_hash(KID))
    assert open_at(target, source, EPOCH_MS + 900, EPOCH_MS) == (WAS_OPENED, told)
    assert used(target, EPOCH_MS)[0] == (2, 4, 5)


def test_who_is_late_opens_nothing(source: PathsDriver, target: PathsDriver) -> None:
    """The key has moved on, come back, and moved on again, when the first move is gone on with."""
    seal(source, target, EPOCH_MS)
    open_at(target, source, EPOCH_MS)
    target.client.hdel(target.policy_key, KID, f"k:{KID}")
    assert open_at(target, source, EPOCH_MS, id_="3", revision=3)[0] == OPENED
    target.client.hdel(target.policy_key, KID, f"k:{KID}")
    assert open_at(target, source, EPOCH_MS, id_="1", revision=1)[0] == WAS_OPENED
    assert open_at(target, source, EPOCH_MS, id_="1", revision=1, body=b"")[0] == WAS_OPENED
    assert not target.client.hexists(target.policy_key, KID)


def test_a_move_that_was_given_up_opens_nothing(source: PathsDriver, target: PathsDriver) -> None:
    seal(source, target, EPOCH_MS)
    target.policy(b"")
    assert open_at(target, source, EPOCH_MS)[0] == NO_ACCOUNT
    assert open_at(target, source, EPOCH_MS, body=b"")[0] == OPENED
    target.client.hset(target.policy_key, "version", V2)
    assert open_at(target, source, EPOCH_MS)[0] == CLOSED
    assert open_at(target, source, EPOCH_MS, id_="2", revision=2)[0] == OPENED


def test_a_key_comes_back_to_its_windows_as_they_are_now(source: PathsDriver, target: PathsDriver) -> None:
    """Also if nobody has deleted those that it left: what they hold went along, and has come back with the others."""
    source.decide(NODE, None, OWN, PATH, (), [Admit(1, 3, 4)], EPOCH_MS)
    seal(source, target, EPOCH_MS)
    open_at(target, source, EPOCH_MS)
    target.decide(NODE, None, OWN, PATH, (), [Admit(1, 10, 10)], EPOCH_MS + 200)
    seal(target, source, EPOCH_MS + 300, id_="2")
    assert open_at(source, target, EPOCH_MS + 300, id_="2", revision=2)[0] == OPENED
    assert used(source, EPOCH_MS + 300)[0] == (2, 13, 14)
    assert not source.client.hexists(source.policy_key, f"f:{KID}")
    assert end(source) == 0  # of the first move: too late
    assert used(source, EPOCH_MS + 300)[0] == (2, 13, 14)
    assert end(target, id_="2") == 1
    assert not target.client.exists(target.key_hash(KID))


def test_an_opened_window_lives_as_long_as_it_counts(source: PathsDriver, target: PathsDriver) -> None:
    source.decide(NODE, None, OWN, PATH, (), [Admit(1)], EPOCH_MS)
    seal(source, target, EPOCH_MS)
    open_at(target, source, EPOCH_MS + 30, EPOCH_MS)
    for key in (target.key_hash(KID), target.shared_key):
        assert target.client.pttl(key) > 86_400_000
    assert target.client.hget(target.shared_key, "c") == struct.pack("<Q", EPOCH_MS)[:6] + bytes(6)
