"""One run after the other, each drawn from its seed, on one store: the command of a judge with rules of its own."""

from __future__ import annotations

import argparse
import logging
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

import uvloop

from .store import JudgedStore, judged_store

_RUN_S = 4.0


class Judged(Protocol):
    """A run that has been judged."""

    @property
    def line(self) -> str:
        """The run in one line."""

    @property
    def violations(self) -> Sequence[str]:
        """The rules that it broke, in words."""


Run = Callable[[int, JudgedStore, float], Awaitable[Judged]]
"""Make and judge one run by its seed, on that store, for so many seconds."""


def main(program: str, description: str | None, run: Run) -> None:
    """Read the options and judge; end with exit code 1 if any run was refuted."""
    parser = argparse.ArgumentParser(prog=f"python -m {program}", description=description)
    parser.add_argument("--seconds", type=float, default=60.0, help="start no further run after this time")
    parser.add_argument("--seed", type=int, default=1, help="the first run's seed; each further run takes the next one")
    options = parser.parse_args()
    logging.basicConfig(level=logging.CRITICAL, stream=sys.stdout)
    sys.exit(uvloop.run(_judge(run, options.seconds, options.seed)))


async def _judge(run: Run, seconds: float, seed: int) -> int:
    until_s, refuted = time.monotonic() + seconds, []
    async with judged_store("single", None) as store:
        while time.monotonic() < until_s:
            found = await run(seed, store, _RUN_S)
            print(found.line, flush=True)
            if found.violations:
                refuted.append(seed)
            seed += 1
    print(f"{len(refuted)} refuted{': seeds ' * bool(refuted)}{refuted or ''}")
    return 1 if refuted else 0
