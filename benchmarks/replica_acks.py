"""The cost of waiting for replicas (`--replica-acks 1`): a lone decision's time, and decisions/s at saturation.

A uvloop process on core 0 decides on an embedded cluster with one replica per master on the other cores, in turn by a
dispatcher that waits for the replica and by one that does not. Weakness: six servers share one core here, and the
replica is no network away; a real one adds its round trip.

    python -m benchmarks.replica_acks [--rounds N] [--seconds S] [--json FILE]
"""

from __future__ import annotations

import asyncio
import os
import statistics
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from itertools import cycle

import uvloop

from benchmarks.lib.measuring import Row, parser, ratios, row, show
from benchmarks.lib.servers import pin_apart
from limiter_node.credentials import key_id
from limiter_node.decisions import Need
from limiter_node.limits import MAX_LIMIT, KeyLimits
from limiter_node.store.admin.store_admin import administering
from limiter_node.store.decisions.dispatcher import Dispatcher
from limiter_node.store.embedded.stores import EmbeddedStore
from limiter_node.store.url import parse_store_url
from limiter_node.store.wire.topology import Topology

KEYS = 1_000
AT_ONCE = 64
ACKS = (0, 1)
NEED = Need(25, 128)


async def lone_ms(dispatcher: Dispatcher, kids: Sequence[str], seconds: float) -> float:
    """Return the median time of a decision when there is one at a time."""
    times: list[float] = []
    end = time.perf_counter() + seconds
    for kid in cycle(kids):
        start = time.perf_counter()
        if start > end:
            return statistics.median(times) * 1e3
        await dispatcher.admit(kid, NEED)
        times.append(time.perf_counter() - start)
    raise AssertionError


async def per_second(dispatcher: Dispatcher, kids: Sequence[str], seconds: float) -> float:
    """Return the decisions per second with 64 at once."""
    done, endless, end = 0, cycle(kids), time.perf_counter() + seconds

    async def one_after_the_other() -> None:
        nonlocal done
        while time.perf_counter() < end:
            await dispatcher.admit(next(endless), NEED)
            done += 1

    start = time.perf_counter()
    await asyncio.gather(*(one_after_the_other() for _ in range(AT_ONCE)))
    return done / (time.perf_counter() - start)


async def measure(rounds: int, seconds: float) -> list[Row]:
    """Return all rows of this benchmark."""
    kids = [key_id(f"sk-bench-{number}") for number in range(KEYS)]
    async with AsyncExitStack() as stack:
        store = await stack.enter_async_context(EmbeddedStore("cluster", replicas=1))
        address = parse_store_url(store.url)
        async with administering(address) as admin:
            await admin.load_limits({kid: KeyLimits(MAX_LIMIT, MAX_LIMIT, MAX_LIMIT) for kid in kids})
        dispatchers = []
        for acks in ACKS:
            topology = Topology(address, replica_acks=acks)
            dispatchers.append(Dispatcher(topology, timeout_ms=10_000))
            await dispatchers[-1].start()
            stack.push_async_callback(dispatchers[-1].close)
        pin_apart(os.getpid(), [server.pid for server in store.servers])
        lone: list[list[float]] = [[] for _ in ACKS]
        busy: list[list[float]] = [[] for _ in ACKS]
        for _ in range(rounds):
            for dispatcher, times, rates in zip(dispatchers, lone, busy, strict=True):
                times.append(await lone_ms(dispatcher, kids, seconds))
                rates.append(await per_second(dispatcher, kids, seconds))
    return [
        *(row(f"a lone decision, --replica-acks {n}", "ms", each) for n, each in zip(ACKS, lone, strict=True)),
        *(
            row(f"decisions/s, {AT_ONCE} at once, --replica-acks {n}", "1/s", each)
            for n, each in zip(ACKS, busy, strict=True)
        ),
        row("decisions/s with ÷ without", "ratio", ratios(busy[1], busy[0])),
    ]


def main() -> None:
    """Measure with the options given, and print the rows."""
    options = parser(__doc__, rounds=5, seconds=1.5).parse_args()
    show("Waiting for replicas", uvloop.run(measure(options.rounds, options.seconds)), json_path=options.json)


if __name__ == "__main__":
    main()
