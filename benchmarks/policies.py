"""The cost of limits on paths, and that plain keys cost what they did: every figure that has an aim.

One server; its CPU per decision, in interleaved rounds. Most calls go by a clock of their own, so that windows are full
without waiting, and buckets stay or change as it is said; such a call spares the server TIME, on both sides of a ratio.

Plain keys ("flat") are compared with the script of an earlier commit, which git provides: by default the newest before
lua/decide.lua was last changed. With --node, nodes of both commits are compared, too, which takes a minute more.

    python -m benchmarks.policies [--before REF] [--node] [--quick] [--rounds N] [--server-binary PATH] [--json FILE]
"""

from __future__ import annotations

import asyncio
import time

from benchmarks.lib.measuring import Row, parser, show
from benchmarks.lib.shard import Shard
from benchmarks.paths.cases import measure as measure_cases
from benchmarks.paths.earlier import NoEarlierCode, commit_before, script_of
from benchmarks.paths.flat_cases import base_cases, compared_cases, compared_rows
from benchmarks.paths.longest_call import longest_rows
from benchmarks.paths.memory_rows import memory_rows
from benchmarks.paths.node_rows import node_rows
from benchmarks.paths.path_cases import full_cases, path_cases, path_rows, thousand_cases
from limiter_node.store.embedded.stores import EmbeddedStore
from limiter_node.store.scripts import load_script

TITLE = "Limits on paths"
_QUICK_SHARE = 0.02
"""Of the calls of each case, where --quick only shows that everything runs."""


def measure(port: int, rounds: int, share: float, before: str) -> list[Row]:
    """Return the rows of the scripts. `before`: the commit whose script is compared; empty if there is none."""
    shard, now_ms = Shard(port), int(time.time() * 1000)
    script = shard.loaded(load_script("decide_paths").source)
    scripts = [shard.script, *([shard.loaded(script_of(before))] if before else [])]
    cases = compared_cases(shard, scripts, now_ms) | base_cases(shard, now_ms) | path_cases(shard, script, now_ms)
    cases |= full_cases(shard, script, now_ms) | thousand_cases(shard, script)
    us = measure_cases(shard, cases, rounds, share)
    rows = compared_rows(us, before) + path_rows(us) + memory_rows(shard, script, now_ms)
    return rows + longest_rows(shard, script, now_ms, trials=rounds * 2)


def main() -> None:
    """Measure with the options given, and print the rows."""
    options_of = parser(__doc__, rounds=9, seconds=3)
    options_of.add_argument("--before", metavar="REF", help="the commit to compare with")
    options_of.add_argument("--node", action="store_true", help="compare nodes of both commits, too")
    options_of.add_argument("--quick", action="store_true", help="few calls, one round: only shows that it runs")
    options_of.add_argument("--server-binary", help="a system redis-server or valkey-server, not the embedded one")
    options = options_of.parse_args()
    rounds, share = (1, _QUICK_SHARE) if options.quick else (options.rounds, 1.0)
    before = ""
    try:
        before = commit_before(options.before)
    except NoEarlierCode as error:
        print(f"the comparison with an earlier commit is left out: {error}")

    async def run() -> list[Row]:
        async with EmbeddedStore("single", binary=options.server_binary) as store:
            return await asyncio.to_thread(measure, store.servers[0].port, rounds, share, before)

    rows = asyncio.run(run())
    if options.node and before:
        rows += node_rows(before, rounds, options.seconds)
    show(TITLE, rows, quartiles=True, json_path=options.json)


if __name__ == "__main__":
    main()
