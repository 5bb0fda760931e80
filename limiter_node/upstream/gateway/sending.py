"""Sends requests to services: which address, on which connection, within which time, and how often.

A request is sent once. It is sent again in two cases only: no connection was made (then another address of the service
is tried), or a connection that was kept open turned out to be closed, within `_STALE_S`. One that ends later was open,
and the service may have read the request and failed over it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from time import monotonic
from typing import Final, NamedTuple

from limiter_node.telemetry import Telemetry, UpstreamCounts
from limiter_node.upstream.errors import UpstreamError
from limiter_node.upstream.gateway.rotation import Rotation, Target
from limiter_node.upstream.gateway.service import Service
from limiter_node.upstream.gateway.wire.connection_pool import ConnectionPool
from limiter_node.upstream.gateway.wire.dialing import Dialer, Unreachable
from limiter_node.upstream.gateway.wire.exchange import Broken, Exchange, Unread
from limiter_node.upstream.gateway.wire.request_writing import send_request

_STALE_S: Final = 0.5
"""A kept connection that the service has closed says so within a round trip."""


class Patience(NamedTuple):
    """How long a service may take, in seconds."""

    connect_s: float = 5.0
    """For a connection, DNS and TLS included."""
    read_s: float = 300.0
    """Without a byte: until the head of its answer, and between two parts of it. A whole answer may take any time."""
    keepalive_s: float = 4.0
    """How long an idle connection is kept: less than services do, of which many close after 5."""


class Sender:
    """Sends to `services`, counts in `telemetry`. `clock` is for the ejection of failing addresses, in seconds."""

    def __init__(
        self, services: Sequence[Service], telemetry: Telemetry, patience: Patience, clock: Callable[[], float]
    ) -> None:
        self._patience = patience
        self._dialer = Dialer(patience.connect_s)
        self._rotations = {service.name: Rotation(service.name, service.urls, clock) for service in services}
        self._counts = {service.name: UpstreamCounts() for service in services}
        telemetry.upstreams = self._counts
        telemetry.upstream_targets = [target for each in self._rotations.values() for target in each.targets]
        self._pools: dict[Target, ConnectionPool] = {}
        self._heads: dict[tuple[Target, str, str], bytes] = {}

    async def close(self) -> None:
        """Let go of all connections."""
        for pool in self._pools.values():
            await pool.close()

    async def send(
        self,
        service: Service,
        method: str,
        path: str,
        body: bytes | bytearray | None,
        headers: dict[str, str],
        on_sent: Callable[[], None] = lambda: None,
    ) -> tuple[Exchange, Target]:
        """Return the answer, of which the head has come, and whose it is. Raises `UpstreamError`.

        `on_sent` is called before the first byte is sent: from then on the service may do the work.
        """
        failure: UpstreamError | None = None
        counts = self._counts[service.name]
        sent_s = monotonic()
        block = "".join([f"{name}: {value}\r\n" for name, value in headers.items()])
        if body is not None:
            block += f"Content-Length: {len(body)}\r\n"
        fields = f"{block}\r\n".encode("latin-1")
        for target in self._rotations[service.name].in_turn(may_try=body is not None):
            if failure is not None:
                counts.retries += 1
            head = (self._heads.get((target, method, path)) or self._request_line(target, method, path)) + fields
            try:
                exchange = await self._sent_to(target, counts, head, body or b"", on_sent)
                if body is not None:
                    counts.head_wait.note(monotonic() - sent_s)
                return exchange, target
            except Unreachable as error:
                failure = self.failure(service, target, "unreachable", f"cannot be reached ({error})")
            except TimeoutError:
                raise self.failure(service, target, "timeout", "did not begin to answer in time") from None
            except Broken as error:
                raise self.failure(service, target, "broken", f"{error} before it answered") from None
            except asyncio.CancelledError:
                counts.outcomes["gone"] += 1
                raise
        assert failure is not None, "a service has an address"
        try:
            raise failure
        finally:
            del failure  # it holds this frame: a cycle

    def _request_line(self, target: Target, method: str, path: str) -> bytes:
        """The first lines of all requests of this kind, made once."""
        url = target.url.joinpath(path).with_query(target.url.query)
        host = url.raw_host or ""
        if ":" in host:
            host = f"[{host}]"
        at = host if url.is_default_port() else f"{host}:{url.port}"
        line = f"{method} {url.raw_path_qs} HTTP/1.1\r\nHost: {at}\r\nAccept: */*\r\n".encode("latin-1")
        self._heads[target, method, path] = line
        return line

    async def _sent_to(
        self, target: Target, counts: UpstreamCounts, head: bytes, body: bytes | bytearray, on_sent: Callable[[], None]
    ) -> Exchange:
        pool = self._pools.get(target)
        if pool is None:
            patience = self._patience
            pool = self._pools[target] = ConnectionPool(target.url, self._dialer, patience.read_s, patience.keepalive_s)
        connection = await pool.connection()
        on_sent()
        sent_s = pool.now_s()
        exchange = connection.begin(sent_s)
        try:
            await send_request(connection, exchange, head, body)
            return exchange
        except Unread:
            if not exchange.was_used or pool.now_s() - sent_s > _STALE_S:
                raise
        counts.retries += 1
        connection = await pool.connection(is_new=True)
        exchange = connection.begin(pool.now_s())
        await send_request(connection, exchange, head, body)
        return exchange

    def ended(self, service: Service, target: Target) -> Ended:
        """What is told, once, how a request to `target` ended."""
        return Ended(self._counts[service.name], target, is_only=self._rotations[service.name].is_single)

    def failure(
        self,
        service: Service,
        target: Target,
        outcome: str,
        what: str,
        error: UpstreamError | None = None,
    ) -> UpstreamError:
        """Count a failure; the error to raise, which says in our log who failed."""
        self.ended(service, target)(outcome, what)
        said = f"{target.described} {what}"
        if error is None:
            return UpstreamError(said, status=504 if outcome == "timeout" else 502)
        return UpstreamError(
            said,
            status=error.status,
            produced_tokens=error.produced_tokens,
            body=error.body,
            headers=error.headers,
        )


_ANSWERED = frozenset(("ok", "rate_limited", "refused"))


class Ended:
    """Counts how a request ended, once, and lets the rotation know."""

    __slots__ = ("_counts", "_is_only", "_target", "has_ended")

    def __init__(self, counts: UpstreamCounts, target: Target, *, is_only: bool) -> None:
        self._counts, self._target, self._is_only = counts, target, is_only
        self.has_ended = False

    def __call__(self, outcome: str, what: str) -> None:
        if self.has_ended:
            return
        self.has_ended = True
        self._counts.outcomes[outcome] += 1
        if outcome in _ANSWERED:
            self._target.succeeded()
        elif outcome != "gone":
            self._target.failed(why=what, is_only=self._is_only)
