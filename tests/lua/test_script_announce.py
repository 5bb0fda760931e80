"""``announce.lua`` as literal cases on both stores: who counts, and which storage format."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
import redis

from limiter_node.store.fleet import OLDEST_MS
from limiter_node.store.keyspace import FORMAT_KEY, NODES_KEY
from limiter_node.store.scripts import load_script

ANNOUNCE = load_script("announce")
KEYS = (NODES_KEY, FORMAT_KEY)
LEAVING, HERE, ASKING = 0, 1, 2


@pytest.fixture
def nodes(store: redis.Redis) -> Iterator[redis.Redis]:
    """A store to which no node has announced itself."""
    store.delete(*KEYS)
    yield store
    store.delete(*KEYS)


def announce(store: redis.Redis, node: str, here: int = HERE, storage_format: int = 1) -> object:
    return store.eval(ANNOUNCE.source.decode(), 2, *KEYS, node, here, OLDEST_MS, storage_format)


def now_ms(store: redis.Redis) -> int:
    seconds, micros = store.time()
    return int(seconds * 1000 + micros // 1000)


def stored(store: redis.Redis) -> list[bytes | None]:
    return [store.dump(key) for key in KEYS]


def test_nodes_that_are_there_count_once(nodes: redis.Redis) -> None:
    assert [announce(nodes, node) for node in ("a", "b", "a", "c")] == [1, 2, 2, 3]
    assert announce(nodes, "b", LEAVING) == 2
    assert announce(nodes, "b", LEAVING) == 2
    assert set(nodes.hkeys(NODES_KEY)) == {b"a", b"c"}


@pytest.mark.parametrize("age_ms", [OLDEST_MS + 1, -OLDEST_MS - 60_000], ids=["old", "of a clock that stepped back"])
def test_nodes_that_are_gone_are_forgotten(nodes: redis.Redis, age_ms: int) -> None:
    nodes.hset(NODES_KEY, mapping={"gone": now_ms(nodes) - age_ms, "there": now_ms(nodes)})
    assert announce(nodes, "a") == 2
    assert set(nodes.hkeys(NODES_KEY)) == {b"a", b"there"}


def test_the_first_node_sets_the_format_and_the_last_one_takes_it_along(nodes: redis.Redis) -> None:
    assert announce(nodes, "a", storage_format=2) == 1
    assert nodes.get(FORMAT_KEY) == b"2"
    assert announce(nodes, "b", storage_format=2) == 2
    assert announce(nodes, "a", LEAVING, storage_format=2) == 1
    assert nodes.get(FORMAT_KEY) == b"2"
    assert announce(nodes, "b", LEAVING, storage_format=2) == 0
    assert nodes.exists(*KEYS) == 0
    assert announce(nodes, "c", storage_format=1) == 1
    assert nodes.get(FORMAT_KEY) == b"1"


def test_both_keys_expire_together(nodes: redis.Redis) -> None:
    for _ in range(2):
        announce(nodes, "a")
        lives = [nodes.pttl(key) for key in KEYS]
        assert all(2 * OLDEST_MS - 2_000 < life <= 2 * OLDEST_MS for life in lives), lives
        for key in KEYS:
            nodes.persist(key)


@pytest.mark.parametrize(("theirs", "ours"), [(1, 2), (2, 1)])
def test_another_format_is_refused_and_changes_nothing(nodes: redis.Redis, theirs: int, ours: int) -> None:
    announce(nodes, "a", storage_format=theirs)
    nodes.hset(NODES_KEY, "gone", 1)
    before = stored(nodes)
    for here in (HERE, ASKING):
        assert announce(nodes, "b", here, storage_format=ours) == b"%d" % theirs
    assert stored(nodes) == before


def test_nodes_that_announce_no_format_use_the_first(nodes: redis.Redis) -> None:
    nodes.hset(NODES_KEY, "from before", now_ms(nodes))
    assert announce(nodes, "b", storage_format=2) == b"1"
    assert nodes.hkeys(NODES_KEY) == [b"from before"]
    assert announce(nodes, "b", storage_format=1) == 2
    assert nodes.get(FORMAT_KEY) == b"1"


def test_the_format_of_nodes_that_are_gone_binds_nobody(nodes: redis.Redis) -> None:
    nodes.set(FORMAT_KEY, 1)
    nodes.hset(NODES_KEY, "gone", now_ms(nodes) - OLDEST_MS - 1)
    assert announce(nodes, "b", storage_format=2) == 1
    assert nodes.get(FORMAT_KEY) == b"2"


def test_a_node_that_is_refused_leaves_the_others_as_they_are(nodes: redis.Redis) -> None:
    announce(nodes, "a", storage_format=2)
    nodes.hset(NODES_KEY, "b", now_ms(nodes))  # announced before the store had lost and got back its data, say
    assert announce(nodes, "b", storage_format=1) == b"2"
    assert announce(nodes, "b", LEAVING, storage_format=1) == 1
    assert (nodes.hkeys(NODES_KEY), nodes.get(FORMAT_KEY)) == ([b"a"], b"2")


def test_asking_writes_nothing(nodes: redis.Redis) -> None:
    assert announce(nodes, "", ASKING) == 0
    assert nodes.exists(*KEYS) == 0
    announce(nodes, "a")
    nodes.hset(NODES_KEY, "gone", 1)
    before = stored(nodes)
    assert announce(nodes, "", ASKING) == 1
    assert stored(nodes) == before


def test_the_header_documents_keys_and_arguments() -> None:
    source = ANNOUNCE.source.decode()
    header, _, code = source.partition("\n\n")
    documented = re.findall(r"rl:\{nodes\}(?:\S*)", header.partition("KEYS")[2].partition("ARGV")[0])
    assert documented == list(KEYS)
    for name, count in (("KEYS", 2), ("ARGV", 4)):
        assert set(re.findall(rf"{name}\[(\d)\]", code)) == {str(n + 1) for n in range(count)}
