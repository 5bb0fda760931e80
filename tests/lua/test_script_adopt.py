"""``adopt.lua``: a plain key with usage becomes an account of its own, and decides on as the plain key would have.

Random windows are filled by ``decide.lua``, and copied; one of the two is adopted. Then both get the same operations.
The suite takes some of them; ``PATHS_WALKS=240`` takes that many.
"""

from __future__ import annotations

import itertools
import os
import random
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import redis
from paths_driver import DECIDE_PATHS, PEEK_PATHS, Charge, Path, PathsDriver, PathWindow, Settle
from paths_driver import Admit as PathAdmit
from reference import Admit, Limits, Operation
from reference import Charge as PlainCharge
from reference import Settle as PlainSettle
from script_driver import BUCKET_MS, EPOCH_MS, Window

from limiter_node.credentials import key_id
from limiter_node.limits import WINDOW_MS
from limiter_node.policy import KEY_SUBJECT, PolicyWindow, window_id
from limiter_node.store.codec import NEVER as PLAIN_NEVER
from limiter_node.store.keyspace import (
    declared_key,
    deleted_key,
    limits_key,
    past_key,
    policy_key,
    shared_key,
    window_key,
)
from limiter_node.store.scripts import load_script

ADOPT = load_script("adopt")
MINUTE_ID = window_id(KEY_SUBJECT, PolicyWindow(WINDOW_MS))
VERSION, BODY, NODE = b"\x01" * 8, b"body", b"nodename"
LIMITS = Limits(300, 5_000, 20_000, 100)
WINDOW = PathWindow(MINUTE_ID, limits=(LIMITS.requests, LIMITS.input, LIMITS.output, 2**53 - 1))
WINDOWS, PATHS = {"": [WINDOW]}, [Path("", (1,))]
WALKS = int(os.environ.get("PATHS_WALKS", "12"))

_count = itertools.count()


@pytest.fixture(scope="module", autouse=True)
def scripts(store: redis.Redis) -> None:
    for script in (ADOPT, DECIDE_PATHS, PEEK_PATHS):
        store.script_load(script.source.decode())


def new_window(client: redis.Redis) -> Window:
    window = Window(client, key_id(f"sk-adopt-{next(_count)}"))
    window.set_limits(LIMITS)
    return window


def adopt(client: redis.Redis, kid: str, clock_ms: int, id_: bytes = MINUTE_ID, limits: bytes | None = None) -> int:
    """Adopt a key; `limits` are those that the caller knows, by default the stored ones."""
    keys = [key(kid) for key in (limits_key, window_key, past_key, policy_key, shared_key, deleted_key, declared_key)]
    if limits is None:
        found: Any = client.get(keys[0]) if client.type(keys[0]) == b"string" else b""
        limits = found or b""
    reply: Any = client.evalsha(ADOPT.sha.decode(), len(keys), *keys, kid, VERSION, BODY, id_, clock_ms, limits)
    assert isinstance(reply, int)
    return reply


def copy_of(window: Window) -> Window:
    twin = Window(window.client, key_id(f"sk-adopt-{next(_count)}"), clock_ms=window.clock_ms)
    for source, target in zip(window.keys, twin.keys, strict=True):
        if (value := window.client.dump(source)) is not None:
            window.client.restore(target, 0, value)
    return twin


