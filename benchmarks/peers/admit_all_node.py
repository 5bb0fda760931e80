"""A node whose decisions cost nothing: the limiter's own node, with `AdmitAll` in the place of its dispatcher.

It still has a store of its own, an embedded single server, with which it exchanges heartbeats as any node does.

    python -m benchmarks.peers.admit_all_node PORT     → one line "node … ready …", then serves until SIGTERM
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from bench_client.servers.procfs import STORE, limiter_processes
from benchmarks.lib.servers import Server, pin_apart, stop
from benchmarks.peers.admit_all import AdmitAll
from limiter_node.declarations import Declarations
from limiter_node.node_process import run_node
from limiter_node.processes import free_ports
from limiter_node.settings import NodeSettings
from limiter_node.store.admin.preparation import Preparation
from limiter_node.store.embedded.stores import EmbeddedStore
from limiter_node.store.url import parse_store_url


@contextmanager
def running_admit_all_node(environment: Mapping[str, str] | None = None) -> Iterator[Server]:
    """Run the node as a process of its own, `environment` added to ours. It takes any API key."""
    (port,) = free_ports(1)
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.peers.admit_all_node", str(port)],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | dict(environment or {}),
    )
    try:
        assert process.stdout is not None
        if process.stdout.readline().split()[2:3] != ["ready"]:
            sys.exit("the node that admits all did not start")
        store = tuple(server.pid for server in limiter_processes(process.pid) if server.kind == STORE)
        pin_apart(process.pid, store)
        yield Server(port, process.pid, store_pids=store)
    finally:
        stop(process)


def _run(port: int) -> int:
    store = EmbeddedStore("single")
    asyncio.run(store.start())
    try:
        settings = NodeSettings(port=port, node_id="1", store=store.url)
        return run_node(settings, Preparation(parse_store_url(store.url), Declarations()), decider=AdmitAll())
    finally:
        store.stop()


if __name__ == "__main__":
    sys.exit(_run(int(sys.argv[1])))
