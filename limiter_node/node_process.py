"""The process of one node: its signals, open files, allocator and collector, and what it prints when it is ready.

`app` runs the node itself. Neighbours: ``limiter-node serve`` calls `run_node`; `supervisor` reads the lines that it
prints.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import resource
import signal
from dataclasses import replace

import uvloop

from limiter_node import malloc
from limiter_node.app import running_node
from limiter_node.errors import OtherFormat
from limiter_node.limiter.admission import Decider
from limiter_node.settings import NodeSettings
from limiter_node.start import Start
from limiter_node.store.admin.preparation import Preparation
from limiter_node.store.decisions.declared_file import DeclaredKeys

log = logging.getLogger(__name__)

_SPARE_FILES = 200
"""Open files beside the clients' connections: to the store, the log, files read at the start."""


def _allow_connections(connections: int) -> None:
    """Raise the limit of open files as far as needed and allowed. Shells and containers often set 1,024."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = connections + _SPARE_FILES
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return
    if hard != resource.RLIM_INFINITY and hard < needed:
        log.warning(
            "--max-connections %d needs %d open files but %d are allowed: lower it, or raise the limit (ulimit -n)",
            connections,
            needed,
            hard,
        )
        needed = hard
    resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))


def settle_collector() -> None:
    """Make the garbage collector run rarely, and never on objects made at the start.

    Requests rarely make cycles, so there is little to find; with Python's defaults the search itself costs some percent
    of a busy node.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 100)


async def _serve(
    settings: NodeSettings, preparation: Preparation, declared: DeclaredKeys | None, decider: Decider | None
) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    refused: list[OtherFormat] = []

    def refuse(error: OtherFormat) -> None:
        refused.append(error)
        stop.set()

    start = Start(preparation)
    async with running_node(settings, start, declared=declared, on_other_format=refuse, decider=decider) as node:
        stopping = asyncio.create_task(stop.wait())
        starting = asyncio.create_task(start.complete(node.limiter))
        try:
            await asyncio.wait({starting, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if starting.done():
                starting.result()
                settle_collector()
                if settings.admin_url:
                    print(f"node {settings.node_id} admin {settings.admin_url}", flush=True)
                print(f"node {settings.node_id} ready {replace(settings, port=node.port).base_url}", flush=True)
                await stopping
        finally:
            for task in (starting, stopping):
                task.cancel()
            await asyncio.wait({starting, stopping})
    if refused:
        raise refused[0]


def run_node(
    settings: NodeSettings,
    preparation: Preparation,
    *,
    declared: DeclaredKeys | None = None,
    decider: Decider | None = None,
) -> int:
    """Run one node in the foreground until SIGINT or SIGTERM; return the process's exit code.

    The node listens at once, and prints a line when it is ready (`start.Start`). For `declared` and `decider` see
    `running_node`.

    Raises:
        LimiterError: the node could not start, or must not use its store; the message says what to do.
    """
    malloc.give_memory_back()
    # A request that waits for a service holds a connection on each side.
    beside = settings.max_in_flight if settings.upstream or settings.upstreams else 0
    _allow_connections(settings.max_connections + beside)
    uvloop.run(_serve(settings, preparation, declared, decider))
    return 0