def steps(rng: random.Random, *, steps_back: bool, is_dense: bool) -> Iterator[tuple[int, list[Operation]]]:
    """Yield how far the clock moves, and operations; the bucket of a settle or a charge is given as its age.

    `is_dense`: nearly each bucket gets a little, so that retry times are searched among the sums of many groups.
    """
    while True:
        move_ms = rng.choice([0, 10, 60, 100, 100, 100, 250, 1_000, rng.randrange(5_000)])
        if is_dense:
            move_ms = rng.choice([0, 100, 100, 200])
        elif rng.random() < 0.02:
            move_ms = rng.choice([20_000, 59_900, 60_050, 61_000, 200_000])
        if steps_back and rng.random() < 0.03:
            move_ms = -rng.choice([50, 2_000, 30_000, 90_000])
        operations: list[Operation] = []
        for _ in range(rng.choice([1, 1, 1, 2, 5])):
            kind = rng.random()
            if kind < 0.7 and is_dense:
                operations.append(Admit(rng.choice([1, 9, 30, 30, rng.randrange(1, 5_000)]), rng.choice([1, 50, 90])))
            elif kind < 0.7:
                operations.append(Admit(rng.choice([1, 20, 200, 6_000]), rng.choice([1, 300, 25_000])))
            elif kind < 0.9:
                age = rng.choice([0, 1, 3, 30, 300, 700])
                operations.append(PlainSettle(age, rng.randrange(50), rng.randrange(200), rng.choice([0, 0, 1])))
            else:
                operations.append(
                    PlainCharge(rng.choice([0, 2, 500, 601]), *(rng.choice([0, 1, 60]) for _ in range(3)))
                )
        # A batch's settles and charges come first, as nodes send them.
        operations.sort(key=lambda each: isinstance(each, Admit))
        yield move_ms, operations


def at_bucket(operation: Operation, bucket: int) -> Operation:
    """Return an operation whose bucket was given as an age."""
    if isinstance(operation, PlainSettle | PlainCharge):
        return replace(operation, bucket=bucket - operation.bucket)
    return operation


def do_plain(window: Window, move_ms: int, operations: list[Operation]) -> Any:
    window.clock_ms += move_ms
    usage = window.peek()
    assert usage
    bucket = usage.time_ms // BUCKET_MS
    return window.decide(*(at_bucket(each, bucket) for each in operations)), bucket


def compare(window: Window, driver: PathsDriver) -> None:
    """What the plain window holds is what the account's holds, by its buckets and by its running sums."""
    usage, peeked = window.peek(), driver.peek(WINDOWS, window.clock_ms)
    assert usage
    assert peeked
    (found,) = peeked.windows
    newest = tuple(max((b.bucket for b in usage.buckets if b[1 + d]), default=0) for d in range(3))
    assert (found.used, found.newest_in) == (tuple(usage.used), newest)
    meta = driver.decide(NODE, None, WINDOWS, PATHS, clock_ms=window.clock_ms).metas[0]
    if meta is None:
        assert not any(usage.used)
        return
    used, newest_in = meta.used, meta.newest_in
    assert used == tuple(usage.used)
    assert tuple(each if number else 0 for each, number in zip(newest_in, used, strict=True)) == newest


@pytest.mark.parametrize("seed", range(WALKS))
def test_an_adopted_window_decides_on(store: redis.Redis, seed: int) -> None:
    rng = random.Random(seed)
    window = new_window(store)
    is_dense = seed % 2 == 1
    filling = steps(rng, steps_back=not is_dense, is_dense=is_dense)
    for move_ms, operations in itertools.islice(filling, rng.choice([3, 40, 250])):
        do_plain(window, move_ms, operations)
    window.clock_ms += rng.choice([0, 0, 50, 3_000] if is_dense else [0, 50, 3_000, 59_000, 61_000])
    usage = window.peek()
    assert usage
    twin = copy_of(window)
    assert adopt(store, twin.kid, window.clock_ms) == 1
    assert store.hgetall(limits_key(twin.kid)) == {b"account": twin.kid.encode()}
    assert not store.exists(window_key(twin.kid), past_key(twin.kid))
    assert store.hgetall(policy_key(twin.kid)) == {b"version": VERSION, b"account": BODY}
    driver = PathsDriver(store, twin.kid, account_version=VERSION)
    compare(window, driver)

    for move_ms, operations in itertools.islice(steps(rng, steps_back=False, is_dense=is_dense), 80):
        reply, bucket = do_plain(window, move_ms, operations)
        admits, others = [], []
        for each in (at_bucket(each, bucket) for each in operations):
            match each:
                case Admit():
                    admits.append(PathAdmit(1, each.input, each.output))
                case PlainSettle():
                    others.append(Settle(1, each.bucket * BUCKET_MS, each.requests, each.input, each.output))
                case PlainCharge():
                    others.append(Charge(1, each.bucket * BUCKET_MS, each.requests, each.input, each.output))
        found = driver.decide(NODE, None, WINDOWS, PATHS, others, admits, window.clock_ms)
        assert found.time_ms == reply.time_ms
        assert found.used(1) == tuple(reply.used)
        verdicts = reply.results[len(operations) - len(admits) :]
        expected = [(verdict + 4 if verdict > PLAIN_NEVER else verdict, retry_ms) for verdict, retry_ms in verdicts]
        assert [(verdict, retry_ms) for verdict, _, retry_ms in found.results] == expected
        compare(window, driver)


