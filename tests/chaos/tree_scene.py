"""An account with teams on four nodes: a keys file, load on all its keys, and what each of its windows held.

By the client's records, whatever the limiter told of its own, and by the store's counts afterwards. Each level has
limits that the load reaches. No window but the shortest slides within a run, so that all it admitted is in the others.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from asking import ask
from chaos_scene import IS_TIMED, Outcome, Scene, scene
from numpy.typing import NDArray
from test_store_faults import assert_answered

from bench_client.records.record import Record
from limiter_node.credentials import key_id
from limiter_node.store.admin.store_admin import administering
from limiter_node.store.embedded.server import EmbeddedServer
from limiter_node.store.keyspace import slot_of
from limiter_node.store.url import parse_store_url

NODES, KEYS = 4, 20
TAG = "@acme"
_RESEARCH, _VISION = 8, 4
"""The first keys are in the team research, the first of these in research/vision."""
_SHORT_S = 5.0

ACCOUNT = """
[accounts.acme]
rpm = 3_000
key_defaults = { rpm = 150 }
limits = [{ requests = 1_300, per = "5s" }, { requests = 2_000, per = "1h" }]

[accounts.acme.teams.research]
rpm = 900
limits = [{ requests = 800, per = "1h" }]

[accounts.acme.teams."research/vision"]
rpm = 500
limits = [{ requests = 320, per = "1h" }]
"""


class Window(NamedTuple):
    """A window of the tree: whose it is, its length, its limit, and the keys below it by number."""

    subject: str
    per: str
    limit: int
    keys: range


WINDOWS = (
    Window("acme", "5s", 1_300, range(KEYS)),
    Window("acme", "1m", 3_000, range(KEYS)),
    Window("acme", "1h", 2_000, range(KEYS)),
    Window("acme/research", "1m", 900, range(_RESEARCH)),
    Window("acme/research", "1h", 800, range(_RESEARCH)),
    Window("acme/research/vision", "1m", 500, range(_VISION)),
    Window("acme/research/vision", "1h", 320, range(_VISION)),
    *(Window(f"acme/k{number}", "1m", 150, range(number, number + 1)) for number in range(KEYS)),
    *(Window(f"acme/k{number}", "1h", 140, range(number, number + 1)) for number in range(0, KEYS, 3)),
)


def secret(number: int) -> str:
    """The key with that number."""
    return f"sk-tree-{number}"


def keys_file() -> str:
    """The account, its teams and its keys."""
    sections = []
    for number in range(KEYS):
        team = "research/vision" if number < _VISION else "research" if number < _RESEARCH else ""
        section = f'\n[keys."{secret(number)}"]\nname = "k{number}"\naccount = "acme"\n'
        section += f'team = "{team}"\n' * bool(team)
        section += 'limits = [{ requests = 140, per = "1h" }]\n' * (number % 3 == 0)
        sections.append(section)
    return ACCOUNT + "".join(sections)


@dataclass
class TreeOutcome:
    """What a load on the tree saw."""

    outcome: Outcome
    before: Counter[int]
    """Requests of each key that had been admitted before the load."""
    counted: dict[tuple[str, str], int]
    """What the store counts in each window afterwards."""
    lasted_s: float
    """From before the first request until then."""

    def held(self, window: Window) -> int:
        """The most requests that any true window must have held."""
        records = [each for number in window.keys for each in self._admitted[number]]
        if window.per != "5s":
            return len(records) + sum(self.before[number] for number in window.keys)
        return _most_within(records, _SHORT_S)

    def unanswered(self, window: Window) -> int:
        """Requests of these keys that may have been admitted, which their client can't know."""
        return sum(self._unanswered[number] for number in window.keys)

    @property
    def _numbers(self) -> dict[str, int]:
        return {key_id(secret(number))[:12]: number for number in range(KEYS)}

    @property
    def _admitted(self) -> list[list[Record]]:
        found: list[list[Record]] = [[] for _ in range(KEYS)]
        numbers = self._numbers
        for record in self.outcome.records:
            if record.status == 200:
                found[numbers[record.key]].append(record)
        return found

    @property
    def _unanswered(self) -> Counter[int]:
        numbers = self._numbers
        return Counter(numbers[each.key] for each in self.outcome.records if each.status is None)

    def excess(self) -> int:
        """The most that any window held above its limit."""
        return max(self.held(window) - window.limit for window in WINDOWS)

    def assert_bounded(self, bound: Callable[[int], int]) -> None:
        """No window held more than ``bound(limit)``."""
        for window in WINDOWS:
            assert self.held(window) <= bound(window.limit), (window, self.held(window))

    def assert_reached(self) -> None:
        """The limits of the account and of a team were in the way."""
        for window in WINDOWS:
            if window.per == "1h" and window.subject in ("acme", "acme/research/vision"):
                used = self.counted[window.subject, window.per]
                assert used >= window.limit * 0.95, (window, used)

    def assert_counted(self, *, is_exact: bool) -> None:
        """The store counts in each window all that was admitted; and nothing else, if `is_exact`."""
        for window in WINDOWS:
            if window.per == "5s" or (window.per == "1m" and self.lasted_s > 59):
                continue  # what was admitted first has left
            counted, least = self.counted[window.subject, window.per], self.held(window)
            assert counted >= least, (window, counted, least)
            assert not is_exact or counted <= least + self.unanswered(window), (window, counted, least)


