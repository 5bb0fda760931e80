"""The cost of a script call for a shard with many connected nodes, measured with stand-ins for the nodes.

Each stand-in sends one call at a time, for random keys; all keys know all of these nodes, as they would after a minute
behind a load balancer. Nodes of a real fleet write several calls at once, which makes calls cheaper, not dearer. CPU is
the server's (INFO cpu).
"""

from __future__ import annotations

import asyncio
import itertools
from dataclasses import dataclass
from random import Random

import hiredis
from redis import Redis

from benchmarks.lib.stand_ins import connected, drive
from limiter_node.credentials import key_id
from limiter_node.limits import MAX_LIMIT, KeyLimits
from limiter_node.store.codec import pack_admit, pack_batch
from limiter_node.store.embedded.server import HOST
from limiter_node.store.embedded.stores import EmbeddedStore
from limiter_node.store.keyspace import limits_key, past_key, window_key
from limiter_node.store.scripts import load_script
from limiter_node.store.values import pack_limits

NODES = (1, 4, 30, 100)
KEYS = 300
CALLS = 30_000
COALESCED = 32


@dataclass(frozen=True, slots=True)
class CallCost:
    """Say what one call of `operations` operations costs a shard with so many nodes, in µs of its CPU."""

    nodes: int
    operations: int
    call_us: float
    window_bytes: float
    """Memory of one key's newest counters and its record of its nodes, which share a hash."""


class _Shard:
    def __init__(self, port: int) -> None:
        self.redis = Redis(host=HOST, port=port)
        self._port = port
        self._script = load_script("decide")
        self.redis.script_load(self._script.source.decode())
        self._numbers = itertools.count(1)
        self._kids = [key_id(f"shard-calls-{i}") for i in range(KEYS)]
        self._random = Random(1)
        for kid in self._kids:
            self.redis.set(limits_key(kid), pack_limits(KeyLimits(MAX_LIMIT, MAX_LIMIT, MAX_LIMIT)))

    def _command(self, node: str, kid: str, operations: int) -> bytes:
        batch = pack_batch(next(self._numbers), [pack_admit(25, 128, 0)] * operations, resent=False)
        keys = (limits_key(kid), window_key(kid), past_key(kid))
        command: bytes = hiredis.pack_command(("EVALSHA", self._script.sha, "3", *keys, node, batch))  # type: ignore[arg-type]
        return command

    def cost(self, nodes: int, operations: int) -> CallCost:
        """Measure; every key is called by every node once before."""
        self.redis.delete(*map(window_key, self._kids), *map(past_key, self._kids))
        with connected(self._port, nodes) as stand_ins:
            for each in stand_ins:
                for kid in self._kids:
                    each.ask(self._command(each.name, kid, 1))
            before_s, to_send = self._cpu_s(), iter(range(CALLS))

            def next_command(number: int) -> bytes | None:
                if next(to_send, None) is None:
                    return None
                return self._command(stand_ins[number].name, self._random.choice(self._kids), operations)

            drive(stand_ins, next_command)
            cpu_s = self._cpu_s() - before_s
        size = float(self.redis.memory_usage(window_key(self._kids[0]), samples=0) or 0)
        return CallCost(nodes, operations, cpu_s / CALLS * 1e6, size)

    def _cpu_s(self) -> float:
        used = self.redis.info("cpu")
        return float(used["used_cpu_user"]) + float(used["used_cpu_sys"])


def measure(rounds: int) -> list[CallCost]:
    """Measure calls of one operation by one to a hundred nodes, and calls of many operations, interleaved by rounds."""

    def run(port: int) -> list[CallCost]:
        shard = _Shard(port)
        plan = [*((nodes, 1) for nodes in NODES), (NODES[-1], COALESCED)]
        return [shard.cost(nodes, operations) for _ in range(rounds) for nodes, operations in plan]

    async def start() -> list[CallCost]:
        async with EmbeddedStore("single") as store:
            return await asyncio.to_thread(run, store.servers[0].port)

    return asyncio.run(start())
