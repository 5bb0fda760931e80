"""Makes a cluster of freshly started servers: slots, epochs, introductions, replicas, waiting for agreement.

Every step is a condition that is awaited, none is a fixed sleep. Done when each server sees every other one, in its
role, and reports ``cluster_state:ok``. Three masters take a little over two seconds, nearly all of it a constant of the
servers: a master that starts stays closed for its first two seconds (CLUSTER_WRITABLE_DELAY in their source).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from itertools import combinations
from typing import Any, NamedTuple

from redis.asyncio import Redis

from limiter_node.store.embedded.server import HOST
from limiter_node.store.keyspace import SLOTS

_POLL_S = 0.02


class ClusterMember(NamedTuple):
    """One server that is to join. `master_port` is None for a master."""

    port: int
    bus_port: int
    master_port: int | None
    client: Redis


async def form_cluster(members: Sequence[ClusterMember]) -> None:
    """Make one cluster of empty servers and wait until all agree on it. Cancel it to bound its time."""
    masters = [member for member in members if member.master_port is None]
    await asyncio.gather(
        # Distinct epochs from the start: else servers find them by collision, one at a time. Only possible while a
        # server knows no other.
        *(_command(member, "CLUSTER SET-CONFIG-EPOCH", number) for number, member in enumerate(members, 1)),
        *(
            _command(master, "CLUSTER ADDSLOTSRANGE", SLOTS * i // len(masters), SLOTS * (i + 1) // len(masters) - 1)
            for i, master in enumerate(masters)
        ),
    )
    # Everyone to everyone: gossip would get there too, but later.
    for one, other in combinations(members, 2):
        await _command(one, "CLUSTER MEET", HOST, other.port, other.bus_port)
    await _until_all(members, lambda member: _sees_all(member, members))

    replicas = [member for member in members if member.master_port is not None]
    ids = {member.port: str(await _command(member, "CLUSTER MYID"), "ascii") for member in masters}
    for replica in replicas:
        assert replica.master_port is not None
        await _command(replica, "CLUSTER REPLICATE", ids[replica.master_port])
    await _until_all(replicas, _is_in_sync)
    await _until_all(members, lambda member: _sees_roles(member, members, ids))
    await _until_all(members, _is_ok)


async def _command(member: ClusterMember, name: str, *arguments: str | int) -> Any:
    return await member.client.execute_command(name, *arguments)  # type: ignore[no-untyped-call]


async def _until_all(members: Sequence[ClusterMember], condition: Callable[[ClusterMember], Awaitable[bool]]) -> None:
    for member in members:
        while not await condition(member):  # noqa: ASYNC110 - another process's state: it sends no event
            await asyncio.sleep(_POLL_S)


async def _nodes(member: ClusterMember) -> dict[int, dict[str, Any]]:
    """Return the server's view of the cluster, by port, as redis-py reads CLUSTER NODES."""
    nodes: dict[str, dict[str, Any]] = await _command(member, "CLUSTER NODES")
    return {int(address.rpartition(":")[2]): node for address, node in nodes.items()}


async def _sees_all(member: ClusterMember, members: Sequence[ClusterMember]) -> bool:
    healthy = {
        port
        for port, node in (await _nodes(member)).items()
        if node["connected"] and not {"handshake", "noaddr", "fail", "fail?"} & set(node["flags"].split(","))
    }
    return healthy == {other.port for other in members}


async def _sees_roles(member: ClusterMember, members: Sequence[ClusterMember], ids: dict[int, str]) -> bool:
    nodes = await _nodes(member)
    return all(
        nodes[other.port]["master_id"] == ("-" if other.master_port is None else ids[other.master_port])
        for other in members
    )


async def _is_in_sync(replica: ClusterMember) -> bool:
    info: dict[str, Any] = await _command(replica, "INFO", "replication")
    return info.get("master_link_status") == "up"


async def _is_ok(member: ClusterMember) -> bool:
    info: dict[str, str] = await _command(member, "CLUSTER INFO")
    return info["cluster_state"] == "ok"
