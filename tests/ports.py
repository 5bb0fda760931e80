"""Free ports for the tests: ones that no test beside this one, and no program under test, chooses by itself.

Between choosing a port and listening on it somebody else may take it. So each of pytest's workers has a range of its
own here, and all of them are below the range from which the programs under test choose (`limiter_node.processes`)
and the one from which the kernel does.
"""

from __future__ import annotations

import os
import random

from limiter_node.processes import port_is_free

_FIRST, _END = 2_000, 10_240
_WORKERS = 8
"""More than anybody runs at a time; a ninth worker would share the range of the first."""
_PER_WORKER = (_END - _FIRST) // _WORKERS

_worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % _WORKERS
_offset = random.randrange(_PER_WORKER)  # another run on this machine begins elsewhere


def free_ports(count: int, host: str = "127.0.0.1") -> list[int]:
    """Return `count` ports that follow each other, on which nothing listens and which were not given out lately."""
    global _offset
    while True:
        if _offset + count > _PER_WORKER:
            _offset = 0
        first = _FIRST + _worker * _PER_WORKER + _offset
        ports = list(range(first, first + count))
        _offset += count
        if all(port_is_free(host, port) for port in ports):
            return ports


def free_port() -> int:
    """Return one such port."""
    return free_ports(1)[0]
