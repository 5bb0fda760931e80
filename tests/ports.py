"""Free ports for the tests: ones that no test beside this one, and no program under test, chooses by itself.

Between choosing a port and listening on it somebody else may take it. So each process that runs tests (pytest, or each
of its workers) has a block of ports of its own, which it claims by holding the block's first one. All blocks are below
the range from which the programs under test choose (`limiter_node.processes`) and the one from which the kernel does.
"""

from __future__ import annotations

import atexit
import random
import socket
from functools import cache
from itertools import count

from limiter_node.processes import port_is_free

_FIRST, _END = 2_000, 10_240
_BLOCK = 206
_used = count()


@cache
def _block() -> int:
    """Return the first port of this process's block, which is held until the process ends."""
    firsts = list(range(_FIRST, _END, _BLOCK))
    random.shuffle(firsts)
    for first in firsts:
        holder = socket.socket()
        try:
            holder.bind(("127.0.0.1", first))
        except OSError:
            holder.close()
        else:
            atexit.register(holder.close)
            return first
    raise RuntimeError(f"all ports from {_FIRST} to {_END} are claimed")


def free_ports(number: int, host: str = "127.0.0.1") -> list[int]:
    """Return so many ports that follow each other, on which nothing listens and which were not given out lately."""
    first = _block()
    ports: list[int] = []
    while len(ports) < number:
        port = first + 1 + next(_used) % (_BLOCK - 1)
        if not port_is_free(host, port) or (ports and port != ports[-1] + 1):
            ports.clear()
        else:
            ports.append(port)
    return ports


def free_port() -> int:
    """Return one such port."""
    return free_ports(1)[0]
