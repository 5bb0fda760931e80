"""``redeclare.lua`` as literal cases on both stores: what comes back, and what stays as it is."""

from __future__ import annotations

import re

import pytest
import redis

from limiter_node.credentials import key_id
from limiter_node.limits import KeyLimits
from limiter_node.store.keyspace import ACCOUNT_FIELD, deleted_key, limits_key
from limiter_node.store.scripts import load_script
from limiter_node.store.values import pack_limits

REDECLARE = load_script("redeclare")
PLAIN, OTHER = pack_limits(KeyLimits(rpm=1)), pack_limits(KeyLimits(rpm=2))
KID = key_id("sk-redeclared")
DELETED, POINTED, WAS_POINTED, ELSEWHERE = range(4)


def redeclare(store: redis.Redis, *arguments: str | bytes) -> object:
    return store.eval(REDECLARE.source.decode(), 2, limits_key(KID), deleted_key(KID), *arguments)


def put(store: redis.Redis, value: bytes | str | None, *, is_deleted: bool) -> None:
    store.delete(limits_key(KID), deleted_key(KID))
    if isinstance(value, bytes):
        store.set(limits_key(KID), value)
    elif value is not None:
        store.hset(limits_key(KID), ACCOUNT_FIELD, value)
    if is_deleted:
        store.set(deleted_key(KID), b"")


def stored(store: redis.Redis) -> bytes | str | None:
    if store.type(limits_key(KID)) != b"hash":
        value = store.get(limits_key(KID))
        assert value is None or isinstance(value, bytes)
        return value
    tag = store.hget(limits_key(KID), ACCOUNT_FIELD)
    assert isinstance(tag, bytes)
    return tag.decode()


@pytest.mark.parametrize(
    ("before", "is_deleted", "reply", "after"),
    [(None, False, 1, PLAIN), (OTHER, False, 1, OTHER), (None, True, 0, None)],
)
def test_plain_limits_come_back_unless_there_are_some_or_a_mark(
    store: redis.Redis, before: bytes | None, is_deleted: bool, reply: int, after: bytes | None
) -> None:
    put(store, before, is_deleted=is_deleted)
    assert redeclare(store, PLAIN) == reply
    assert stored(store) == after


@pytest.mark.parametrize(
    ("before", "is_deleted", "stale", "reply", "after"),
    [
        (None, False, "", POINTED, "@acme"),
        (None, False, "@beta", POINTED, "@acme"),
        (None, True, "", DELETED, None),
        ("@acme", False, "", WAS_POINTED, "@acme"),
        ("@acme", False, "@acme", WAS_POINTED, "@acme"),
        ("@beta", False, "", ELSEWHERE, "@beta"),
        ("@beta", False, "@beta", POINTED, "@acme"),
        ("@beta", True, "@beta", DELETED, "@beta"),
        ("@gamma", False, "@beta", ELSEWHERE, "@gamma"),
        (PLAIN, False, "", ELSEWHERE, PLAIN),
        (PLAIN, False, "@beta", ELSEWHERE, PLAIN),
    ],
)
def test_the_way_to_an_account_comes_back_unless_the_key_is_elsewhere_or_deleted(
    store: redis.Redis, before: bytes | str | None, is_deleted: bool, stale: str, reply: int, after: bytes | str | None
) -> None:
    put(store, before, is_deleted=is_deleted)
    seconds, _ = store.time()
    found, now_ms = redeclare(store, "", "@acme", stale)  # type: ignore[misc]
    assert found == reply
    assert 0 <= now_ms - seconds * 1000 < 60_000
    assert stored(store) == after


def test_the_header_documents_keys_and_arguments() -> None:
    header, _, code = REDECLARE.source.decode().partition("\n\n")
    documented = re.findall(r"rl:\{kid\}:\w+", header.partition("KEYS")[2].partition("ARGV")[0])
    assert documented == [limits_key("kid"), deleted_key("kid")]
    for name, count in (("KEYS", 2), ("ARGV", 3)):
        assert set(re.findall(rf"{name}\[(\d)\]", code)) == {str(n + 1) for n in range(count)}
