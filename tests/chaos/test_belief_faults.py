"""Faults after which a node may believe what is no longer so: of the store's clock, of windows, of replies.

Rows 26, 27, 28 and 31 of the table of faults; `test_key_faults` has those of what a node believes of keys.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from asking import admitted, ask, ask_at_once, ask_each
from chaos_scene import IS_TIMED, KEYS, Outcome, Row, Scene, eventually, scene, scene_behind_proxy, write_keys
from redis import Redis
from store_tools import store_client
from test_store_faults import IN_TIME_MS, assert_answered, ready

from limiter_node.credentials import key_id
from limiter_node.store.keyspace import past_key, window_key

AHEAD_MS = 100
"""How far a told time may be ahead of the store's."""


def signal_all(on: Scene, number: signal.Signals) -> None:
    for server in on.store.servers:
        os.kill(server.pid, number)


# ---- 26: the store's clock -------------------------------------------------------------------------------------------


@pytest.mark.chaos
@pytest.mark.parametrize(
    ("policy", "window_ms", "frozen_s"),
    # Nodes make their connections anew where one is silent for a second: a case below that, and one above.
    [("local", 1_200, 0.8), ("local", 3_000, 2), ("closed", 1_200, 0.8), ("open", 1_200, 0.8)],
)
async def test_26_frozen_for_more_than_half_a_window(
    directory: Path, binary: str | None, row: Row, policy: str, window_ms: int, frozen_s: float
) -> None:
    """With the limit used up, three times: a batch that is decided late has the time of its decision."""
    limit = 60
    async with scene(directory, binary, "--on-store-failure", policy, rpm=limit, window_ms=window_ms) as on:

        async def freeze() -> None:
            for _ in range(3):
                signal_all(on, signal.SIGSTOP)
                await asyncio.sleep(frozen_s)
                signal_all(on, signal.SIGCONT)
                await asyncio.sleep(1)

        for node in (0, 1):  # a key that a node has not met yet it can't decide alone
            await ask_each(on, node, [f"sk-chaos-{number}" for number in range(KEYS)])
        # By Zipf: the first keys' limits are used up within a fraction of the window.
        seconds = 1 + 3 * (frozen_s + 1) + 0.5
        outcome = await on.under_load(freeze, seconds, qps=800, before_s=0.4, after_s=0.5, arguments=("--zipf", "1.5"))
        fault = f"all masters frozen for {frozen_s} s of a window of {window_ms / 1000} s, three times, policy {policy}"
        row("26", fault, outcome)
        assert_answered(outcome, *(["503"] if policy == "closed" else []))
        assert outcome.told_ahead_ms <= AHEAD_MS, outcome
        if policy == "closed":
            assert outcome.held <= limit, outcome
            assert outcome.excess <= 0, outcome
        elif policy == "local":
            # limit × (2 - 1/nodes)
            assert outcome.held <= limit * 3 // 2, outcome
            assert outcome.excess <= limit // 2, outcome
        assert outcome.last_s < 1 + 3 * (frozen_s + 1) + 0.3, "back within a second"
        await ready(on)


# ---- 27: windows that are lost ---------------------------------------------------------------------------------------


async def note(
    on: Scene, row: Row, fault: str, scenario: Callable[[], Awaitable[None]], number: str, seconds: float = 6
) -> Outcome:
    """A scenario with keys of its own, while other keys are under load, which notice nothing."""
    outcome = await on.under_load(scenario, seconds, qps=100, before_s=0.4, after_s=0.5)
    row(number, fault, outcome)
    assert_answered(outcome)
    return outcome


async def special_keys(on: Scene, limit: int, keys: int) -> tuple[Path, list[str]]:
    """A file of keys with this limit, which the store knows, and the keys."""
    file = write_keys(on.directory / "special.toml", limit, "special", keys)
    await on.declare(file)
    return file, [f"sk-special-{number}" for number in range(keys)]


def lose_window(on: Scene, key: str) -> None:
    """Lose all that the store had counted of the key, the nodes' records with it."""
    with store_client(on.store.url) as client:
        assert client.delete(window_key(key_id(key)), past_key(key_id(key))) >= 1


