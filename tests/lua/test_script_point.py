"""`point.lua`: where the digest of a credential may lead, and when that way is taken away."""

from __future__ import annotations

from typing import Any

import pytest
import redis
from script_driver import Window

from limiter_node.credentials import key_id
from limiter_node.store.keyspace import deleted_key, limits_key
from limiter_node.store.scripts import load_script

POINT = load_script("point")
OTHER = "b" * 32
HERE, THERE = "@here", "@there"

Value = bytes | dict[bytes, bytes] | None


@pytest.fixture
def cid(store: redis.Redis, open_window: Any) -> str:
    """Return a digest that leads nowhere; the store knows the script."""
    store.script_load(POINT.source.decode())
    window: Window = open_window()
    store.delete(limits_key(window.kid))
    return window.kid


def put(store: redis.Redis, cid: str, pointer: str, mark: str | None) -> None:
    """Store a pointer: ``plain``, ``own:TAG``, ``TAG:KID`` or nothing; and a mark."""
    if pointer == "plain":
        store.set(limits_key(cid), b"x" * 16)
    elif pointer.startswith("own:"):
        store.hset(limits_key(cid), "account", pointer.removeprefix("own:"))
    elif pointer:
        tag, _, kid = pointer.partition(":")
        store.hset(limits_key(cid), mapping={"tag": tag, "kid": kid})
    if mark is not None:
        store.set(deleted_key(cid), mark)


def stored(store: redis.Redis, cid: str) -> tuple[Value, bytes | None]:
    kind = store.type(limits_key(cid))
    value: Any = store.get(limits_key(cid)) if kind == b"string" else store.hgetall(limits_key(cid)) or None
    mark: Any = store.get(deleted_key(cid))
    return value, mark


def point(store: redis.Redis, cid: str, tag: str, kid: str, *, is_new: bool = False) -> int:
    reply: Any = store.evalsha(POINT.sha.decode(), 2, limits_key(cid), deleted_key(cid), tag, kid, int(is_new))
    assert isinstance(reply, int)
    return reply


@pytest.mark.parametrize(
    ("pointer", "mark", "of_key", "is_new", "done"),
    [
        ("", None, "own", False, 1),
        ("", None, "own", True, 1),
        ("", None, "other", False, 1),
        ("", None, "other", True, 1),
        ("plain", None, "own", False, 1),
        ("plain", None, "own", True, 0),
        ("plain", None, "other", False, 0),
        (f"own:{HERE}", None, "own", False, 1),
        (f"own:{HERE}", None, "own", True, 1),
        (f"own:{THERE}", None, "own", False, 1),
        (f"own:{THERE}", None, "own", True, 0),
        (f"own:{HERE}", None, "other", False, 0),
        (f"{HERE}:{OTHER}", None, "own", False, 0),
        (f"{HERE}:{OTHER}", None, "other", False, 1),
        (f"{HERE}:{OTHER}", None, "other", True, 1),
        (f"{THERE}:{OTHER}", None, "other", False, 1),
        (f"{THERE}:{OTHER}", None, "other", True, 0),
        ("", "", "own", False, 1),
        ("", "", "own", True, 1),
        ("", "", "other", False, 0),
        ("", "{cid}", "own", True, 1),
        ("", "{cid}", "other", True, 0),
        ("", OTHER, "own", False, 0),
        ("", OTHER, "other", True, 1),
        ("", "revoked:{cid}", "own", False, 1),
        ("", "revoked:{cid}", "own", True, 0),
        ("", f"revoked:{OTHER}", "own", False, 0),
        ("", f"revoked:{OTHER}", "other", False, 1),
        ("", f"revoked:{OTHER}", "other", True, 0),
    ],
)
def test_a_digest_leads_to_its_key_and_to_no_other(
    store: redis.Redis, cid: str, pointer: str, mark: str | None, of_key: str, is_new: bool, done: int
) -> None:
    put(store, cid, pointer, None if mark is None else mark.format(cid=cid))
    before = stored(store, cid)
    kid = cid if of_key == "own" else OTHER
    assert point(store, cid, HERE, kid, is_new=is_new) == done
    if not done:
        assert stored(store, cid) == before
    elif kid == cid:
        assert stored(store, cid) == ({b"account": HERE.encode()}, None)
    else:
        assert stored(store, cid) == ({b"tag": HERE.encode(), b"kid": OTHER.encode()}, None)


@pytest.mark.parametrize(
    ("pointer", "mark", "of_key", "done"),
    [
        (f"own:{HERE}", "{cid}", "own", 1),
        (f"own:{HERE}", "", "own", 1),
        (f"own:{HERE}", "revoked:{cid}", "own", 1),
        (f"own:{HERE}", None, "own", 0),
        (f"{HERE}:{OTHER}", OTHER, "other", 1),
        (f"{HERE}:{OTHER}", f"revoked:{OTHER}", "other", 1),
        (f"{HERE}:{OTHER}", None, "other", 0),
        (f"{HERE}:{OTHER}", OTHER, "own", 0),
        (f"{HERE}:{OTHER}", "{cid}", "own", 0),
        (f"own:{HERE}", "{cid}", "other", 0),
        ("", "{cid}", "own", 0),
    ],
)
def test_a_way_goes_only_with_the_mark_of_its_key(
    store: redis.Redis, cid: str, pointer: str, mark: str | None, of_key: str, done: int
) -> None:
    put(store, cid, pointer, None if mark is None else mark.format(cid=cid))
    value, marked = stored(store, cid)
    assert point(store, cid, "", cid if of_key == "own" else OTHER) == done
    assert stored(store, cid) == (None if done else value, marked)


def test_a_key_and_its_digest_are_of_the_same_form() -> None:
    assert len(OTHER) == len(key_id("secret"))
