"""Connections to services, kept alive between requests, and the one thing that goes wrong with them.

A service may close a connection that nobody uses just when it is used again (llama.cpp closes after every stream, and
doesn't say so). Such a request was not read, and may be sent again; one on a new connection may have been. aiohttp
doesn't tell which it was, so the connector here notes it, in the context of the task that asks.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextvars import ContextVar
from typing import Any

from aiohttp import ClientRequest, ClientTimeout, TCPConnector
from aiohttp.connector import Connection

wants_new: ContextVar[bool] = ContextVar("wants_new", default=False)
"""Set it for a request that must not go on a connection that was used before."""
was_used: ContextVar[bool] = ContextVar("was_used", default=False)
"""Whether the last request of this task went on one."""


class KeepAliveConnector(TCPConnector):
    """Tells by `was_used` and obeys `wants_new`."""

    async def connect(self, req: ClientRequest, traces: Sequence[Any], timeout: ClientTimeout) -> Connection:
        """A connection for `req`."""
        while True:
            connection = await super().connect(req, traces, timeout)  # type: ignore[arg-type]
            protocol = connection.protocol
            is_used = getattr(protocol, "was_used", False)
            if not (is_used and wants_new.get()):
                break
            connection.close()
        protocol.was_used = True  # type: ignore[union-attr]
        was_used.set(is_used)
        return connection
