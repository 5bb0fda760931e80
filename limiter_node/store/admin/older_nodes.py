"""Finds live nodes of versions that can't decide keys of accounts, so that whoever loads such keys hears of them.

Such a node answers 503 for these keys, but goes on admitting a key that it has decided as a plain one, as in an outage:
nothing that is stored can keep it from that.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import NoPermissionError

from limiter_node.store.admin.policies import time_ms_of
from limiter_node.store.fleet import OLDEST_MS, knows_accounts
from limiter_node.store.keyspace import NODES_KEY


async def older_nodes(client: Redis) -> list[str]:
    """Return a warning if there are such nodes, else nothing. `client`: of the server that has the list of nodes.

    A login without the right to ask hears of none. Raises redis-py's errors.
    """
    with suppress(NoPermissionError):
        announced: dict[Any, Any] = await client.hgetall(NODES_KEY)
        now_ms = await time_ms_of(client)
        live = [node for node, seen_ms in announced.items() if abs(now_ms - int(seen_ms)) <= OLDEST_MS]
        if count := sum(not knows_accounts(node) for node in live):
            nodes = "1 node" if count == 1 else f"{count} nodes"
            return [
                f"{nodes} of an older version can't decide keys of accounts, and may go on admitting keys that were "
                "plain before, whatever their limits are now: upgrade all nodes"
            ]
    return []
