"""The connection to one server, where the loop's own ways matter."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import pytest
import uvloop

from limiter_node.store.url import parse_store_url
from limiter_node.store.wire import store_connection
from limiter_node.store.wire.store_connection import ServerConnection


@pytest.mark.parametrize("run", [uvloop.run, asyncio.run])
@pytest.mark.parametrize("turns", [1, 2])
def test_a_connection_made_when_its_time_was_over_is_made_again(
    embedded_single: str, run: Callable[[Any], Any], turns: int
) -> None:
    """This process stands still while it connects, for longer than a connection may take."""
    host, port = parse_store_url(embedded_single).endpoints[0]

    async def stand_still() -> None:
        connection = ServerConnection(host, port)
        connection.connect()
        for _ in range(turns):  # until the connection is under way
            await asyncio.sleep(0)
        time.sleep(store_connection._CONNECT_TIMEOUT_S + 0.1)  # noqa: ASYNC251
        try:
            async with asyncio.timeout(5):
                while not connection.is_open:
                    connection.connect()  # as the topology does from time to time
                    await asyncio.sleep(0.01)
                await connection.ping()
        finally:
            await connection.close()

    run(stand_still())
