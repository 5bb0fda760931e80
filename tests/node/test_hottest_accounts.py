"""The tightest limits of accounts, teams and their keys, found among thousands a bounded piece at a time."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager

import pytest
from accounts_in_store import charge, put_account
from hypothesis import given
from hypothesis import strategies as st
from redis.asyncio import Redis
from store_tools import store_client

from limiter_node.credentials import key_id
from limiter_node.plans import PlannedWindow, stored_windows
from limiter_node.policy import AUDIT, AccountPolicy, KeyPolicy, Limit, PolicyWindow, Subject
from limiter_node.store.accounts.stored_window import unpack_clock, unpack_path_sums
from limiter_node.store.admin import limit_heat
from limiter_node.store.admin.heat import hottest
from limiter_node.store.admin.hottest import Hottest, HottestKeys
from limiter_node.store.admin.limit_heat import HashPlace, LimitHeat, LimitHeats
from limiter_node.store.admin.watch import StoreReading, StoreWatch
from limiter_node.store.keyspace import member_key, policy_key, shared_key
from limiter_node.store.url import parse_store_url

MINUTE, DAY = 60_000, 86_400_000
ALICE = key_id("hot-alice")

Stored = list[tuple[str, AccountPolicy]]
"""The URLs of stores, and accounts in them."""


def account(name: str, amount: int = 100) -> AccountPolicy:
    """An account with a minute and a day, and a team with limits of its own."""
    day = PolicyWindow(DAY, limits=(Limit(3, 1_000),), since_ms=1)
    minute = PolicyWindow(MINUTE, limits=(Limit(0, amount), Limit(1, 1, AUDIT)), since_ms=1)
    vision = PolicyWindow(MINUTE, ("o3*", "Gpt-5"), (Limit(2, 50),), since_ms=1)
    return AccountPolicy(name, (Subject("", (minute, day)), Subject("vision", (vision,)), Subject("idle")))


def alice() -> KeyPolicy:
    return KeyPolicy(ALICE, "alice", "vision", (PolicyWindow(DAY, limits=(Limit(0, 10),), since_ms=1),))


@pytest.fixture
def stored() -> Iterator[Stored]:
    """The accounts that a test puts into stores, taken out at its end: tests share the stores."""
    accounts: Stored = []
    yield accounts
    for url, policy in accounts:
        with store_client(url) as client:
            for key in (policy_key(policy.tag), shared_key(policy.tag), member_key(policy.tag, ALICE)):
                client.delete(key)


def put(url: str, stored: Stored, policy: AccountPolicy, *keys: KeyPolicy) -> None:
    put_account(url, policy, keys)
    stored.append((url, policy))


def named(windows: Sequence[PlannedWindow], subject: str) -> list[PlannedWindow]:
    return [each for each in windows if each.subject == subject]


@asynccontextmanager
async def watching(url: str) -> AsyncIterator[StoreWatch]:
    watch = StoreWatch(parse_store_url(url), most_keys=100, timeout_s=20)
    try:
        yield watch
    finally:
        await watch.close()


async def walked(watch: StoreWatch) -> StoreReading:
    for _ in range(100):
        reading = await watch.look()
        assert not any(shard.problem for shard in reading.shards)
        if reading.walk.is_whole:
            return reading
    raise AssertionError("the walk doesn't end")


def of(found: Sequence[object], *names: str) -> list[LimitHeat]:
    return [each for each in found if isinstance(each, LimitHeat) and each.name.startswith(names)]


async def test_accounts_teams_and_keys_have_their_tightest_limit(url: str, stored: Stored) -> None:
    acme, key = account("hot-acme"), alice()
    flat_key = KeyPolicy(key_id("hot-flat"), "hot-flat", windows=(PolicyWindow(1_000, limits=(Limit(3, 40),)),))
    flat = AccountPolicy(key=flat_key)
    put(url, stored, acme, key)
    put(url, stored, flat)
    windows = [*stored_windows(acme), *stored_windows(acme, key)]
    charge(url, acme, windows, [(80, 300, 49, 5), (1, 200, 1, 0)], key=key)
    charge(url, flat, stored_windows(flat), [(1, 150, 50, 0)])
    async with watching(url) as watch:
        reading = await walked(watch)
    assert [each[1:] for each in of(reading.tightest, "hot-")] == [
        ("hot-acme/vision", "output_tokens/1m for o3*, Gpt-5", 50, 50, True),
        ("hot-acme", "requests/1m", 81, 100, True),
    ]
    assert [(*each[1:], each.kid) for each in of(reading.hottest, "hot-")][:2] == [
        ("hot-acme/alice", "requests/1d", 81, 10, True, ALICE),
        *[("hot-flat", "tokens/1s", 200, 40, True, flat_key.kid)] * 1,
    ]
    assert reading.walk.accounts >= 1
    assert reading.walk.seen >= 2


async def test_what_has_left_a_window_is_not_shown(url: str, stored: Stored) -> None:
    acme = account("hot-stale")
    put(url, stored, acme)
    now_ms = int(time.time() * 1000)
    minute = named(stored_windows(acme), "hot-stale")
    charge(url, acme, minute, [(90, 0, 0, 75), (30, 400, 20, 30)], clock_ms=now_ms - 29_000)
    async with watching(url) as watch:
        (found,) = of((await walked(watch)).tightest, "hot-stale")
    assert found[1:] == ("hot-stale", "tokens/1d", 420, 1_000, True), "90 of 120 requests have left the minute"


async def test_a_look_is_bounded(embedded_single: str, stored: Stored, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limit_heat, "MAX_WINDOWS", 60)
    monkeypatch.setattr(limit_heat, "_SURVEY_PIECE", 10)
    monkeypatch.setattr(limit_heat, "MAX_PEEKED", 4)
    now_ms = int(time.time() * 1000)
    with store_client(embedded_single) as client:
        before = len(list(client.scan_iter("rl:{@*}:shared", count=1_000)))
    for number in range(150):
        acme = account(f"hot-{number:03}", 100 + number)
        put(embedded_single, stored, acme)
        charge(
            embedded_single,
            acme,
            stored_windows(acme),
            [(7_000, 0, 0, 75), (5_000, 0, 0, 30)],
            clock_ms=now_ms - 29_000,
        )
    async with parse_store_url(embedded_single).node_client(*parse_store_url(embedded_single).endpoints[0]) as client:
        keys, looks, found = HottestKeys(3), 0, Hottest([], [])
        while not keys.walk.is_whole:
            found = await keys.look(client)
            looks += 1
            assert keys.peeks <= 4 + 100
            assert len(found.accounts) <= 6
        assert keys.walk.accounts == 150 + before
        assert looks >= 150 * 3 / (60 + 10 * 3)
        monkeypatch.setattr(limit_heat, "MAX_PEEKED", 1_000)
        keys = HottestKeys(3)
        while not keys.walk.is_whole:
            found = await keys.look(client)
    assert [each[1:] for each in of(found.accounts, "hot-")[:3]] == [
        (f"hot-{number:03}", "requests/1m", 5_000, 100 + number, True) for number in range(3)
    ]


async def test_damaged_and_deleted_accounts_are_passed_over(embedded_single: str, stored: Stored) -> None:
    names = ("hot-damaged", "hot-deleted", "hot-clock", "hot-sums", "hot-good")
    for name in names:
        policy = account(name)
        put(embedded_single, stored, policy)
        charge(embedded_single, policy, stored_windows(policy), [(60, 0, 0, 1)])
    with store_client(embedded_single) as client:
        client.hset(policy_key("@hot-damaged"), "account", b"{")
        client.delete(policy_key("@hot-deleted"))
        client.hset(shared_key("@hot-clock"), "c", b"short")
        client.hset(shared_key("@hot-sums"), stored_windows(account("hot-sums"))[0].id, b"short")
    async with watching(embedded_single) as watch:
        found = of((await walked(watch)).tightest, "hot-")
    assert [each[1:] for each in found] == [("hot-good", "requests/1m", 60, 100, True)]


async def test_an_account_that_is_deleted_between_two_reads_uses_nothing(
    embedded_single: str, stored: Stored, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = account("hot-going")
    put(embedded_single, stored, policy)
    then_ms = int(time.time() * 1000) - 29_000
    charge(embedded_single, policy, stored_windows(policy), [(90, 0, 0, 75), (30, 0, 0, 30)], clock_ms=then_ms)
    url = parse_store_url(embedded_single)
    async with url.node_client(*url.endpoints[0]) as client:
        survey = LimitHeats._survey

        async def and_gone(self: LimitHeats, client: Redis, places: Sequence[HashPlace], most: int) -> list[object]:
            found = await survey(self, client, places, most)
            await client.delete(policy_key(policy.tag))
            return list(found)

        monkeypatch.setattr(LimitHeats, "_survey", and_gone)
        assert await LimitHeats(3).look(client, [HashPlace(policy.tag)], []) == ([], [])


def test_limits_are_ordered_by_their_share() -> None:
    def heat(name: str, used: int, amount: int) -> LimitHeat:
        return LimitHeat(HashPlace("@a"), name, "requests/1m", used, amount, True)

    found = [heat("a", 1, 2), heat("b", 9, 10), heat("c", 0, 0), heat("d", 1, 0), heat("e", 5, 10), heat("f", 5, 10)]
    assert [each.name for each in hottest(found, 5)] == ["d", "b", "e", "f", "a"]


@given(st.binary(max_size=80), st.integers(0, 2**45), st.integers(1, 10**7), st.integers(1, 600))
def test_any_bytes_are_sums_or_refused(meta: bytes, now_ms: int, bucket_ms: int, buckets: int) -> None:
    if len(meta) != 63:
        with pytest.raises(ValueError, match="sums are 63 bytes"):
            unpack_path_sums(meta, now_ms, bucket_ms, buckets)
    else:
        used, _ = unpack_path_sums(meta, now_ms, bucket_ms, buckets)
        assert min(used) >= 0
    if len(meta) != 12:
        with pytest.raises(ValueError, match="clock is 12 bytes"):
            unpack_clock(meta, now_ms)


def test_the_clock_of_an_account_never_goes_back() -> None:
    def clock(last_ms: int, skew_ms: int) -> bytes:
        return last_ms.to_bytes(6, "little") + skew_ms.to_bytes(6, "little")

    assert unpack_clock(None, 5) == 5
    assert unpack_clock(clock(10, 0), 5) == 10
    assert unpack_clock(clock(10, 7), 5) == 12
