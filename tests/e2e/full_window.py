"""A key's window of 60 s, watched in real time on two nodes: ``python full_window.py DIRECTORY FILE``.

It takes more than a minute of hardly anything but waiting, so it is a process of its own that runs beside the other
tests (``tests/conftest.py`` starts it); FILE appears with what it saw, and `test_window.py` judges it.
"""

from __future__ import annotations

import asyncio
import json
import random
import signal
import sys
import traceback
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).parent.parent))

from aiohttp import ClientSession
from fleet import Fleet, chat, many_connections, running_fleet

LIMIT = 30
GIVE_UP_S = 200


class FullWindow(NamedTuple):
    """What was seen."""

    times_ms: list[int]
    """The store's times of the admissions."""
    status: int
    """Of the request when the limit was used up."""
    frees_ms: int
    """When it was told that it would fit."""

    @classmethod
    def read(cls, file: Path) -> FullWindow:
        """Read what the process has written. AssertionError with its words if it failed."""
        told = json.loads(file.read_text())
        assert "error" not in told, told["error"]
        return cls(**told)


async def admissions(session: ClientSession, fleet: Fleet, api_key: str, count: int) -> list[int]:
    """The store's times of `count` admissions of a client that asks as soon as it is told to; nodes at random."""
    chooser, times, promised_ms = random.Random(2), [], 0
    while len(times) < count:
        response, _ = await chat(session, chooser.choice(fleet.nodes), api_key, max_tokens=10)
        time_ms = int(response.headers["x-limiter-time-ms"])
        if response.status == 200:
            times.append(time_ms)
            promised_ms = 0
        else:
            # Nobody else uses the key, so a client that has waited as long as told is admitted.
            assert not promised_ms or time_ms < promised_ms, f"rejected again at {time_ms}, promised {promised_ms}"
            wait_ms = int(response.headers["retry-after-ms"])
            promised_ms = time_ms + wait_ms
            await asyncio.sleep(wait_ms / 1000)
    return times


async def watch(fleet: Fleet) -> FullWindow:
    """Use up a limit in a rhythm, ask once more, then see the places come free."""
    api_key = fleet.new_key(rpm=LIMIT)
    async with many_connections() as session:
        times = []
        for _ in range(LIMIT):
            times += await admissions(session, fleet, api_key, 1)
            await asyncio.sleep(0.5)
        response, _ = await chat(session, fleet.nodes[0], api_key)
        frees_ms = int(response.headers["x-limiter-time-ms"]) + int(response.headers["retry-after-ms"])
        times += await admissions(session, fleet, api_key, 10)
    return FullWindow(times, response.status, frees_ms)


if __name__ == "__main__":
    for number in (signal.SIGTERM, signal.SIGALRM):  # the fleet ends in any case
        signal.signal(number, lambda *_: sys.exit("told to stop"))
    signal.alarm(GIVE_UP_S)
    directory, file = map(Path, sys.argv[1:])
    try:
        with running_fleet(directory, "--decision-timeout-ms", "20000") as running:
            told = asyncio.run(watch(running))._asdict()
    except Exception:
        told = {"error": traceback.format_exc()}
    written = file.with_suffix(".part")
    written.write_text(json.dumps(told))
    written.replace(file)
