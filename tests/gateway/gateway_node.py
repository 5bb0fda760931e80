"""A node of this process behind which services are."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from in_process import Node, serving
from yarl import URL

from limiter_node.held import HeldBytes
from limiter_node.http.server.client_connection import Deadlines
from limiter_node.upstream.gateway.sending.timeouts import UpstreamTimeouts
from limiter_node.upstream.gateway.service import Service
from limiter_node.upstream.gateway.upstream import Gateway

KEY = "up-secret-of-the-service"


def service_at(*urls: str, name: str = "svc", key: str = KEY, **options: Any) -> Service:
    """A service at these base URLs."""
    return Service(name=name, urls=tuple(URL(url) for url in urls), key=key, **options)


@asynccontextmanager
async def gateway(
    store: str,
    *services: Service,
    timeouts: UpstreamTimeouts = UpstreamTimeouts(read_s=20),  # noqa: B008
    read_on_s: float = 2.0,
    deadlines: Deadlines = Deadlines(),  # noqa: B008
    max_body_bytes: int = 10_000,
    held: HeldBytes | None = None,
) -> AsyncIterator[Node]:
    """A node that asks `services`; what it holds of answers counts in `held`."""
    async with serving(
        store,
        upstream_of=lambda telemetry: Gateway(services, telemetry, timeouts, held=held),
        read_on_s=read_on_s,
        deadlines=deadlines,
        max_body_bytes=max_body_bytes,
    ) as node:
        yield node