@pytest.mark.chaos
async def test_27_a_window_is_lost_again_after_it_was_healed(directory: Path, binary: str | None, row: Row) -> None:
    """One node had told all there was: it heals each loss whole, so that nothing more is admitted."""
    async with scene(directory, binary) as on:
        file, (in_one_batch, one_by_one) = await special_keys(on, 10, 2)

        async def lose() -> None:
            # The last request of the batch that admitted was a rejected one.
            assert admitted(await ask_at_once(on, 0, in_one_batch, 20)) == 10
            for _ in range(10):
                assert (await ask(on, 0, one_by_one)).status == 200
            for loss in range(3):
                for key in (in_one_batch, one_by_one):
                    lose_window(on, key)
                    more = admitted(await ask_at_once(on, 0, key, 12))
                    assert more == 0, f"{key} after loss {loss + 1}: {more} more than its limit of 10"
            used = [usage.used.requests for usage in await on.usages(file)]
            assert used == [10, 10]

        await note(on, row, "a window lost, three times, each time after it was healed", lose, "27")


@pytest.mark.chaos
async def test_27_a_window_is_lost_that_two_nodes_had_filled(directory: Path, binary: str | None, row: Row) -> None:
    """Excess at most what the other node has not told yet; once both have, nothing."""
    async with scene(directory, binary) as on:
        file, keys = await special_keys(on, 10, 8)

        async def lose() -> None:
            for key in keys:
                own = [admitted([await ask(on, node, key) for _ in range(count)]) for node, count in ((0, 6), (1, 10))]
                assert own == [6, 4]
                lose_window(on, key)
                # The first node tells its 6; the other's 4 it can't know.
                assert admitted([await ask(on, 0, key) for _ in range(10)]) == 4
                assert admitted([await ask(on, 1, key) for _ in range(10)]) == 0
                [(used, *_)] = [usage.used for usage in await on.usages(file) if usage.name == f"special{key[10:]}"]
                assert used == 14, "all that was admitted"

        await note(on, row, "a window lost that two nodes had filled", lose, "27")


@pytest.mark.chaos
@pytest.mark.parametrize("lost", ["windows", "all"])
async def test_27_the_store_loses_all_twice(directory: Path, binary: str | None, row: Row, lost: str) -> None:
    """Under load: after each loss a node may admit what the other has not told yet, at most the limit."""
    limit = 60
    async with scene(directory, binary, rpm=limit) as on:

        async def lose() -> None:
            for _ in range(2):
                for master in on.masters:
                    with on.client(master) as client:
                        if lost == "all":
                            client.flushall()
                        else:
                            for window in list(client.scan_iter("*:window")):
                                client.delete(window, window.replace(b":window", b":past"))  # at once
                await asyncio.sleep(2)

        outcome = await on.under_load(lose, 8, after_s=1)
        row("27", f"the store loses {lost}, twice", outcome)
        assert_answered(outcome)
        assert outcome.held <= 2 * limit, outcome
        assert outcome.counted >= outcome.admitted, "healed: all that was admitted is counted again"
        await ready(on)


# ---- 28: windows of before -------------------------------------------------------------------------------------------


def snapshot(client: Redis, kid: str) -> list[tuple[str, int, bytes]]:
    """The window and the past of a key, with their time to live."""
    with client.pipeline() as pipeline:
        for key in (window_key(kid), past_key(kid)):
            pipeline.pttl(key).dump(key)
        ttl, window, past_ttl, past = pipeline.execute()
    return [(window_key(kid), ttl, window), (past_key(kid), past_ttl, past)]


def restore(client: Redis, values: list[tuple[str, int, bytes]]) -> None:
    with client.pipeline() as pipeline:
        for key, ttl_ms, value in values:
            pipeline.restore(key, ttl_ms, value, replace=True)
        pipeline.execute()


async def test_28_windows_are_restored_from_before(directory: Path, binary: str | None, row: Row) -> None:
    """Noticed at the next batch of each node, and charged again."""
    limit = 60
    async with scene(directory, binary, rpm=limit) as on:
        times_us: list[float] = []

        async def roll_back() -> None:
            loop = asyncio.get_running_loop()
            clients = [Redis(port=master.port) for master in on.masters]

            def used() -> list[list[str]]:
                return [[key.decode()[4:36] for key in client.scan_iter("rl:*:window")] for client in clients]

            async def all_are_used() -> bool:
                return sum(len(kids) for kids in used()) == KEYS

            await eventually(all_are_used)
            begun_s = loop.time()
            kept = [
                (client, [snapshot(client, kid) for kid in kids]) for client, kids in zip(clients, used(), strict=True)
            ]
            await asyncio.sleep(0.5)
            for client, windows in kept:
                for values in windows:
                    restore(client, values)
                client.close()
            times_us.append((loop.time() - begun_s) * 1e6)

        outcome = await on.under_load(roll_back, 2.4, qps=800, before_s=0.3, after_s=0.3)
        row("28", "each key's window restored as it was 0.5 s before", outcome)
        assert_answered(outcome)
        assert outcome.counted >= outcome.admitted, "charged again: all that was admitted is counted"
        # The node that asks first isn't told what the other had admitted meanwhile, which is some 10 requests.
        untold = most_of_one_node(outcome, times_us[0])
        assert outcome.excess <= untold, outcome
        assert not IS_TIMED or untold < limit // 2, outcome
        assert outcome.held <= limit + untold, outcome


