"""Writes a request on a connection and waits for the head of its answer; long bodies are written in slices."""

from __future__ import annotations

import asyncio
from typing import Final

from limiter_node.held import SMALL_BYTES
from limiter_node.upstream.gateway.wire.exchange import Exchange
from limiter_node.upstream.gateway.wire.service_connection import ServiceConnection

_SLICE_BYTES: Final = 262_144
"""A longer body is written in slices, so that none holds up the event loop: with TLS, writing encrypts."""

_writing: set[asyncio.Task[None]] = set()
"""The tasks under way, because the event loop holds its tasks weakly."""


async def send_request(connection: ServiceConnection, exchange: Exchange, head: bytes, body: bytes | bytearray) -> None:
    """Write a request and wait for the head of its answer. Raises `Broken` and `TimeoutError`."""
    writing: asyncio.Task[None] | None = None
    try:
        if len(body) <= SMALL_BYTES:  # so small that the kernel takes it at once
            connection.write(head + body)
        else:
            # In a task, because a service may answer (or fail) before it has read everything.
            writing = asyncio.create_task(_write_slices(connection, exchange, head, body))
            _writing.add(writing)
            writing.add_done_callback(_writing.discard)
        await exchange.head()
    except BaseException:
        exchange.close()
        raise
    finally:
        # A service that has begun a good answer may still want the rest; the connection's end ends it.
        if writing is not None and not 200 <= exchange.status < 400:
            writing.cancel()
            await asyncio.wait([writing])  # awaiting the task itself would raise its cancellation here


async def _write_slices(
    connection: ServiceConnection, exchange: Exchange, head: bytes, body: bytes | bytearray
) -> None:
    """Write a long request slice by slice, as the service takes it, until all is written or nobody wants it."""
    connection.has_unsent = True
    if not connection.is_open:
        return
    connection.write(head)
    view = memoryview(body)
    for start in range(0, len(body), _SLICE_BYTES):
        if not connection.carries(exchange) or exchange.status >= 400 or not connection.is_open:
            return  # refused before it was read, or broken: the rest is of no use
        connection.write(view[start : start + _SLICE_BYTES])
        await connection.drained()
    connection.has_unsent = False
