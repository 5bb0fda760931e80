"""``python -m tests.judge``: run after run for a while; ends with 1 if any was refuted."""

from __future__ import annotations

import argparse
import logging
import shutil
import sys
import time
from contextlib import AsyncExitStack
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import uvloop

from .run import Result, run
from .scenarios import SCENARIOS, draw_plan
from .store import JudgedStore, judged_store


def main() -> None:
    """Read the options and judge."""
    parser = argparse.ArgumentParser(prog="python -m tests.judge", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0, help="start no further run after this time")
    parser.add_argument("--seed", type=int, default=1, help="the first run's seed; each further run takes the next one")
    parser.add_argument("--runs", type=int, default=0, help="run at most this many; 0 means as many as the time allows")
    parser.add_argument("--store", choices=["valkey", "redis"], default="valkey", help="the store's server program")
    parser.add_argument("--scenario", choices=sorted(SCENARIOS), help="take this one each time instead of drawing one")
    parser.add_argument("--verbose", action="store_true", help="show what the nodes log")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO if options.verbose else logging.CRITICAL, stream=sys.stdout)
    sys.exit(uvloop.run(_judge(options)))


async def _judge(options: argparse.Namespace) -> int:
    binary = None
    if options.store == "redis":
        binary = shutil.which("redis-server")
        if binary is None:
            print("error: there is no redis-server on this machine", file=sys.stderr)
            return 2
    until_s = time.monotonic() + options.seconds
    results = failures = operations = 0
    failed: list[int] = []
    async with AsyncExitStack() as stack:
        kept: dict[str, JudgedStore] = {}
        while time.monotonic() < until_s and (not options.runs or results < options.runs):
            plan = draw_plan(options.seed + results, options.scenario, binary)
            kind = plan.scenario.store
            result: Result
            if plan.scenario.steps_clock:
                async with judged_store(kind, binary, steps_clock=True) as store:
                    result = await run(plan, store)
            else:
                if kind not in kept:
                    kept[kind] = await stack.enter_async_context(judged_store(kind, binary))
                result = await run(plan, kept[kind])
            results += 1
            operations += len(result.record.ops)
            print(f"{options.store:<6} {result.line}", flush=True)
            if result.verdict.violations:
                failures += 1
                failed.append(plan.seed)
                print("\n".join(result.story()), flush=True)
    print(f"{operations:,} operations in {results} runs, {failures} refuted{': seeds ' * bool(failed)}{failed or ''}")
    return 1 if failures else 0


if __name__ == "__main__":
    main()