def most_of_one_node(outcome: Outcome, span_us: float) -> int:
    """The most requests of one key that one node admitted within any such span of time."""
    most = 0
    by_node: dict[tuple[str, int], list[int]] = {}
    for record in outcome.records:
        if record.status == 200:
            by_node.setdefault((record.key, record.target), []).append(record.done_us)
    for times in by_node.values():
        times.sort()
        most = max([most, *(sum(t <= each <= t + span_us for each in times) for t in times)])
    return most


@pytest.mark.chaos
async def test_28_one_window_is_restored_from_before(directory: Path, binary: str | None, row: Row) -> None:
    """Step by step, for keys of their own."""
    async with scene(directory, binary) as on:
        file, keys = await special_keys(on, 20, 4)

        async def roll_back() -> None:
            for key in keys:
                for node in (0, 1):
                    assert admitted([await ask(on, node, key) for _ in range(4)]) == 4
                with store_client(on.store.url) as client:
                    # One slot, so one server: the cluster's client runs no transaction otherwise.
                    owner = client.get_redis_connection(client.get_node_from_key(window_key(key_id(key))))
                    before = snapshot(owner, key_id(key))
                    assert admitted([await ask(on, 0, key) for _ in range(8)]) == 8
                    restore(owner, before)  # 8 of 16
                assert admitted([await ask(on, 1, key) for _ in range(2)]) == 2
                # The first node had 8 that the store has forgotten, so that 2 are left at most: fewer if it charges
                # once more what the store still has of it, 4.
                left = admitted([await ask(on, 0, key) for _ in range(8)])
                assert left <= 2, f"{18 + left} of 20"
                assert admitted([await ask(on, 1, key) for _ in range(4)]) + left <= 2
            used = [usage.used.requests for usage in await on.usages(file)]
            assert all(18 <= each <= 18 + 4 for each in used), used

        await note(on, row, "one key's window restored from before, 8 requests ago", roll_back, "28")


# ---- 31: replies -----------------------------------------------------------------------------------------------------


class Malformed:
    """Replaces one in six replies to decisions while `is_on`: each length from 0 to 200, each valid first byte."""

    def __init__(self) -> None:
        self.is_on = False
        self.lengths: Counter[int] = Counter()
        self._random = random.Random(31)
        self._seen = self._replaced = 0

    def __call__(self, reply: bytes) -> bytes | None:
        if not self.is_on or reply[:1] not in (b"\0", b"\1"):
            return None
        self._seen += 1
        if self._seen % 6:
            return None
        first, length = divmod(self._replaced, 201)
        self._replaced += 1
        self.lengths[length] += 1
        return (bytes([first % 2]) + self._random.randbytes(200))[:length]


async def test_31_malformed_replies(directory: Path, binary: str | None, row: Row) -> None:
    """The request is asked for again under its number; nothing is told of what can't be read, and no deadline stops."""
    malformed = Malformed()
    async with scene_behind_proxy(directory, binary, replace_bulk=malformed) as (on, _):

        async def replace() -> None:
            malformed.is_on = True
            async with asyncio.timeout(5):
                while sum(malformed.lengths.values()) < 2 * 201:
                    await asyncio.sleep(0.01)
            malformed.is_on = False

        # Each node has met each key by then: one that it hasn't met it can't decide alone.
        outcome = await on.under_load(replace, 4.3, qps=1_000, before_s=0.3, after_s=0.3)
        row("31", "replies of every length from 0 to 200 bytes, one in six", outcome)
        assert_answered(outcome)
        assert set(malformed.lengths) == set(range(201))
        assert outcome.told_ahead_ms <= AHEAD_MS, outcome
        assert outcome.counted == outcome.admitted, outcome
        assert outcome.excess <= outcome.most_excess, outcome
        assert outcome.proved or outcome.degraded, outcome.audit
        await ready(on)
        # Deadlines go on working.
        loop = asyncio.get_running_loop()
        signal_all(on, signal.SIGSTOP)
        try:
            for node in (0, 1):
                begun_s = loop.time()
                assert (await ask(on, node, "sk-chaos-0")).is_degraded
                assert not IS_TIMED or loop.time() - begun_s < 2 * IN_TIME_MS / 1000
        finally:
            signal_all(on, signal.SIGCONT)
        await ready(on)
