"""Child processes that end with their parent, and the ports they listen on.

Owns `end_with_parent`, so that a ``kill -9`` of the parent leaves nothing running, and the search for free ports.
Neighbours: `store.embedded` (servers) and `supervisor` (nodes).
"""

from __future__ import annotations

import errno
import os
import random
import signal
import socket
import sys
from collections.abc import Sequence
from typing import Any

from limiter_node.errors import ConfigError

# Runs in the child before the command. A program of its own instead of a `preexec_fn`, because Python code between fork
# and exec can deadlock when the parent has threads (Python 3.12 warns about it). It costs some 20 ms per child. The
# check of the parent's id closes the race in which the parent ends before `prctl`.
_SHIM = """\
import ctypes, os, sys
ctypes.CDLL(None, use_errno=True).prctl(1, int(sys.argv[1]))
if os.getppid() != int(sys.argv[2]):
    sys.exit(1)
try:
    os.execv(sys.argv[3], sys.argv[3:])
except OSError as error:
    sys.exit(f"cannot run {sys.argv[3]}: {error.strerror}")
"""

# Below the range of local ports for outgoing connections, which begins at 32768 on Linux and 49152 on macOS: any client
# can take a port of that range between our check and the server's bind.
_LOWEST_PORT, _HIGHEST_PORT = 10_240, 32_767


def end_with_parent(command: Sequence[str], death_signal: signal.Signals) -> list[str]:
    """Return the command line that runs `command`, an absolute path first, and signals it when its parent ends.

    Linux only (PR_SET_PDEATHSIG); elsewhere the command is returned as it is. The parent is the *thread* that starts
    the process: start it from one that lives as long as the child should.
    """
    if sys.platform != "linux":
        return list(command)
    return [sys.executable, "-I", "-S", "-c", _SHIM, str(int(death_signal)), str(os.getpid()), *command]


def exit_text(code: int) -> str:
    """Return a process's exit code in words; negative codes are signals."""
    if code >= 0:
        return f"exit code {code}"
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"


def port_is_free(host: str, port: int) -> bool:
    """Whether a server could listen on that port now. Raises ConfigError if it can't listen on that host at all."""
    try:
        addresses = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        probes = [_probe(*address) for address in addresses]
    except OSError as error:
        raise ConfigError(f"cannot listen on {host}, port {port}: {error.strerror or error}") from None
    if all(probe is None for probe in probes):
        raise ConfigError(f"cannot listen on {host}: this machine has no such address")
    return False not in probes


def _probe(family: int, kind: int, protocol: int, name: str, address: tuple[Any, ...]) -> bool | None:
    """Whether the address is free; None if this machine doesn't have it, for example ``::1`` without IPv6."""
    try:
        with socket.socket(family, kind, protocol) as probe:
            # As servers do: connections of an earlier server that linger in TIME_WAIT don't make a port taken.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            probe.bind(address)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            return False
        if error.errno in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
            return None
        raise
    return True


def free_ports(count: int, host: str = "127.0.0.1", avoid: Sequence[int] = ()) -> list[int]:
    """Return distinct ports on which nothing listens now, random so that two callers at once seldom get the same.

    Raises ConfigError as `port_is_free` does.
    """
    found: list[int] = []
    while len(found) < count:
        port = random.randint(_LOWEST_PORT, _HIGHEST_PORT)
        if port not in found and port not in avoid and port_is_free(host, port):
            found.append(port)
    return found
