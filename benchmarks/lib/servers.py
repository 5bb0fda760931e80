"""The servers under load: a limiter node as users start it, or a peer of it; each pinned to its own core.

The server under load has core 0; its store, the load and the benchmark itself share the others. Linux only.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench_client.servers.procfs import NODE, STORE, limiter_processes
from limiter_node.keysfile.making import write_private
from limiter_node.limits import MAX_LIMIT

KEY_COUNT = 1_000
SERVER_CORES = {0}
OTHER_CORES = set(range(1, os.cpu_count() or 1)) or {0}


@dataclass(frozen=True, slots=True)
class Server:
    """Describe a running server with one worker process."""

    port: int
    pid: int
    store_port: int = 0
    """Where its single store listens, if it has one."""
    store_pids: tuple[int, ...] = ()


def write_keys(path: Path, keys: Mapping[str, Mapping[str, int]]) -> None:
    """Write a keys file. Limits that are not given are out of reach."""
    lines = ["[defaults]", *(f"{limit} = {MAX_LIMIT}" for limit in ("rpm", "input_tpm", "output_tpm"))]
    for key, limits in keys.items():
        lines += [f'[keys."{key}"]', *(f"{limit} = {value}" for limit, value in limits.items())]
    write_private(path, "\n".join(lines), overwrite=True)


def unlimited_keys(path: Path, count: int = KEY_COUNT) -> list[str]:
    """Write a keys file of that many keys, whose limits are out of reach; return the keys."""
    keys = [f"sk-bench-{number}" for number in range(count)]
    write_keys(path, {key: {} for key in keys})
    return keys


def pin(pid: int, cores: set[int]) -> None:
    """Bind a process and its threads to some cores, where the system lets us."""
    if hasattr(os, "sched_setaffinity"):
        for task in Path(f"/proc/{pid}/task").iterdir():
            os.sched_setaffinity(int(task.name), cores)


def pin_apart(server: int, others: Iterable[int]) -> None:
    """Bind the server to its core, and the others to the rest.

    This process, and so all that it starts, goes to the rest, too, unless it is the server.
    """
    for pid in {*others, os.getpid()}:
        pin(pid, OTHER_CORES)
    pin(server, SERVER_CORES)


def stop(process: subprocess.Popen[str]) -> None:
    """End a process that we started, and wait for its end."""
    process.send_signal(signal.SIGTERM)
    process.wait()


@contextmanager
def running_node(keys: Path, *arguments: str, code: Path | None = None) -> Iterator[Server]:
    """Run `limiter-node up` with one node and, unless the arguments say otherwise, an embedded cluster.

    `code`: the directory of another checkout of this project, whose node is run instead.
    """
    process = subprocess.Popen(
        [sys.executable, "-m", "limiter_node", "up", "--nodes", "1", "--port", "0", "--keys", str(keys), *arguments],
        stdout=subprocess.PIPE,
        text=True,
        cwd=code,
        env=os.environ | ({"PYTHONPATH": str(code)} if code else {}),
    )
    try:
        assert process.stdout is not None
        port = store_port = 0
        for line in process.stdout:
            words = line.split()
            if words[:1] == ["node"]:
                port = int(words[3].rpartition(":")[2])
            elif words[:1] == ["store"] and "," not in line:
                store_port = int(words[1].rpartition(":")[2])
            elif words == ["ready"]:
                break
        if not port:
            sys.exit("limiter-node up did not start")
        servers = limiter_processes(process.pid)
        node = next(server.pid for server in servers if server.kind == NODE)
        store = tuple(server.pid for server in servers if server.kind == STORE)
        pin_apart(node, (*store, process.pid))
        yield Server(port, node, store_port, store)
    finally:
        stop(process)
