"""Processes of an attack's scene: programs of this package that are told what to do by lines, and a node's memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from bench_client.servers.procfs import cpu_seconds, descendants

ROOT = Path(__file__).parents[2]
PATIENCE_S = 120.0


class Program:
    """One of this package's programs; it answers each line with a line."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def read(self) -> str:
        """The next line. Raises RuntimeError when the program has ended."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self._process.args} ended with {self._process.wait(10)}")
        return line.rstrip("\n")

    def order(self, **order: Any) -> None:
        """Tell it what to do next."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()

    def told(self) -> dict[str, Any]:
        """What it says of the last order."""
        told = json.loads(self.read())
        assert isinstance(told, dict)
        return told


@contextmanager
def program(name: str, *arguments: str) -> Iterator[Program]:
    """Run ``python -m attack.NAME``; ended when the block is left."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])}
    process = subprocess.Popen(
        [sys.executable, "-m", f"attack.{name}", *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    )
    try:
        yield Program(process)
    finally:
        assert process.stdin is not None
        assert process.stdout is not None
        with suppress(OSError):
            process.stdin.close()
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()


class Watched:
    """A node process and the helpers that it started: their memory in MB (10⁶ bytes), resident, and their CPU time."""

    def __init__(self, pid: int) -> None:
        self._pid = pid

    def _pids(self) -> list[int]:
        return [self._pid, *descendants(self._pid)]

    def memory_mb(self) -> float:
        """Now."""
        return sum(_field_mb(pid, "VmRSS:") for pid in self._pids())

    def peak_mb(self) -> float:
        """The most since `forget_peak`: each process's own peak, summed."""
        return sum(_field_mb(pid, "VmHWM:") for pid in self._pids())

    def forget_peak(self) -> None:
        for pid in self._pids():
            with suppress(OSError):
                Path(f"/proc/{pid}/clear_refs").write_text("5")

    def cpu_s(self) -> float:
        """So far."""
        total = 0.0
        for pid in self._pids():
            with suppress(OSError):
                total += cpu_seconds(pid)
        return total


def _field_mb(pid: int, field: str) -> float:
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith(field):
                return int(line.split()[1]) * 1024 / 1e6
    return 0.0
