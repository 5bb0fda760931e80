"""The CPU of a decision in a node's process, without HTTP: limiter and dispatcher on an embedded cluster.

A uvloop process on core 0, its store on the other cores; 64 requests at once, each admitted, then settled, then the
next. The CPU time of the process per request, less that of the same loop where `AdmitAll` stands in the dispatcher's
place. Weakness: `AdmitAll` costs some 1.5 µs itself, for the decision that it makes; that is taken off, too.

Where the package `limits` is installed (it isn't required), its asyncio limiter on Redis runs beside: a sliding window
each for requests, input and output, which is three calls that aren't one atomic decision, and nothing is settled.

    python -m benchmarks.decision_cpu [--rounds N] [--seconds S] [--json FILE]
"""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import cycle
from random import Random

import uvloop

from benchmarks.lib.measuring import Row, parser, row, show
from benchmarks.lib.servers import KEY_COUNT, OTHER_CORES, pin, pin_apart
from benchmarks.peers.admit_all import AdmitAll
from limiter_node.credentials import key_id
from limiter_node.decisions import Need, Outcome
from limiter_node.limiter.admission import Decider, Limiter
from limiter_node.limiter.policies import policy
from limiter_node.limits import MAX_LIMIT, KeyLimits
from limiter_node.node_process import settle_collector
from limiter_node.store.admin.store_admin import administering
from limiter_node.store.decisions.dispatcher import Dispatcher
from limiter_node.store.embedded.stores import EmbeddedStore
from limiter_node.store.url import parse_store_url
from limiter_node.store.wire.topology import Topology

AT_ONCE = 64
NEED, PRODUCED_TOKENS = Need(input_tokens=25, output_tokens=128), 100

Request = Callable[[str], Awaitable[None]]
"""One request of a key, from its admission to its end."""


def request_to(decider: Decider) -> Request:
    """Return a request as the node's routes make it."""
    limiter = Limiter(decider)

    async def request(kid: str) -> None:
        decision = await limiter.admit(kid, NEED)
        if decision.outcome is not Outcome.ADMITTED:
            raise RuntimeError(f"a request was not admitted: {decision}")
        limiter.reservation(kid, decision).settle(PRODUCED_TOKENS)

    return request


def request_to_limits(port: int) -> Request:
    """Return a request as users of the package `limits` make it: a hit on each of three limits."""
    limits, strategies, storage = map(
        importlib.import_module, ("limits", "limits.aio.strategies", "limits.aio.storage")
    )
    limiter = strategies.SlidingWindowCounterRateLimiter(
        storage.RedisStorage(f"async+redis://127.0.0.1:{port}", implementation="redispy")
    )
    each = limits.RateLimitItemPerMinute(MAX_LIMIT)

    async def request(kid: str) -> None:
        for dimension, cost in ("requests", 1), ("input", NEED.input_tokens), ("output", NEED.output_tokens):
            if not await limiter.hit(each, dimension, kid, cost=cost):
                raise RuntimeError("a request was not admitted")

    return request


async def cpu_us(request: Request, kids: Sequence[str], seconds: float) -> float:
    """Return the CPU time of this process per request, after a warm-up."""
    done, stopped, endless = 0, False, cycle(kids)

    async def one_after_the_other() -> None:
        nonlocal done
        turns = 0
        while not stopped:
            await request(next(endless))
            done += 1
            turns += 1
            if turns % 64 == 0:
                await asyncio.sleep(0)  # a request that never waits must not keep the loop from its clock

    running = [asyncio.ensure_future(one_after_the_other()) for _ in range(AT_ONCE)]
    await asyncio.sleep(min(0.5, seconds / 4))
    before, cpu_before = done, time.process_time()
    await asyncio.sleep(seconds)
    us = (time.process_time() - cpu_before) / (done - before) * 1e6
    stopped = True
    await asyncio.gather(*running)
    return us


@asynccontextmanager
async def dispatching(kids: Sequence[str]) -> AsyncIterator[Dispatcher]:
    """Yield a dispatcher on an embedded cluster in which these keys have limits out of reach."""
    async with EmbeddedStore("cluster") as store:
        address = parse_store_url(store.url)
        async with administering(address) as admin:
            await admin.load_limits({kid: KeyLimits(MAX_LIMIT, MAX_LIMIT, MAX_LIMIT) for kid in kids})
        topology = Topology(address)
        dispatcher = Dispatcher(topology, timeout_ms=10_000, policy=lambda fleet: policy("local", lambda: fleet.nodes))
        try:
            await dispatcher.start()
            pin_apart(os.getpid(), [server.pid for server in store.servers])
            yield dispatcher
        finally:
            await dispatcher.drain(1.0)
            await dispatcher.close()


async def measure(rounds: int, seconds: float) -> list[Row]:
    """Return all rows of this benchmark."""
    kids = [key_id(f"sk-bench-{number}") for number in range(KEY_COUNT)]
    Random(1).shuffle(kids)
    async with AsyncExitStack() as stack:
        dispatcher = await stack.enter_async_context(dispatching(kids))
        decided, empty = request_to(dispatcher), request_to(AdmitAll())
        variants = {"many": (decided, kids), "one": (decided, kids[:1]), "empty": (empty, kids)}
        if importlib.util.find_spec("limits"):
            single = await stack.enter_async_context(EmbeddedStore("single"))
            pin(single.servers[0].pid, OTHER_CORES)
            variants["limits"] = (request_to_limits(single.servers[0].port), kids)
        else:
            print("the package limits is left out, because it isn't installed (pip install limits)")
        settle_collector()
        us: dict[str, list[float]] = {name: [] for name in variants}
        for _ in range(rounds):
            for name, (request, asked) in variants.items():
                us[name].append(await cpu_us(request, asked, seconds))
    return rows_of(us)


def rows_of(us: dict[str, list[float]]) -> list[Row]:
    """Return the rows of each variant less the empty loop, and of the empty loop."""

    def beyond_empty(name: str) -> list[float]:
        return [all_of_it - empty for all_of_it, empty in zip(us[name], us["empty"], strict=True)]

    rows = [
        row(f"CPU of the node's process per decision, {KEY_COUNT:,} keys", "µs", beyond_empty("many"), at_most=8),
        row("CPU of the node's process per decision, one key", "µs", beyond_empty("one"), at_most=5),
        row("… the empty loop, taken off", "µs", us["empty"]),
    ]
    if "limits" in us:
        rows.append(row(f"the package limits, three limits, {KEY_COUNT:,} keys", "µs", beyond_empty("limits")))
    return rows


def main() -> None:
    """Measure with the options given, and print the rows."""
    options = parser(__doc__, rounds=5, seconds=2).parse_args()
    rows = uvloop.run(measure(options.rounds, options.seconds))
    show("A decision in the node's process", rows, json_path=options.json)


if __name__ == "__main__":
    main()
