"""The hottest keys of a store, found among thousands a bounded piece at a time; and the store looked at while parts of
it are away."""

from __future__ import annotations

import asyncio
import re
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

import pytest
import pytest_asyncio
from node_commands import eventually
from raw_server import RawServer
from redis.asyncio import Redis

from limiter_node.credentials import key_id
from limiter_node.limits import BUCKET_MS, KeyLimits
from limiter_node.store.admin import hottest, plain_heat
from limiter_node.store.admin.hottest import Hottest, HottestKeys
from limiter_node.store.admin.masters import Masters
from limiter_node.store.admin.store_admin import administering
from limiter_node.store.admin.watch import StoreReading, StoreWatch
from limiter_node.store.codec import pack_batch, pack_charge
from limiter_node.store.embedded.stores import EmbeddedStore
from limiter_node.store.keyspace import limits_key, past_key, window_key
from limiter_node.store.scripts import load_script
from limiter_node.store.url import parse_store_url
from limiter_node.store.values import pack_limits

LIMIT = 10
KEYS = 2_000
HOT = [key_id(f"hot-{rank}") for rank in range(10)]
"""Far above their limit, so that no key of another test is hotter: they share the store."""
STALE = [key_id(f"stale-{number}") for number in range(150)]
"""Their sums are higher still, but most of what is in them has left the window."""
OTHERS = [key_id(f"other-{number}") for number in range(KEYS - len(HOT) - len(STALE))]


