"""Windows of an hour to two months, on a node whose store's clock steps, or runs thousands of times as fast as ours.

All times are the store's, as responses tell them: what they promise can be held against them to the millisecond.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import pytest
from accounts_in_store import put_account
from aiohttp import ClientSession
from faketime import CLOCK_FILE, fast_clock, needs_faketime, skip_for_jemalloc, stepped_clock
from fleet import Fleet, chat, many_connections, rate_limits, running_fleet
from redis import Redis
from store_tools import new_api_key, store_client

from limiter_node.credentials import key_id
from limiter_node.policy import REQUESTS, AccountPolicy, KeyPolicy, Limit, PolicyWindow
from limiter_node.store.embedded.server import EmbeddedServer
from limiter_node.store.embedded.stores import EmbeddedStore

SECOND, MINUTE, HOUR, DAY = 1_000, 60_000, 3_600_000, 86_400_000

OPTIONS = ("--mock-length", "fixed:5", "--decision-timeout-ms", "20000")

pytestmark = needs_faketime


@contextmanager
def closing_store(store: EmbeddedStore) -> Iterator[None]:
    """Stop a store that was started with an environment of its own."""
    try:
        yield
    finally:
        store.stop()


class SteppedClock:
    """The clock of a server, which goes forward as it is told."""

    def __init__(self, server: EmbeddedServer) -> None:
        self._file, self._port = server.directory / CLOCK_FILE, server.port
        self._ahead_s = 0

    def advance(self, ms: int) -> None:
        """Go forward by `ms`, rounded down to seconds."""
        self._ahead_s += ms // SECOND
        written = self._file.with_suffix(".part")
        written.write_text(f"+{self._ahead_s}")
        written.replace(self._file)
        with Redis(port=self._port) as client:  # the server looks at the file now and then
            deadline_s = time.monotonic() + 20
            while client.time()[0] < int(time.time()) + self._ahead_s - 1:
                assert time.monotonic() < deadline_s, "the server's clock stays behind"
                time.sleep(0.005)


Stepped = tuple[Fleet, SteppedClock]


@pytest.fixture(scope="module")
def stepped(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stepped]:
    """A node on a store whose clock steps."""
    store = EmbeddedStore("single")
    with mock.patch.dict(os.environ, stepped_clock()):
        loop = asyncio.new_event_loop()  # not asyncio.run: that would take pytest-asyncio's loop away
        loop.run_until_complete(store.start())
        loop.close()
    directory = tmp_path_factory.mktemp("stepped")
    with closing_store(store), running_fleet(directory, "--store", store.url, *OPTIONS, nodes=1) as fleet:
        yield fleet, SteppedClock(store.servers[0])


def new_key(fleet: Fleet, *windows: tuple[int, int]) -> str:
    """A key with limits on requests: length in ms, amount."""
    api_key = new_api_key()
    found = tuple(PolicyWindow(per_ms, (), (Limit(REQUESTS, amount),)) for per_ms, amount in windows)
    put_account(fleet.store, AccountPolicy(key=KeyPolicy(key_id(api_key), "long", "", found)))
    return api_key


async def ask(session: ClientSession, fleet: Fleet, api_key: str) -> tuple[int, int, int]:
    """One request: its status, the time of its decision in ms, the ms to wait after it."""
    response, _ = await chat(session, fleet.nodes[0], api_key, max_tokens=5)
    assert "x-limiter-degraded" not in response.headers
    headers = response.headers
    return response.status, int(headers["x-limiter-time-ms"]), int(headers.get("retry-after-ms", 0))


async def used(session: ClientSession, fleet: Fleet, api_key: str) -> list[int]:
    told = await rate_limits(session, fleet.nodes[0], api_key)
    return [each["used"] for each in told["limits_on_path"]]


@pytest.mark.parametrize(
    "per_ms",
    [
        HOUR,
        DAY,
        pytest.param(7 * DAY, marks=pytest.mark.chaos),
        pytest.param(31 * DAY, marks=pytest.mark.chaos),
        60 * DAY,
    ],
    ids=lambda ms: f"{ms // HOUR}h",
)
async def test_a_window_ends_when_it_was_said_to(binary: str | None, stepped: Stepped, per_ms: int) -> None:
    """To the ms, also where the wait in ms doesn't fit 32 bits; then the window counts anew."""
    skip_for_jemalloc(binary)
    fleet, clock = stepped
    api_key, window = new_key(fleet, (per_ms, 2)), PolicyWindow(per_ms)
    async with many_connections() as session:
        status, first_ms, _ = await ask(session, fleet, api_key)
        assert status == 200
        clock.advance(per_ms // 3)
        status, second_ms, _ = await ask(session, fleet, api_key)
        assert status == 200
        assert second_ms - first_ms >= per_ms // 3 - SECOND
        ends_ms = (first_ms // window.bucket_ms + window.buckets + 1) * window.bucket_ms
        assert per_ms <= ends_ms - first_ms <= per_ms + window.bucket_ms

        status, now_ms, wait_ms = await ask(session, fleet, api_key)
        assert (status, now_ms + wait_ms) == (429, ends_ms)
        clock.advance(wait_ms - SECOND)
        status, now_ms, wait_ms = await ask(session, fleet, api_key)
        assert (status, now_ms + wait_ms) == (429, ends_ms)
        assert wait_ms <= 2 * SECOND
        async with asyncio.timeout(20):
            while status == 429:
                assert now_ms < ends_ms
                assert now_ms + wait_ms == ends_ms
                await asyncio.sleep(wait_ms / 2 / SECOND)  # ever more often, until it is the last ms
                status, now_ms, wait_ms = await ask(session, fleet, api_key)
        assert now_ms >= ends_ms
        assert await used(session, fleet, api_key) == [2]
        status, now_ms, wait_ms = await ask(session, fleet, api_key)
        ends_ms = (second_ms // window.bucket_ms + window.buckets + 1) * window.bucket_ms
        assert (status, now_ms + wait_ms) == (429, ends_ms)


async def test_waits_beyond_32_bits_are_told(binary: str | None, stepped: Stepped) -> None:
    skip_for_jemalloc(binary)
    fleet, _ = stepped
    api_key = new_key(fleet, (60 * DAY, 1))
    async with many_connections() as session:
        assert (await ask(session, fleet, api_key))[0] == 200
        status, _, wait_ms = await ask(session, fleet, api_key)
        assert status == 429
        assert 2**32 < 60 * DAY < wait_ms <= 60 * DAY + PolicyWindow(60 * DAY).bucket_ms


async def test_idle_hours_leave_the_long_windows_alone(binary: str | None, stepped: Stepped) -> None:
    """Each gap ends the short windows; also gaps after which the node's record is all that short windows left."""
    skip_for_jemalloc(binary)
    fleet, clock = stepped
    api_key = new_key(fleet, (SECOND, 100), (MINUTE, 100), (HOUR, 100), (DAY, 8), (31 * DAY, 13))
    async with many_connections() as session:
        statuses = []
        for gap_ms, expected in [
            *((0, [1, 1, 1, 1, 1]), (2 * MINUTE, [1, 1, 2, 2, 2]), (5 * HOUR, [1, 1, 1, 3, 3])),
            *((11 * HOUR, [1, 1, 1, 4, 4]), (25 * HOUR, [1, 1, 1, 1, 5]), (20 * DAY, [1, 1, 1, 1, 6])),
            *((2 * SECOND, [1, 2, 2, 2, 7]), (12 * DAY, [1, 1, 1, 1, 3])),
        ]:
            clock.advance(gap_ms)
            statuses.append((await ask(session, fleet, api_key))[0])
            assert (await used(session, fleet, api_key))[1:] == expected[1:], gap_ms
        assert set(statuses) == {200}
        clock.advance(40 * DAY)  # the store may keep a window for 100 of its buckets longer
        assert await used(session, fleet, api_key) == [0] * 5
        with store_client(fleet.store) as client:
            tag = key_id(api_key)
            assert {each.decode() for each in client.scan_iter(f"rl:{{{tag}}}:*")} == {
                f"rl:{{{tag}}}:limits",
                f"rl:{{{tag}}}:policy",
            }, "what no window needs has expired"


@pytest.mark.chaos
@pytest.mark.parametrize(("per_ms", "speed"), [(HOUR, 1_000), (DAY, 20_000), (31 * DAY, 500_000)])
async def test_windows_slide_on_a_fast_clock(binary: str | None, directory: Path, per_ms: int, speed: int) -> None:
    """Some windows long: no window holds more than its limit, no wait is too long, and each is exact."""
    skip_for_jemalloc(binary)
    limit, windows = 5, 3
    store = EmbeddedStore("single")
    with mock.patch.dict(os.environ, fast_clock(speed)):
        await store.start()
    with closing_store(store), running_fleet(directory, "--store", store.url, *OPTIONS) as fleet:
        api_key = new_key(fleet, (per_ms, limit))
        admitted: list[int] = []
        frees_ms, rejected = 0, 0
        begun_s = time.monotonic()
        async with many_connections() as session:
            while time.monotonic() - begun_s < (windows + 0.5) * per_ms / 1000 / speed:
                status, now_ms, wait_ms = await ask(session, fleet, api_key)
                if status == 200:
                    assert now_ms >= frees_ms
                    admitted.append(now_ms)
                else:
                    assert len(admitted) < limit or now_ms < admitted[-limit] + per_ms + 2 * (per_ms // 600 + 100)
                    rejected += 1
                    if frees_ms > now_ms:
                        assert now_ms + wait_ms == frees_ms
                    frees_ms = now_ms + wait_ms
        assert rejected
        assert len(admitted) >= windows * limit
        for earlier, later in zip(admitted, admitted[limit:], strict=False):
            assert later - earlier > per_ms
