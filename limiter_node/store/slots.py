"""The owners of a cluster's slots, as its servers report them: ``CLUSTER SLOTS``, and the redirections MOVED and ASK.

A server may leave hosts out. A cluster behind a load balancer (``cluster-preferred-endpoint-type unknown-endpoint``)
gives ports only; a server that never learned its own address leaves that out. The host is then the one that was
asked (https://valkey.io/commands/cluster-slots). Neighbours: `discovery`, `masters`, `watch` (which ask), `topology`
(which is redirected).
"""

from __future__ import annotations

from typing import Any, NamedTuple

from redis.exceptions import InvalidResponse

Endpoint = tuple[str, int]

_NO_NAME = "?"
"""Stands for a server without a name in a cluster that prefers host names."""


class SlotRange(NamedTuple):
    """The slots `first` to `last`, both included, and the servers of their shard."""

    first: int
    last: int
    master: Endpoint
    replicas: tuple[Endpoint, ...]


def slot_ranges(reply: Any, asked_host: str) -> list[SlotRange]:
    """Read the reply to ``CLUSTER SLOTS`` of the server at `asked_host`; ranges come in the order of their slots.

    Raises redis-py's InvalidResponse for anything else.
    """
    try:
        ranges = [
            SlotRange(int(first), int(last), *_shard([_endpoint(server, asked_host) for server in servers]))
            for first, last, *servers in reply
        ]
    except (TypeError, ValueError, AttributeError, IndexError):
        raise InvalidResponse(f"the reply to CLUSTER SLOTS is not a list of slots: {reply!r:.100}") from None
    return sorted(ranges)


def redirect_endpoint(address: str, asked_host: str) -> Endpoint:
    """Return the server that a MOVED or ASK from `asked_host` names. Raises ValueError if its port is missing."""
    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    return (asked_host if host in ("", _NO_NAME) else host), int(port)


def _shard(servers: list[Endpoint]) -> tuple[Endpoint, tuple[Endpoint, ...]]:
    return servers[0], tuple(servers[1:])


def _endpoint(server: list[Any], asked_host: str) -> Endpoint:
    raw, port, *more = server
    host = raw.decode() if raw else ""
    if host == _NO_NAME:  # its IP is among the details behind the port
        facts = more[1] if len(more) > 1 else []
        named = dict(zip(facts[::2], facts[1::2], strict=False))
        host = (named.get(b"ip") or b"").decode()
    return host or asked_host, int(port)