def test_a_full_window_is_adopted_whole(store: redis.Redis) -> None:
    window = new_window(store)
    for _ in range(900):
        window.clock_ms += BUCKET_MS
        window.decide(PlainCharge(window.bucket, 1, 2, 3))
    twin = copy_of(window)
    assert adopt(store, twin.kid, window.clock_ms) == 1
    compare(window, PathsDriver(store, twin.kid, account_version=VERSION))
    fields = {len(field): value for field, value in store.hgetall(shared_key(twin.kid)).items()}
    assert set(fields) == {1, 6, 7}
    assert 60_000 < store.pttl(shared_key(twin.kid)) <= 90_100


def test_a_key_that_is_not_there_becomes_an_account(store: redis.Redis) -> None:
    kid = key_id(f"sk-adopt-{next(_count)}")
    store.set(deleted_key(kid), b"")
    assert adopt(store, kid, EPOCH_MS) == 1
    assert store.hgetall(limits_key(kid)) == {b"account": kid.encode()}
    assert not store.exists(shared_key(kid), deleted_key(kid))


def test_without_a_window_of_a_minute_usage_is_dropped_and_the_clock_stays(store: redis.Redis) -> None:
    window = new_window(store)
    window.decide(Admit(1, 1))
    window.clock_ms -= 5_000
    window.decide(Admit(1, 1))
    assert adopt(store, window.kid, window.clock_ms, b"") == 1
    clock = EPOCH_MS.to_bytes(6, "little") + (5_000).to_bytes(6, "little")
    assert store.hgetall(shared_key(window.kid)) == {b"c": clock}


def test_an_account_is_not_adopted_again(store: redis.Redis) -> None:
    window = new_window(store)
    assert adopt(store, window.kid, EPOCH_MS) == 1
    store.hset(policy_key(window.kid), "version", "another")
    assert adopt(store, window.kid, EPOCH_MS) == 0
    assert store.hget(policy_key(window.kid), "version") == b"another"


def test_a_key_of_another_account_is_pointed_to_its_own(store: redis.Redis) -> None:
    kid = key_id(f"sk-adopt-{next(_count)}")
    store.hset(limits_key(kid), "account", "@acme")
    assert adopt(store, kid, EPOCH_MS) == 1
    assert store.hgetall(limits_key(kid)) == {b"account": kid.encode()}
    assert store.hget(policy_key(kid), "version") == VERSION


def test_a_plain_key_that_was_changed_meanwhile_stays_plain(store: redis.Redis) -> None:
    window = new_window(store)
    before = store.get(limits_key(window.kid))
    for known in (b"", b"other limits"):
        assert adopt(store, window.kid, EPOCH_MS, limits=known) == 2
    assert store.get(limits_key(window.kid)) == before
    store.delete(limits_key(window.kid))
    assert adopt(store, window.kid, EPOCH_MS, limits=b"other limits") == 2
    assert not store.exists(limits_key(window.kid), policy_key(window.kid))


def test_the_record_of_declarations_goes_with_the_plain_key(store: redis.Redis) -> None:
    window = new_window(store)
    store.set(declared_key(window.kid), b"record")
    assert adopt(store, window.kid, EPOCH_MS) == 1
    assert not store.exists(declared_key(window.kid))
