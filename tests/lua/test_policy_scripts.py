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
ANY, NONE, DELETE = b"*", b"", b""


@pytest.fixture
def key(store: redis.Redis, account: PathsDriver) -> str:
    """Return the key that holds the policies of a new account; the store knows the scripts."""
    for script in (DECLARE, POLICY):
        store.script_load(script.source.decode())
    return account.policy_key


def declare(store: redis.Redis, key: str, kid: bytes, expected: bytes, version: bytes, body: bytes = b"{}") -> Any:
    return store.evalsha(DECLARE.sha.decode(), 1, key, kid, expected, version, body)


def read(store: redis.Redis, key: str, *kids: bytes) -> Any:
    return store.evalsha_ro(POLICY.sha.decode(), 1, key, *kids)


def test_what_is_declared_is_read(store: redis.Redis, key: str) -> None:
    assert read(store, key, KID) is None
    assert declare(store, key, b"", NONE, V1, b"account body") == 1
    assert declare(store, key, KID, NONE, V2, b"key body") == 1
    time_ms, *found = read(store, key, KID, OTHER)
    seconds, microseconds = store.time()
    assert 0 <= seconds * 1000 + microseconds // 1000 - time_ms < 60_000
    assert found == [V1, b"account body", V2, b"key body", None, None]
    assert read(store, key)[1:] == [V1, b"account body"]
    assert store.hgetall(key) == {b"version": V1, b"account": b"account body", KID: V2, b"k:" + KID: b"key body"}
    assert store.ttl(key) == -1


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
    assert declare(store, key, kid, expected, version, b"after") == done
    if not done:
        assert store.hgetall(key) == before
        return
    found = read(store, key, KID)
    if version == DELETE:
        assert found is None if not kid else found[3:] == [None, None]
    else:
        assert (found[3:] if kid else found[1:3]) == [V2, b"after"]


def test_an_account_is_deleted_with_its_keys(store: redis.Redis, key: str) -> None:
    declare(store, key, b"", NONE, V1)
    declare(store, key, KID, NONE, V1)
    assert declare(store, key, b"", V1, DELETE) == 1
    assert not store.exists(key)
