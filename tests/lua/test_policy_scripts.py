"""The scripts that read and write stored policies: `policy.lua` and `declare.lua`, on both stores."""

from __future__ import annotations

from typing import Any

import pytest
import redis
from paths_driver import PathsDriver

from limiter_node.store.scripts import load_script

DECLARE, POLICY = load_script("declare"), load_script("policy")
V1, V2 = b"version1", b"version2"
KID, OTHER = b"0" * 32, b"1" * 32
ANY, NONE, LOST, DELETE = b"*", b"", b"!", b""


@pytest.fixture
def key(store: redis.Redis, account: PathsDriver) -> str:
    """Return the key that holds the policies of a new account; the store knows the scripts."""
    for script in (DECLARE, POLICY):
        store.script_load(script.source.decode())
    return account.policy_key


def declare(
    store: redis.Redis, key: str, kid: bytes, expected: bytes, version: bytes, body: bytes = b"{}", *names: bytes
) -> Any:
    return store.evalsha(DECLARE.sha.decode(), 1, key, kid, expected, version, body, *names)


def read(store: redis.Redis, key: str, *kids: bytes) -> Any:
    return store.evalsha_ro(POLICY.sha.decode(), 1, key, *kids)


def test_what_is_declared_is_read(store: redis.Redis, key: str) -> None:
    time_ms, *found = read(store, key, KID)
    seconds, microseconds = store.time()
    assert 0 <= seconds * 1000 + microseconds // 1000 - time_ms < 60_000
    assert found == [None] * 7
    assert declare(store, key, b"", NONE, V1, b"account body") == 1
    assert declare(store, key, KID, NONE, V2, b"key body") == 1
    assert read(store, key, KID, OTHER)[1:] == [V1, b"account body", None, V2, b"key body", *[None] * 6]
    assert read(store, key)[1:] == [V1, b"account body", None]
    assert store.hgetall(key) == {b"version": V1, b"account": b"account body", KID: V2, b"k:" + KID: b"key body"}
    assert store.ttl(key) == -1


def test_as_many_keys_as_one_call_asks_for_are_read(store: redis.Redis, key: str) -> None:
    assert len(read(store, key, *(b"%032d" % number for number in range(500)))) == 4 + 4 * 500


@pytest.mark.parametrize("kid", [b"", KID], ids=["account", "key"])
@pytest.mark.parametrize(
    ("stored", "expected", "done"),
    [
        (None, NONE, 1),
        (None, V1, 0),
        (None, ANY, 1),
        (V1, NONE, 0),
        (V1, V1, 1),
        (V1, V2, 0),
        (V1, ANY, 1),
    ],
)
@pytest.mark.parametrize("version", [V2, DELETE], ids=["written", "deleted"])
def test_only_what_the_caller_knows_is_replaced(
    store: redis.Redis, key: str, kid: bytes, stored: bytes | None, expected: bytes, done: int, version: bytes
) -> None:
    if kid:
        declare(store, key, b"", NONE, V1, b"account")
    if stored:
        declare(store, key, kid, ANY, stored, b"before")
    before = store.hgetall(key)
    assert declare(store, key, kid, expected, version, b"after", b"new", b"old", b"kept") == done
    if not done:
        assert store.hgetall(key) == before
        return
    found = read(store, key, KID)
    mine = [*found[4:6], found[7]] if kid else found[1:4]
    assert mine == ([None, None, b"kept"] if version == DELETE else [V2, b"after", None])


def test_an_account_is_deleted_with_its_keys(store: redis.Redis, key: str) -> None:
    declare(store, key, b"", NONE, V1)
    kids = [b"%032d" % number for number in range(2_500)]
    for kid in kids:
        declare(store, key, kid, NONE, V1, b"{}", b"name-" + kid)
    assert declare(store, key, b"", V1, DELETE) == 1
    assert not store.exists(key)


def test_an_account_leaves_what_is_kept_of_deleted_and_moved_keys(store: redis.Redis, key: str) -> None:
    declare(store, key, b"", NONE, V1)
    declare(store, key, KID, NONE, V1)
    declare(store, key, KID, V1, DELETE, b"", b"", b"", b"deleted key")
    store.hset(key, b"f:" + OTHER, b"mark")
    kept = {b"x:" + KID: b"deleted key", b"f:" + OTHER: b"mark"}
    assert declare(store, key, b"", V1, DELETE, b"", b"", b"", b"deleted account") == 1
    assert store.hgetall(key) == {**kept, b"x:": b"deleted account"}
    assert read(store, key, KID, OTHER)[1:] == [
        *(None, None, b"deleted account"),
        *(None, None, None, b"deleted key"),
        *(None, None, b"mark", None),
    ]
    assert declare(store, key, b"", NONE, V1) == 1
    assert store.hgetall(key) == {**kept, b"version": V1, b"account": b"{}"}
    assert declare(store, key, KID, NONE, V1) == 1
    assert not store.hexists(key, b"x:" + KID)


