"""Open-loop loads by `bench-client run`, each in a process of its own: latency counts from when a request was due."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from bench_client.records.spool import SPOOL_NAMES
from bench_client.servers.procfs import cpu_seconds
from benchmarks.lib.servers import Server

_START_S = 30


class OpenLoop(NamedTuple):
    """Hold what a finished run showed."""

    summary: dict[str, Any]
    """The contents of ``summary.json``."""
    busy: float
    """The share of its core that the server's process used while the load went on."""


def run_open_loop(server: Server, keys: Path, qps: float, seconds: float, out: Path) -> OpenLoop:
    """Make a run; its records are in `out`. Ends the benchmark if it fails."""
    process = _sending(server, keys, qps, seconds, out)
    before, since = cpu_seconds(server.pid), time.perf_counter()
    time.sleep(seconds * 0.8)
    busy = (cpu_seconds(server.pid) - before) / (time.perf_counter() - since)
    _, errors = process.communicate()
    if process.returncode:
        sys.exit(f"bench-client run failed: {errors}")
    return OpenLoop(summary_of(out), busy)


@contextmanager
def open_loop_meanwhile(server: Server, keys: Path, qps: float, seconds: float, out: Path) -> Iterator[None]:
    """Offer a load from before the block begins until it ends; `seconds` must be more than the block takes."""
    process = _sending(server, keys, qps, seconds, out)
    try:
        yield
        if process.poll() is not None:
            sys.exit(f"bench-client run ended too early: {process.communicate()[1]}")
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate()


def summary_of(out: Path) -> dict[str, Any]:
    """Return the summary of a finished run."""
    summary: dict[str, Any] = json.loads((out / "summary.json").read_text())
    return summary


def _sending(server: Server, keys: Path, qps: float, seconds: float, out: Path) -> subprocess.Popen[str]:
    """Return the run's process, once it sends."""
    command = [
        *(sys.executable, "-m", "bench_client", "run", "--target", f"http://127.0.0.1:{server.port}"),
        *("--keys", str(keys), "--qps", str(qps), "--duration", str(seconds), "--model", "gpt-4o"),
        *("--out", str(out), "--force"),
    ]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    until = time.monotonic() + _START_S
    while not any(out.glob(SPOOL_NAMES)):  # made just before the first request is due
        if process.poll() is not None or time.monotonic() > until:
            process.kill()
            sys.exit(f"bench-client run did not start: {process.communicate()[1]}")
        time.sleep(0.02)
    return process
