"""Sends requests to services: chooses address and connection, and bounds time and retries.

A request is sent once. It is sent again in two cases only: no connection was made (then another address of the service
is tried), or a kept connection turned out to be closed, within `_STALE_S`. A connection that ends later was open, and
the service may have read the request and failed over it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from time import monotonic
from typing import Final

from limiter_node.telemetry import Telemetry, UpstreamCounts
from limiter_node.upstream.errors import UpstreamError
from limiter_node.upstream.gateway.sending.outcome import OutcomeRecorder
from limiter_node.upstream.gateway.sending.rotation import Rotation
from limiter_node.upstream.gateway.sending.service_address import ServiceAddress
from limiter_node.upstream.gateway.sending.timeouts import UpstreamTimeouts
from limiter_node.upstream.gateway.service import Service
from limiter_node.upstream.gateway.wire.connection_pool import ConnectionPool
from limiter_node.upstream.gateway.wire.dialing import Dialer, Unreachable
from limiter_node.upstream.gateway.wire.exchange import Broken, Exchange, Unread
from limiter_node.upstream.gateway.wire.request_writing import send_request

_STALE_S: Final = 0.5
"""A kept connection that the service has closed fails within a round trip."""


class ServiceSender:
    """Send requests to `services`, and count them in `telemetry`. `clock` times ejections, in seconds."""

    def __init__(
        self, services: Sequence[Service], telemetry: Telemetry, timeouts: UpstreamTimeouts, clock: Callable[[], float]
    ) -> None:
        self._timeouts = timeouts
        self._dialer = Dialer(timeouts.connect_s)
        self._rotations = {service.name: Rotation(service.name, service.urls, clock) for service in services}
        self._counts = {service.name: UpstreamCounts() for service in services}
        telemetry.upstreams = self._counts
        telemetry.upstream_targets = [address for each in self._rotations.values() for address in each.addresses]
        self._pools: dict[ServiceAddress, ConnectionPool] = {}
        self._heads: dict[tuple[ServiceAddress, str, str], bytes] = {}

    async def close(self) -> None:
        """Close all connections."""
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
    ) -> tuple[Exchange, ServiceAddress]:
        """Return the answer, whose head has come, and the address that gives it. Raises `UpstreamError`.

        `on_sent` is called before the first byte is sent: from then on the service may do the work.
        """
        failure: UpstreamError | None = None
        counts = self._counts[service.name]
        sent_s = monotonic()
        block = "".join([f"{name}: {value}\r\n" for name, value in headers.items()])
        if body is not None:
            block += f"Content-Length: {len(body)}\r\n"
        fields = f"{block}\r\n".encode("latin-1")
        for address in self._rotations[service.name].order(may_try=body is not None):
            if failure is not None:
                counts.retries += 1
            head = (self._heads.get((address, method, path)) or self._request_line(address, method, path)) + fields
            try:
                exchange = await self._send_to(address, counts, head, body or b"", on_sent)
                if body is not None:
                    counts.head_wait.note(monotonic() - sent_s)
                return exchange, address
            except Unreachable as error:
                failure = self.failure(service, address, "unreachable", f"cannot be reached ({error})")
            except TimeoutError:
                raise self.failure(service, address, "timeout", "did not begin to answer in time") from None
            except Broken as error:
                raise self.failure(service, address, "broken", f"{error} before it answered") from None
            except asyncio.CancelledError:
                counts.outcomes["gone"] += 1
                raise
        assert failure is not None, "a service has an address"
        try:
            raise failure
        finally:
            del failure  # it holds this frame: a cycle

    def _request_line(self, address: ServiceAddress, method: str, path: str) -> bytes:
        """Return the first lines of all requests of this kind, made once."""
        url = address.url.joinpath(path).with_query(address.url.query)
        host = url.raw_host or ""
        if ":" in host:
            host = f"[{host}]"
        at = host if url.is_default_port() else f"{host}:{url.port}"
        line = f"{method} {url.raw_path_qs} HTTP/1.1\r\nHost: {at}\r\nAccept: */*\r\n".encode("latin-1")
        self._heads[address, method, path] = line
        return line

    async def _send_to(
        self,
        address: ServiceAddress,
        counts: UpstreamCounts,
        head: bytes,
        body: bytes | bytearray,
        on_sent: Callable[[], None],
    ) -> Exchange:
        pool = self._pools.get(address)
        if pool is None:
            timeouts = self._timeouts
            pool = self._pools[address] = ConnectionPool(
                address.url, self._dialer, timeouts.read_s, timeouts.keepalive_s
            )
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

    def outcome_recorder(self, service: Service, address: ServiceAddress) -> OutcomeRecorder:
        """Return the recorder that has to be called, once, with the outcome of a request to `address`."""
        return OutcomeRecorder(self._counts[service.name], address, is_only=self._rotations[service.name].is_single)

    def failure(
        self,
        service: Service,
        address: ServiceAddress,
        outcome: str,
        what: str,
        error: UpstreamError | None = None,
    ) -> UpstreamError:
        """Count a failure. Return the error to raise, which names the address in our log."""
        self.outcome_recorder(service, address)(outcome, what)
        message = f"{address.described} {what}"
        if error is None:
            return UpstreamError(message, status=504 if outcome == "timeout" else 502)
        return UpstreamError(
            message,
            status=error.status,
            produced_tokens=error.produced_tokens,
            body=error.body,
            headers=error.headers,
        )
