"""``locate.lua``: all that is stored under the digest of a credential, in one reply."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import redis

from limiter_node.credentials import key_id
from limiter_node.store.keyspace import declared_key, deleted_key, limits_key
from limiter_node.store.scripts import load_script

SCRIPT = load_script("locate")

_count = itertools.count()


@pytest.fixture
def names(store: redis.Redis) -> list[str]:
    store.script_load(SCRIPT.source.decode())
    cid = key_id(f"sk-locate-{next(_count)}")
    return [name(cid) for name in (limits_key, deleted_key, declared_key)]


def locate(store: redis.Redis, names: list[str]) -> Any:
    return store.evalsha_ro(SCRIPT.sha.decode(), 3, *names)


def test_nothing(store: redis.Redis, names: list[str]) -> None:
    assert locate(store, names) == [None, None, None]


def test_a_plain_key(store: redis.Redis, names: list[str]) -> None:
    for name, value in zip(names, (b"limits", b"mark", b"declared"), strict=True):
        store.set(name, value)
    assert locate(store, names) == [b"mark", b"declared", b"limits"]


@pytest.mark.parametrize(
    ("value", "way"),
    [
        ({"account": "@acme"}, [b"@acme", None, None]),
        ({"tag": "@acme", "kid": "0" * 32}, [None, b"@acme", b"0" * 32]),
        ({"rpm": "many"}, [None, None, None]),
    ],
)
def test_a_way_to_an_account(store: redis.Redis, names: list[str], value: Any, way: list[bytes | None]) -> None:
    store.hset(names[0], mapping=value)
    store.set(names[1], b"mark")
    assert locate(store, names) == [b"mark", None, None, *way]


def test_a_damaged_value_counts_as_none(store: redis.Redis, names: list[str]) -> None:
    store.lpush(names[0], "x")
    assert locate(store, names) == [None, None, None]
