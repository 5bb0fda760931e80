"""A fleet for the scaling measurement: N nodes before a cluster of S masters, and what its processes have used so far.

Owns the processes' start and end and the reading of their counters: CPU from /proc, script calls and socket reads from
the servers' INFO. Neighbour: `scaling`, which loads it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from redis import Redis
from redis.asyncio import Redis as AsyncRedis

from bench_client.servers.procfs import cpu_seconds
from benchmarks.lib.loads import MAX_TOKENS
from limiter_node.processes import free_ports
from limiter_node.store.embedded.cluster_setup import ClusterMember, form_cluster
from limiter_node.store.embedded.server import HOST
from limiter_node.store.embedded.stores import EmbeddedStore

PRODUCED_TOKENS = MAX_TOKENS // 2
"""Every answer is shorter than its reservation, so that each request is two operations: an admission and a settle."""
FORMATION_TIMEOUT_S = 120.0
DECISION_TIMEOUT_MS = 5000
"""Dozens of processes on a few cores wait for one another, and costs are what is asked for here, not latency."""


@dataclass(frozen=True, slots=True)
class Counters:
    """Hold all counters of one moment. Lists are per process, in the fleet's order; a difference is a load's."""

    nodes_cpu_s: list[float]
    shards_cpu_s: list[float]
    shards_calls: list[int]
    """Script calls (EVALSHA) that each shard has served."""
    shards_call_cpu_s: list[float]
    """Time within those calls, as the server counts it: without its sockets and its parser."""
    shards_reads: list[int]
    """Reads from its sockets, by each shard: how often calls came alone, how often several in one write."""
    shards_turns: list[int]
    """Turns of each shard's event loop; fewer than reads where several sockets were ready at once."""

    def since(self, earlier: Counters) -> Counters:
        """Return what was added after `earlier`."""
        return Counters(
            *(
                [now - was for now, was in zip(getattr(self, name), getattr(earlier, name), strict=True)]
                for name in self.__slots__
            )
        )


class Fleet:
    """Running nodes and shards. Shard i owns the slots from 16384·i/S up to 16384·(i+1)/S."""

    def __init__(self, nodes: list[subprocess.Popen[str]], ports: list[int], shards: list[int]) -> None:
        self.node_pids = [node.pid for node in nodes]
        self.node_ports = ports
        self._shards = [Redis(host=HOST, port=port) for port in shards]

    def counters(self) -> Counters:
        """Return the counters of all processes at this moment."""
        statistics = [shard.info("commandstats", "stats", "cpu") for shard in self._shards]
        calls = [each.get("cmdstat_evalsha", {}) for each in statistics]
        return Counters(
            [cpu_seconds(pid) for pid in self.node_pids],
            # As /proc has it, but to the microsecond.
            [float(each["used_cpu_user"]) + float(each["used_cpu_sys"]) for each in statistics],
            [int(each.get("calls", 0)) for each in calls],
            [float(each.get("usec", 0)) / 1e6 for each in calls],
            [int(each["total_reads_processed"]) for each in statistics],
            [int(each["eventloop_cycles"]) for each in statistics],
        )

    def nodes_cpu_s(self) -> float:
        """Return the CPU of all nodes so far, without asking the shards."""
        return sum(map(cpu_seconds, self.node_pids))

    def close(self) -> None:
        """Close the connections that `counters` uses."""
        for shard in self._shards:
            shard.close()


async def _start_cluster(shards: int, stack: contextlib.ExitStack) -> list[int]:
    """Return the port of each master: single servers join, because `EmbeddedStore` makes clusters of three only."""
    buses = free_ports(shards, HOST)
    stores = [
        EmbeddedStore(
            "single",
            extra_config={
                "cluster-enabled": "yes",
                "cluster-port": str(bus),
                "cluster-announce-ip": HOST,
                "cluster-node-timeout": "15000",  # dozens of servers on two cores answer late, and none is to fail over
            },
        )
        for bus in buses
    ]
    for store in stores:
        stack.callback(store.stop)
        await store.start()
    servers = [store.servers[0] for store in stores]
    async with asyncio.timeout(FORMATION_TIMEOUT_S), contextlib.AsyncExitStack() as clients:
        await form_cluster(
            [
                ClusterMember(
                    server.port,
                    bus,
                    None,
                    await clients.enter_async_context(AsyncRedis(host=HOST, port=server.port, protocol=2)),
                )
                for server, bus in zip(servers, buses, strict=True)
            ]
        )
    return [server.port for server in servers]


def _start_node(store: str, keys: Path, stack: contextlib.ExitStack) -> tuple[subprocess.Popen[str], int]:
    process = subprocess.Popen(
        [sys.executable, "-m", "limiter_node", "serve", "--store", store, "--keys", str(keys), "--port", "0",
         "--mock-length", f"fixed:{PRODUCED_TOKENS}", "--decision-timeout-ms", str(DECISION_TIMEOUT_MS)],
        stdout=subprocess.PIPE,
        text=True,
    )  # fmt: skip
    assert process.stdout is not None
    stack.callback(process.stdout.close)
    stack.callback(process.wait)
    stack.callback(process.send_signal, signal.SIGTERM)
    for line in process.stdout:
        words = line.split()
        if words[:1] == ["node"] and words[2:3] == ["ready"]:
            return process, int(words[3].rpartition(":")[2])
    sys.exit("a node did not start")


@contextmanager
def running(nodes: int, shards: int, keys: Path) -> Iterator[Fleet]:
    """Start `shards` masters, then `nodes` nodes on them; end them all."""
    with contextlib.ExitStack() as stack:
        servers = asyncio.run(_start_cluster(shards, stack))
        store = "redis+cluster://" + ",".join(f"{HOST}:{port}" for port in servers)
        started = [_start_node(store, keys, stack) for _ in range(nodes)]
        fleet = Fleet([process for process, _ in started], [port for _, port in started], servers)
        stack.callback(fleet.close)
        yield fleet


def machine_busy_s() -> float:
    """Return the CPU time that all processes of this machine together have used (steal included), from /proc/stat."""
    fields = [int(word) for word in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
    user, nice, system, _idle, _iowait, *interrupts_and_steal = fields
    return (user + nice + system + sum(interrupts_and_steal)) / os.sysconf("SC_CLK_TCK")
