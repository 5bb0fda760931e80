"""This machine's processes, read from ``/proc``: who started whom, and the CPU each has used. Linux only.

Elsewhere, or of a process that has ended, there is nothing to read: lists are empty, and so is the CPU.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

NODE, STORE = "node", "store"
_SERVE = re.compile(r" serve .*--node-id[ =](\S+)")
_STORE_SERVER = re.compile(r"(?:valkey|redis)-server\b.*?(?::|--port[ =])(\d+)")


@dataclass(frozen=True, slots=True)
class LocalProcess:
    """Describe a server of a limiter on this machine."""

    name: str
    """``node 1``, ``store 7001``."""
    kind: str
    """``node`` or ``store``."""
    pid: int

    def cpu_seconds(self) -> float | None:
        """Return what it and the processes that it started have used so far; None when it has ended."""
        try:
            return cpu_seconds(self.pid) + sum(cpu_seconds(pid) for pid in descendants(self.pid))
        except OSError:
            return None


def children(pid: int) -> list[int]:
    """Return the processes that this one has started and that haven't ended."""
    found: list[int] = []
    try:
        for task in Path(f"/proc/{pid}/task").iterdir():
            found += map(int, (task / "children").read_text().split())
    except OSError:
        pass
    return found


def descendants(pid: int) -> Iterator[int]:
    """Return its children, their children and so on."""
    for child in children(pid):
        yield child
        yield from descendants(child)


def cpu_seconds(pid: int) -> float:
    """Return the user and system time that a process has used so far. Raises OSError when it has ended."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def limiter_processes(pid: int) -> list[LocalProcess]:
    """Return the nodes and store servers that a ``limiter-node up`` runs, by kind and then by number."""
    found = []
    for child in children(pid):
        try:
            command = Path(f"/proc/{child}/cmdline").read_bytes().decode(errors="replace").replace("\0", " ")
        except OSError:
            continue
        for kind, pattern in ((NODE, _SERVE), (STORE, _STORE_SERVER)):
            if match := pattern.search(command):
                found.append(LocalProcess(f"{kind} {match[1]}", kind, child))
    return sorted(found, key=lambda process: (process.kind, len(process.name), process.name))