def _most_within(records: Iterable[Record], seconds: float) -> int:
    """Return the most that were sent and done within so many seconds."""
    times: NDArray[np.int64] = np.array([(each.sent_us or 0, each.done_us) for each in records]).reshape(-1, 2)
    length_us = int(seconds * 1e6)
    return max(
        (
            int(np.count_nonzero((times[:, 0] >= begin) & (times[:, 1] <= begin + length_us)))
            for begin in np.unique(times[:, 0])
        ),
        default=0,
    )


def bound_of_outages(limit: int) -> int:
    """The most that a window may hold when nodes have decided alone."""
    return limit + (NODES - 1) * (limit // NODES)


def no_excess(limit: int) -> int:
    """The bound where no node decides alone and nothing is lost.

    Where tests run side by side, nodes may get too little time to decide within the budget.
    """
    return limit if IS_TIMED else bound_of_outages(limit)


def home_of(on: Scene) -> EmbeddedServer:
    """Return the master that has the account's slot."""
    for master in on.masters:
        with on.client(master) as client:
            if client.execute_command("CLUSTER COUNTKEYSINSLOT", slot_of(TAG)):
                return master
    raise AssertionError("the account is nowhere")


@asynccontextmanager
async def tree_scene(directory: Path, binary: str | None, *arguments: str, replicas: int = 0) -> AsyncIterator[Scene]:
    """Four nodes on a cluster, with the account."""
    async with scene(directory, binary, *arguments, replicas=replicas, nodes=NODES) as on:
        await plant(on)
        yield on


async def plant(on: Scene) -> None:
    """Declare the account: the nodes' keys file has it, too."""
    on.keys.write_text(keys_file())
    await on.declare(on.keys)


async def tree_under_load(
    on: Scene,
    fault: Callable[[], Awaitable[None]],
    seconds: float,
    *allowed: str,
    qps: int = 400,
    after_s: float = 1.0,
) -> TreeOutcome:
    """Offer load on all keys, let the fault happen, and look at what came of it.

    Each node asks for each key once before: of a window of an hour that it knows nothing of, it admits nothing alone.
    """
    begun_s = time.monotonic()
    before = await introduce(on)
    outcome = await on.under_load(fault, seconds, qps=qps, after_s=after_s)
    # Where tests run side by side, four nodes may get too little time to decide all requests.
    assert_answered(outcome, *allowed, *(() if IS_TIMED else ("503",)))
    counted = await counted_by_window(on, range(KEYS))
    tree = TreeOutcome(outcome, before, counted, time.monotonic() - begun_s)
    outcome.excess = tree.excess()
    outcome.counted = tree.counted["acme", "1h"]
    if IS_TIMED:
        tree.assert_reached()
    return tree


async def introduce(on: Scene) -> Counter[int]:
    """Have the store decide a request of each key on each node; return how many of each key were admitted."""
    admitted: Counter[int] = Counter()
    for node in range(NODES):
        for number in range(KEYS):
            async with asyncio.timeout(20):
                while True:
                    answer = await ask(on, node, secret(number))
                    admitted[number] += answer.status == 200
                    if answer.status == 200 and not answer.is_degraded:
                        break
    return admitted


async def counted_by_window(on: Scene, keys: Iterable[int]) -> dict[tuple[str, str], int]:
    """Return the requests that the store counts in each window on the paths of these keys, by subject and length."""
    counted = {}
    async with administering(parse_store_url(on.store.url)) as admin:
        for number in keys:
            usage = await admin.peek(key_id(secret(number)))
            assert usage is not None
            assert usage.path is not None
            for window, used in zip(usage.path.plan.windows, usage.path.used, strict=True):
                counted[window.subject, window.per] = used.requests
    return counted
