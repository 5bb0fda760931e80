"""``put_plain.lua``: a plain key's limits and the record of its declarations are written over what the caller knows."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import redis

from limiter_node.credentials import key_id
from limiter_node.store.keyspace import declared_key, deleted_key, limits_key
from limiter_node.store.scripts import load_script

SCRIPT = load_script("put_plain")
ANY, NONE, STAY = b"*", b"", b""

_count = itertools.count()


class Key:
    """One plain key's values in the store."""

    def __init__(self, store: redis.Redis) -> None:
        self._store = store
        self.kid = key_id(f"sk-put-plain-{next(_count)}")
        self.names = [name(self.kid) for name in (limits_key, deleted_key, declared_key)]

    def put(self, limits: bytes, record: bytes, new_limits: bytes, new_record: bytes, back: int = 0) -> Any:
        return self._store.evalsha(SCRIPT.sha.decode(), 3, *self.names, limits, record, new_limits, new_record, back)

    def set(self, *values: bytes | None) -> None:
        for name, value in zip(self.names, values, strict=True):
            if value is not None:
                self._store.set(name, value)

    @property
    def values(self) -> list[bytes | None]:
        found: Any = self._store.mget(self.names)
        return list(found)


@pytest.fixture
def key(store: redis.Redis) -> Key:
    store.script_load(SCRIPT.source.decode())
    return Key(store)


def test_a_new_key_is_written_with_its_record(store: redis.Redis, key: Key) -> None:
    assert key.put(NONE, NONE, b"limits", b"record") == 1
    assert key.values == [b"limits", None, b"record"]
    assert [store.ttl(name) for name in key.names] == [-1, -2, -1]


@pytest.mark.parametrize(
    ("limits", "record", "done"),
    [
        (b"limits", b"record", 1),
        (ANY, b"record", 1),
        (b"limits", ANY, 1),
        (NONE, b"record", 0),
        (b"limits", NONE, 0),
        (b"other", b"record", 0),
        (b"limits", b"other", 0),
    ],
)
def test_only_what_the_caller_knows_is_replaced(key: Key, limits: bytes, record: bytes, done: int) -> None:
    key.set(b"limits", None, b"record")
    assert key.put(limits, record, b"new limits", b"new record") == done
    assert key.values == ([b"new limits", None, b"new record"] if done else [b"limits", None, b"record"])


def test_what_is_empty_stays(key: Key) -> None:
    key.set(b"limits", None, b"record")
    assert key.put(ANY, ANY, STAY, b"new record") == 1
    assert key.put(ANY, ANY, b"new limits", STAY) == 1
    assert key.values == [b"new limits", None, b"new record"]


@pytest.mark.parametrize("is_revoked", [False, True])
@pytest.mark.parametrize("is_old", [False, True])
def test_a_deleted_key_comes_back_only_on_purpose(key: Key, is_revoked: bool, is_old: bool) -> None:
    mark = b"" if is_old else b"revoked:" * is_revoked + key.kid.encode()
    key.set(None, mark, b"record")
    assert key.put(NONE, b"record", b"limits", b"new record") == 0
    assert key.values == [None, mark, b"record"]
    assert key.put(NONE, b"record", b"limits", b"new record", 1) == 1
    assert key.values == [b"limits", None, b"new record"]


@pytest.mark.parametrize("prefix", [b"", b"revoked:"])
def test_another_keys_credential_stays_its(key: Key, prefix: bytes) -> None:
    mark = prefix + b"0" * 32
    key.set(None, mark, None)
    assert key.put(ANY, ANY, b"limits", b"record", 1) == 3
    assert key.values == [None, mark, None]


@pytest.mark.parametrize("value", [{"account": "@acme"}, {"tag": "@acme", "kid": "0" * 32}])
def test_a_key_of_an_account_is_left_alone(store: redis.Redis, key: Key, value: dict[str, str]) -> None:
    store.hset(key.names[0], mapping=value)  # type: ignore[arg-type]
    assert key.put(ANY, ANY, b"limits", b"record", 1) == 2
    assert store.hgetall(key.names[0]) == {name.encode(): each.encode() for name, each in value.items()}
    assert not store.exists(*key.names[1:])