async def fill(
    masters: Masters, kids: Iterable[str], charges: list[tuple[int, int]], clock_ms: int = 0, node: str = "a"
) -> None:
    """Have requests charged to a key: so many, so many seconds ago; decided at `clock_ms` (0: now)."""
    script, now_ms = load_script("decide"), int(time.time() * 1000)
    batch = pack_batch(
        1,
        [pack_charge((now_ms - ago_s * 1000) // BUCKET_MS, requests, 0, 0) for requests, ago_s in charges],
        resent=False,
        clock_ms=clock_ms,
    )
    by_owner: dict[Redis, list[str]] = defaultdict(list)
    for kid in kids:
        by_owner[masters.owner(limits_key(kid))].append(kid)
    for client, owned in by_owner.items():
        await client.script_load(script.source.decode())
        async with client.pipeline(transaction=False) as pipeline:
            for kid in owned:
                pipeline.set(limits_key(kid), pack_limits(KeyLimits(rpm=LIMIT, name=kid[:4])))
                keys = (limits_key(kid), window_key(kid), past_key(kid))
                pipeline.execute_command("EVALSHA", script.sha, 3, *keys, node, batch)
            await pipeline.execute()


async def forget(masters: Masters, kids: Iterable[str]) -> None:
    for kid in kids:
        await masters.owner(limits_key(kid)).delete(limits_key(kid), window_key(kid), past_key(kid))


@asynccontextmanager
async def two_thousand_keys(url: str) -> AsyncIterator[Masters]:
    masters = Masters(parse_store_url(url))
    await masters.discover()
    try:
        await fill(masters, OTHERS, [(1, 5)])
        for rank, kid in enumerate(HOT):
            await fill(masters, [kid], [(10_000 - 100 * rank, 20), (5, 1)])
        then_ms = int(time.time() * 1000) - 30_000
        await fill(masters, STALE, [(50_000, 80), (1, 30)], then_ms)
        yield masters
    finally:
        await forget(masters, [*HOT, *STALE, *OTHERS])
        await masters.close()


@asynccontextmanager
async def watching(url: str, most_keys: int = 10) -> AsyncIterator[StoreWatch]:
    watch = StoreWatch(parse_store_url(url), most_keys=most_keys, timeout_s=20)
    try:
        yield watch
    finally:
        await watch.close()


async def walked(watch: StoreWatch) -> tuple[StoreReading, int]:
    """The first look that has seen everything, and how many it took."""
    for looks in range(1, 100):
        reading = await watch.look()
        assert not any(shard.problem for shard in reading.shards)
        if reading.walk.is_whole:
            return reading, looks
    raise AssertionError("the walk doesn't end")


def kids(reading: StoreReading) -> list[str]:
    return [each.kid for each in reading.hottest]


async def test_the_hottest_of_two_thousand_keys_are_found_and_cool_down(url: str) -> None:
    async with two_thousand_keys(url) as masters, watching(url) as watch:
        reading, looks = await walked(watch)
        assert kids(reading) == HOT
        assert [each.used.requests for each in reading.hottest] == [10_005 - 100 * rank for rank in range(10)]
        assert all(each.is_exact and each.name == each.kid[:4] for each in reading.hottest)
        assert reading.walk.seen >= KEYS
        assert looks >= reading.walk.seen // len(reading.shards) // hottest.MAX_SURVEYED

        await forget(masters, HOT[:1])  # its usage has gone
        async with administering(parse_store_url(url)) as admin:
            await admin.put_limits(HOT[1], KeyLimits(rpm=1_000_000))
        assert kids(await watch.look())[:8] == HOT[2:]
        await fill(masters, OTHERS[:1], [(20_000, 1)], node="b")
        await eventually(lambda: _first_is(watch, OTHERS[0]), 20)


async def _first_is(watch: StoreWatch, kid: str) -> bool:
    return kids(await watch.look())[0] == kid


async def test_a_look_is_bounded(own_store: EmbeddedStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hottest, "MAX_SURVEYED", 200)
    monkeypatch.setattr(plain_heat, "MAX_PEEKED", 7)
    async with two_thousand_keys(own_store.url), client_of(own_store.url) as client:
        keys = HottestKeys(3)
        await client.config_resetstat()
        calls, peeks, looks = 0, 0, 0
        while not keys.walk.is_whole:
            await keys.look(client)
            before, calls = calls, await calls_of(client, "hget")
            assert keys.peeks <= 7
            assert calls - before <= 200 + keys.peeks  # a peek makes one, too
            peeks, looks = peeks + keys.peeks, looks + 1
        assert looks >= KEYS / 200
        # Most keys are known by their sums; only what could be among the hottest is added up.
        assert peeks <= await calls_of(client, "evalsha_ro") + await calls_of(client, "eval_ro") <= peeks + 5
        assert 0 < peeks < KEYS / 10


async def test_a_store_without_the_script_is_given_it(embedded_single: str) -> None:
    async with two_thousand_keys(embedded_single), client_of(embedded_single) as client:
        await client.script_flush()
        keys, found = HottestKeys(10), Hottest([], [])
        while not keys.walk.is_whole:
            found = await keys.look(client)
        assert [each.kid for each in found.keys[:10]] == HOT


@asynccontextmanager
async def client_of(url: str) -> AsyncIterator[Redis]:
    async with parse_store_url(url).node_client(*parse_store_url(url).endpoints[0]) as client:
        yield client


async def calls_of(client: Redis, command: str) -> int:
    statistics = await client.info("commandstats")
    return int(statistics.get(f"cmdstat_{command}", {"calls": 0})["calls"])


async def test_shards_tell_of_themselves(url: str) -> None:
    async with watching(url, most_keys=0) as watch:
        reading = await watch.look()
    assert [shard.problem for shard in reading.shards] == [""] * (3 if "cluster" in url else 1)
    assert [shard.address for shard in reading.shards] == [f"127.0.0.1:{p}" for _, p in parse_store_url(url).endpoints]
    for shard in reading.shards:
        assert shard.replicas == 0
        assert shard.cpu_s is not None
        assert shard.memory_bytes is not None
        assert shard.memory_bytes > 100_000
    assert reading.hottest == ()


@pytest_asyncio.fixture
async def own_store() -> AsyncIterator[EmbeddedStore]:
    async with EmbeddedStore("single") as store:
        yield store


async def test_a_store_that_was_away_is_found_again(own_store: EmbeddedStore) -> None:
    async with watching(own_store.url) as watch:
        assert (await watch.look()).shards[0].problem == ""
        own_store.servers[0].kill()
        assert (await watch.look()).shards[0].problem == "connection refused"
        own_store.servers[0].start()

        async def is_back() -> bool:
            return (await watch.look()).shards[0].problem == ""

        await eventually(is_back)


async def test_what_a_user_may_not_do_is_missing_or_told(own_store: EmbeddedStore) -> None:
    async with client_of(own_store.url) as client:
        for name, rules in (("some", ["+@all", "-info"]), ("few", ["+ping", "+info", "+dbsize", "+client", "+auth"])):
            await client.execute_command("ACL", "SETUSER", name, "on", ">secret", "~*", *rules)
    async with watching(own_store.url.replace("://", "://some:secret@")) as watch:
        (shard,) = (await watch.look()).shards
        assert (shard.problem, shard.ops_per_s, shard.replicas) == ("", None, None)
    async with watching(own_store.url.replace("://", "://few:secret@")) as watch:
        (shard,) = (await watch.look()).shards
        assert "does not permit this" in shard.problem
    async with watching(own_store.url.replace("://", "://some:wrong@")) as watch:
        (shard,) = (await watch.look()).shards
        assert "refuses the login" in shard.problem
        assert "wrong" not in shard.problem


async def test_the_wrong_kind_of_store_is_told(embedded_cluster: str, embedded_single: str, free_port: int) -> None:
    host, port = parse_store_url(embedded_cluster).endpoints[0]
    async with watching(f"redis://{host}:{port}") as watch:
        assert "use redis+cluster://" in (await watch.look()).shards[0].problem
    async with watching(embedded_single.replace("redis://", "redis+cluster://")) as watch:
        reading = await watch.look()
        assert reading.shards == ()
        assert "is not a cluster: use redis://" in reading.problem
    async with watching(f"redis+cluster://127.0.0.1:{free_port}") as watch:
        assert (await watch.look()).problem == "connection refused"
    async with watching(embedded_single.replace("redis://", "rediss://")) as watch:
        assert "TLS" in (await watch.look()).shards[0].problem
    async with watching("redis://no.such.host.invalid") as watch:
        assert re.search(r"name|node", (await watch.look()).shards[0].problem)


async def test_a_silent_server_of_a_cluster_does_not_hide_the_others(embedded_cluster: str) -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    async with RawServer(silent) as server:
        url = embedded_cluster.replace("://", f"://127.0.0.1:{server.port},")
        watch = StoreWatch(parse_store_url(url), most_keys=1, timeout_s=20)
        reading = await watch.look()
        await watch.close()
    assert len(reading.shards) == 3
    assert not reading.problem
