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
    found, now_ms, *mark = redeclare(store, "", "@acme", stale, "")  # type: ignore[misc]
    assert found == reply
    assert mark == ([b""] if found == DELETED else [])
    assert 0 <= now_ms - seconds * 1000 < 60_000
    assert stored(store) == after


FURTHER, ANOTHER = ("@acme", "k" * 32), ("@acme", "l" * 32)


def put_further(store: redis.Redis, tag: str, kid: str) -> None:
    put(store, None, is_deleted=False)
    store.hset(limits_key(KID), mapping={"tag": tag, "kid": kid})


@pytest.mark.parametrize(
    ("before", "stale", "reply", "after"),
    [
        (None, "", POINTED, FURTHER),
        (FURTHER, "", WAS_POINTED, FURTHER),
        (("@beta", FURTHER[1]), "", ELSEWHERE, ("@beta", FURTHER[1])),
        (("@beta", FURTHER[1]), "@beta", POINTED, FURTHER),
        (ANOTHER, "", ELSEWHERE, ANOTHER),
        (ANOTHER, "@acme", ELSEWHERE, ANOTHER),
    ],
)
def test_a_further_credential_leads_to_its_key_again_unless_it_is_anothers(
    store: redis.Redis, before: tuple[str, str] | None, stale: str, reply: int, after: tuple[str, str]
) -> None:
    put(store, None, is_deleted=False)
    if before is not None:
        put_further(store, *before)
    assert redeclare(store, "", "@acme", stale, FURTHER[1])[0] == reply  # type: ignore[index]
    tag, kid = after
    assert store.hgetall(limits_key(KID)) == {b"tag": tag.encode(), b"kid": kid.encode()}


def test_a_credential_of_another_key_never_becomes_a_key_nor_a_key_a_credential(store: redis.Redis) -> None:
    put_further(store, "@acme", FURTHER[1])
    assert redeclare(store, "", "@acme", "@acme", "")[0] == ELSEWHERE  # type: ignore[index]
    for value in ("@acme", PLAIN):
        put(store, value, is_deleted=False)
        assert redeclare(store, "", "@acme", "@acme", FURTHER[1])[0] == ELSEWHERE  # type: ignore[index]
        assert stored(store) == value


def test_the_mark_of_a_deletion_is_left_again_unless_there_is_a_key(store: redis.Redis) -> None:
    for value in ("@acme", PLAIN):
        put(store, value, is_deleted=False)
        assert redeclare(store, "", "", "", "revoked:" + KID)[0] == ELSEWHERE  # type: ignore[index]
        assert not store.exists(deleted_key(KID))
    put_further(store, "@acme", FURTHER[1])
    assert redeclare(store, "", "", "", KID)[0] == ELSEWHERE  # type: ignore[index]
    put(store, None, is_deleted=False)
    assert redeclare(store, "", "", "", "revoked:" + KID)[::2] == [DELETED, b"revoked:" + KID.encode()]  # type: ignore[index]
    assert redeclare(store, "", "", "", KID)[2] == b"revoked:" + KID.encode(), "a mark stays as it is"  # type: ignore[index]
    assert store.get(deleted_key(KID)) == b"revoked:" + KID.encode()
    assert store.ttl(deleted_key(KID)) == -1
    assert redeclare(store, PLAIN) == 0


@pytest.mark.parametrize("declared", [None, b"", b"a declaration"])
def test_a_plain_key_comes_back_with_its_declaration(store: redis.Redis, declared: bytes | None) -> None:
    keys = (limits_key(KID), deleted_key(KID), f"rl:{{{KID}}}:declared")
    store.delete(*keys)
    arguments = [PLAIN] if declared is None else [PLAIN, declared]
    for _ in range(2):
        assert store.eval(REDECLARE.source.decode(), 3, *keys, *arguments) == 1
        assert store.get(keys[2]) == (declared or None)
        store.set(keys[2], b"another") if declared else None
        declared = b"another" if declared else None


def test_the_header_documents_keys_and_arguments() -> None:
    header, _, code = REDECLARE.source.decode().partition("\n\n")
    documented = re.findall(r"rl:\{cid\}:\w+", header.partition("KEYS")[2].partition("ARGV")[0])
    assert documented == [limits_key("cid"), deleted_key("cid"), "rl:{cid}:declared"]
    for name, count in (("KEYS", 3), ("ARGV", 4)):
        assert set(re.findall(rf"{name}\[(\d)\]", code)) == {str(n + 1) for n in range(count)}
