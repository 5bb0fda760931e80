"""Checks whether a server of the store can be trusted with counters: its version, role and eviction policy."""

from __future__ import annotations

import re
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import NoPermissionError

from limiter_node.errors import ConfigError, StoreUnavailable
from limiter_node.store.url import StoreAddress

OLDEST_VERSION = (7, 0)


async def check_server(address: StoreAddress, client: Redis) -> list[str]:
    """Check the server of `client`, one of the store at `address`. Return warnings for checks that were not possible.

    Raises redis-py's errors, and:
        ConfigError: the server is too old, a replica, in a cluster although the URL says single, or may evict keys.
        StoreUnavailable: its cluster is down, or a failover is under way.
    """
    where = address.describe()
    try:
        info: dict[str, Any] = await client.info()
    except NoPermissionError:
        await client.ping()
        return [f"{where} does not permit INFO: make sure that it is 7.0 or newer and maxmemory-policy noeviction"]
    version = str(info.get("redis_version", ""))
    numbers = re.match(r"(\d+)\.(\d+)", version)
    if numbers and (int(numbers[1]), int(numbers[2])) < OLDEST_VERSION:
        raise ConfigError(f"{where} runs version {version}: 7.0 or newer is needed")
    if info.get("cluster_enabled") and not address.cluster:
        raise ConfigError(f"{where} is part of a cluster: use redis+cluster:// in --store")
    if info.get("role") == "slave" and address.cluster:
        raise StoreUnavailable(f"{where}: a master of its cluster has become a replica: a failover is under way")
    if info.get("role") == "slave":
        raise ConfigError(f"{where} is a replica: give its primary in --store")
    if address.cluster:
        cluster: dict[str, str] = await client.execute_command("CLUSTER INFO")  # type: ignore[no-untyped-call]
        if cluster.get("cluster_state") != "ok":
            raise StoreUnavailable(f"{where} reports that its cluster is down: look at CLUSTER INFO there")
    policy = info.get("maxmemory_policy")
    if policy is None:
        return [f"{where} does not show its maxmemory-policy: make sure that it is noeviction"]
    if policy != "noeviction":
        raise ConfigError(
            f"{where} has maxmemory-policy {policy}, which drops counters: CONFIG SET maxmemory-policy noeviction"
        )
    return []
