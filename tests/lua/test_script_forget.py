"""`forget.lua`: the windows of deleted keys and accounts go, those of any other stay."""

from __future__ import annotations

from typing import Any

import pytest
import redis
from paths_driver import PathsDriver

from limiter_node.store.keyspace import member_key, shared_key
from limiter_node.store.scripts import load_script

FORGET = load_script("forget")
KID = "a" * 32
KEPT = {b"c": b"clock", b"n": b"nodes", b"node-id1": b"record"}
WINDOWS = {b"windo1": b"meta", b"windo1\x03": b"group", b"windo2": b"meta"}


def forget(store: redis.Redis, account: PathsDriver, kid: str) -> int:
    store.script_load(FORGET.source.decode())
    windows = member_key(account.tag, kid) if kid else shared_key(account.tag)
    reply: Any = store.evalsha(FORGET.sha.decode(), 2, account.policy_key, windows, kid)
    assert isinstance(reply, int)
    return reply


@pytest.mark.parametrize("field", ["version", KID])
def test_windows_of_what_is_there_stay(store: redis.Redis, account: PathsDriver, field: str) -> None:
    kid = "" if field == "version" else KID
    name = member_key(account.tag, kid) if kid else shared_key(account.tag)
    store.hset(account.policy_key, field, b"version1")
    store.hset(name, mapping={**KEPT, **WINDOWS})
    assert forget(store, account, kid) == 0
    assert store.hgetall(name) == {**KEPT, **WINDOWS}


def test_windows_of_a_deleted_account_go_without_clock_and_records(store: redis.Redis, account: PathsDriver) -> None:
    store.hset(account.policy_key, "x:", b"{}")
    many = {f"{at:06}".encode(): b"meta" for at in range(2_500)}
    store.hset(shared_key(account.tag), mapping={**KEPT, **WINDOWS, **many})
    assert forget(store, account, "") == 1
    assert store.hgetall(shared_key(account.tag)) == KEPT


def test_windows_of_a_deleted_key_go(store: redis.Redis, account: PathsDriver) -> None:
    store.hset(account.policy_key, "version", b"version1")
    store.hset(member_key(account.tag, KID), mapping=WINDOWS)
    store.hset(shared_key(account.tag), mapping={**KEPT, **WINDOWS})
    assert forget(store, account, KID) == 1
    assert not store.exists(member_key(account.tag, KID))
    assert store.hgetall(shared_key(account.tag)) == {**KEPT, **WINDOWS}
