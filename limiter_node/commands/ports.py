"""The ports of the nodes that ``up`` starts: chooses free ones, and holds one that nodes share."""

from __future__ import annotations

import socket
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

from limiter_node.errors import ConfigError, LimiterError
from limiter_node.processes import free_ports, port_is_free

_LAST = 65_535


def check_ports(port: int, count: int, admin_port: int, admin_count: int) -> None:
    """Raise ConfigError if the nodes need a port above 65,535, or the same port twice. 0: any free ports, or none."""
    for flag, first, needed in (("--port", port, count), ("--admin-port", admin_port, admin_count)):
        if first + needed - 1 > _LAST:
            raise ConfigError(f"{flag} {first} is too high: {needed} nodes need ports up to {first + needed - 1}")
    if port and admin_port and port < admin_port + admin_count and admin_port < port + count:
        raise ConfigError(
            f"--port and --admin-port overlap: the nodes need {count} ports from {port} on and {admin_count} from "
            f"{admin_port} on; change one of them"
        )


def chosen_ports(flag: str, host: str, first: int, count: int, avoid: Sequence[int] = ()) -> list[int]:
    """Return `count` ports from `first` on; for 0, any free ports but those to `avoid`.

    Raises:
        LimiterError: a port is in use; the message says to choose another with `flag`.
        ConfigError: this machine doesn't have that address.
    """
    if first == 0:
        return free_ports(count, host, avoid)
    for port in range(first, first + count):
        if not port_is_free(host, port):
            raise LimiterError(f"port {port} is in use: choose another with {flag}")
    return list(range(first, first + count))


@contextmanager
def shared(host: str, port: int) -> Iterator[None]:
    """Hold a port for nodes that share it while the block runs, so that no other user's program takes it meanwhile.

    The kernel gives no connection to a socket that is bound and doesn't listen. Addresses that this machine doesn't
    have, such as ``::1`` if IPv6 is switched off, are left out.
    """
    with ExitStack() as held:
        for family, kind, protocol, _, address in socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        ):
            try:
                holder = held.enter_context(socket.socket(family, kind, protocol))
                holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
                if family == socket.AF_INET6:
                    holder.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                holder.bind(address)
            except OSError:
                continue
        yield
