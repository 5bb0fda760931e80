"""``limits.lua`` as literal cases on both stores: where a credential leads."""

from __future__ import annotations

from typing import Any

import pytest
import redis

from limiter_node.credentials import key_id
from limiter_node.limits import KeyLimits
from limiter_node.store.keyspace import limits_key
from limiter_node.store.scripts import load_script
from limiter_node.store.values import pack_limits

LIMITS = load_script("limits")
CID, KID = key_id("sk-further"), key_id("sk-first")
PLAIN = pack_limits(KeyLimits(rpm=7, name="é"))


@pytest.mark.parametrize(
    ("value", "found"),
    [
        (PLAIN, [PLAIN]),
        ({"account": "@acme"}, [b"", b"@acme", CID.encode()]),
        ({"account": CID}, [b"", CID.encode(), CID.encode()]),
        ({"tag": "@acme", "kid": KID}, [b"", b"@acme", KID.encode()]),
        ({"tag": KID, "kid": KID}, [b"", KID.encode(), KID.encode()]),
        ({"tag": "@acme"}, [b""]),
        ({"kid": KID}, [b""]),
        ({"other": "x"}, [b""]),
    ],
)
def test_what_a_credential_leads_to(store: redis.Redis, value: bytes | dict[str, str], found: list[bytes]) -> None:
    name = limits_key(CID)
    store.delete(name)
    if isinstance(value, bytes):
        store.set(name, value)
    else:
        store.hset(name, mapping=value)
    seconds, _ = store.time()
    limits, time_ms, *rest = store.eval_ro(LIMITS.source.decode(), 1, name)  # type: ignore[misc]
    assert [limits, *rest] == found
    assert 0 <= time_ms - seconds * 1000 < 60_000


def test_nothing(store: redis.Redis) -> None:
    store.delete(limits_key(CID))
    reply: Any = store.eval_ro(LIMITS.source.decode(), 1, limits_key(CID))
    assert reply is None


def test_a_value_of_another_type_is_an_error(store: redis.Redis) -> None:
    store.delete(limits_key(CID))
    store.lpush(limits_key(CID), "x")
    with pytest.raises(redis.exceptions.ResponseError, match="WRONGTYPE"):
        store.eval_ro(LIMITS.source.decode(), 1, limits_key(CID))
    store.delete(limits_key(CID))