@pytest.mark.parametrize("kid", [b"", KID], ids=["account", "key"])
def test_a_node_that_takes_a_policy_for_lost_leaves_a_deleted_one_alone(
    store: redis.Redis, key: str, kid: bytes
) -> None:
    assert declare(store, key, kid, LOST, V1) == 1
    assert declare(store, key, kid, LOST, V2) == 0
    assert declare(store, key, kid, V1, DELETE, b"", b"", b"", b"deleted") == 1
    assert declare(store, key, kid, LOST, V2) == 4
    assert store.hgetall(key) == {b"x:" + kid: b"deleted"}
    assert declare(store, key, kid, NONE, V2) == 1


def test_the_index_of_names_follows_the_keys(store: redis.Redis, key: str) -> None:
    assert declare(store, key, KID, NONE, V1, b"{}", b"alice") == 1
    assert declare(store, key, OTHER, NONE, V1, b"{}", b"alice") == 2
    assert not store.hexists(key, OTHER)
    assert declare(store, key, KID, V1, V2, b"{}", b"alice", b"alice") == 1
    assert store.hget(key, b"n:alice") == KID
    assert declare(store, key, KID, V2, V1, b"{}", b"bob", b"alice") == 1
    assert (store.hget(key, b"n:alice"), store.hget(key, b"n:bob")) == (None, KID)
    assert declare(store, key, OTHER, NONE, V1, b"{}", b"alice") == 1
    # The index entry of another key stays, whatever the caller takes for the former name.
    assert declare(store, key, KID, V1, V2, b"{}", b"", b"alice") == 1
    assert store.hget(key, b"n:alice") == OTHER
    assert declare(store, key, OTHER, V1, DELETE, b"", b"", b"alice") == 1
    assert store.hkeys(key) == [KID, b"k:" + KID, b"n:bob"]


def test_the_name_of_a_key_that_is_gone_is_free(store: redis.Redis, key: str) -> None:
    """Nodes of earlier versions delete keys without their names."""
    assert declare(store, key, KID, NONE, V1, b"{}", b"alice") == 1
    store.hdel(key, KID, b"k:" + KID)
    assert declare(store, key, OTHER, NONE, V1, b"{}", b"alice") == 1
    assert store.hget(key, b"n:alice") == OTHER


@pytest.mark.parametrize("is_flat", [False, True], ids=["key of an account", "key that is one"])
@pytest.mark.parametrize("version", [V2, DELETE], ids=["written", "deleted"])
def test_a_key_that_has_moved_stays_away(
    store: redis.Redis, key: str, account: PathsDriver, is_flat: bool, version: bytes
) -> None:
    kid, moved = (b"", account.tag.encode()) if is_flat else (KID, KID)
    store.hset(key, b"f:" + moved, b"mark")
    before = store.hgetall(key)
    for expected in (ANY, NONE):
        assert declare(store, key, kid, expected, version) == 3
        assert declare(store, key, kid, expected, version, b"{}", b"", b"", b"", b"another mark") == 3
    assert store.hgetall(key) == before
    # Whoever knows that it isn't where it went brings it back.
    assert declare(store, key, kid, NONE, V2, b"{}", b"", b"", b"", b"mark") == 1
    assert not store.hexists(key, b"f:" + moved)


@pytest.mark.parametrize(
    ("stored", "known", "done"), [(V1, V1, 1), (V1, b"", 1), (V2, V1, 0), (None, V1, 0), (None, b"", 1)]
)
def test_a_key_is_written_into_the_account_that_it_was_made_for(
    store: redis.Redis, key: str, stored: bytes | None, known: bytes, done: int
) -> None:
    if stored is not None:
        declare(store, key, b"", NONE, stored)
    assert declare(store, key, KID, NONE, V2, b"{}", b"", b"", b"", b"", known) == done
    assert store.hexists(key, KID) == bool(done)
