"""Sends requests to services: which address, on which connection, within which time, and how often.

A request is sent once. It is sent again in two cases only: no connection was made (then another address of the service
is tried), or a connection that was kept open turned out to be closed, within `_STALE_S`. One that ends later was open,
and the service may have read the request and failed over it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from io import BytesIO
from time import monotonic
from typing import NamedTuple

from aiohttp import (
    ClientConnectorError,
    ClientOSError,
    ClientResponse,
    ClientSession,
    ClientTimeout,
    ConnectionTimeoutError,
    DummyCookieJar,
    ServerDisconnectedError,
)
from yarl import URL

from limiter_node.telemetry import Telemetry, UpstreamCounts
from limiter_node.upstream.base import UpstreamError
from limiter_node.upstream.gateway.answers import BROKEN
from limiter_node.upstream.gateway.pool import KeepAliveConnector, wants_new, was_used
from limiter_node.upstream.gateway.rotation import Rotation, Target
from limiter_node.upstream.gateway.service import Service

_LARGE_BYTES = 32_768
"""What is no longer, the system takes at once. Else a service that doesn't read can keep a request from being sent, and
aiohttp's own patience begins only after that."""
_STALE_S = 0.5
"""A kept connection that the service has closed says so within a round trip."""
_LISTING_S = 5.0
"""How long an address may take for its list: a model that thinks is worth waiting for, this isn't."""


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
        self._rotations = {service.name: Rotation(service.name, service.urls, clock) for service in services}
        self._counts = {service.name: UpstreamCounts() for service in services}
        telemetry.upstreams = self._counts
        telemetry.upstream_targets = [target for each in self._rotations.values() for target in each.targets]
        self._urls: dict[tuple[URL, str], URL] = {}
        self._session: ClientSession | None = None

    async def close(self) -> None:
        """Let go of all connections."""
        if self._session is not None:
            await self._session.close()

    async def send(
        self, service: Service, method: str, path: str, body: bytes | None, headers: dict[str, str]
    ) -> tuple[ClientResponse, Target]:
        """The head of the response, and whose it is. Raises `UpstreamError`."""
        failure: UpstreamError | None = None
        counts = self._counts[service.name]
        sent_s = monotonic()
        for target in self._rotations[service.name].in_turn(may_try=body is not None):
            if failure is not None:
                counts.retries += 1
            try:
                response = await self._sent_to(target, counts, method, path, body, headers)
                if body is not None:
                    counts.head_wait.note(monotonic() - sent_s)
                return response, target
            except (ClientConnectorError, ConnectionTimeoutError) as error:
                what = "connecting took too long" if isinstance(error, TimeoutError) else _reason(error)
                failure = self.failure(service, target, "unreachable", f"cannot be reached ({what})")
            except TimeoutError:
                raise self.failure(service, target, "timeout", "did not begin to answer in time") from None
            except BROKEN as error:
                what = f"broke off before it answered ({type(error).__name__})"
                raise self.failure(service, target, "broken", what) from None
            except asyncio.CancelledError:
                counts.outcomes["gone"] += 1
                raise
        assert failure is not None, "a service has an address"
        raise failure

    async def _sent_to(
        self,
        target: Target,
        counts: UpstreamCounts,
        method: str,
        path: str,
        body: bytes | None,
        headers: dict[str, str],
    ) -> ClientResponse:
        url = self._urls.get((target.url, path))
        if url is None:
            url = self._urls[target.url, path] = target.url.joinpath(path).with_query(target.url.query)
        session, sent_s = self._session or self._open(), monotonic()
        try:
            return await self._once(session, method, url, body, headers)
        except (ClientConnectorError, ConnectionTimeoutError):
            raise
        except (ServerDisconnectedError, ClientOSError):
            if not was_used.get() or monotonic() - sent_s > _STALE_S:
                raise
        counts.retries += 1
        token = wants_new.set(True)
        try:
            return await self._once(session, method, url, body, headers)
        finally:
            wants_new.reset(token)

    async def _once(
        self, session: ClientSession, method: str, url: URL, body: bytes | None, headers: dict[str, str]
    ) -> ClientResponse:
        if body is None:
            return await session.request(
                method, url, headers=headers, allow_redirects=False, timeout=self._listing_timeout()
            )
        if len(body) <= _LARGE_BYTES:
            return await session.request(method, url, data=body, headers=headers, allow_redirects=False)
        async with asyncio.timeout(self._patience.connect_s + self._patience.read_s):
            # As a file, because aiohttp lets go of the event loop between its parts.
            return await session.request(method, url, data=BytesIO(body), headers=headers, allow_redirects=False)

    def _listing_timeout(self) -> ClientTimeout:
        patience = self._patience
        return ClientTimeout(min(_LISTING_S, patience.read_s), connect=patience.connect_s)

    def _open(self) -> ClientSession:
        """Late, because it wants the event loop that it is used in."""
        patience = self._patience
        self._session = ClientSession(
            # Requests under way are bounded by the node; here nothing is to wait for a connection.
            connector=KeepAliveConnector(limit=0, keepalive_timeout=patience.keepalive_s),
            timeout=ClientTimeout(
                total=None, connect=patience.connect_s, sock_connect=patience.connect_s, sock_read=patience.read_s
            ),
            cookie_jar=DummyCookieJar(),  # one caller's answer must not become another's request
        )
        return self._session

    def ended(self, service: Service, target: Target) -> Ended:
        """What is told, once, how a request to `target` ended."""
        return Ended(self._counts[service.name], target, is_only=self._rotations[service.name].is_single)

    def failure(
        self,
        service: Service,
        target: Target,
        outcome: str,
        what: str,
        response: ClientResponse | None = None,
        error: UpstreamError | None = None,
    ) -> UpstreamError:
        """Count a failure; the error to raise, which says in our log who failed."""
        if response is not None:
            response.close()
        self.ended(service, target)(outcome, what)
        said = f"upstream {service.name}: {target.name} {what}"
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

    __slots__ = ("_counts", "_has_ended", "_is_only", "_target")

    def __init__(self, counts: UpstreamCounts, target: Target, *, is_only: bool) -> None:
        self._counts, self._target, self._is_only = counts, target, is_only
        self._has_ended = False

    def __call__(self, outcome: str, what: str) -> None:
        if self._has_ended:
            return
        self._has_ended = True
        self._counts.outcomes[outcome] += 1
        if outcome in _ANSWERED:
            self._target.succeeded()
        elif outcome != "gone":
            self._target.failed(why=what, is_only=self._is_only)


def _reason(error: ClientConnectorError) -> str:
    """Why no connection was made, without the address, which stands before it."""
    return error.os_error.strerror or type(error).__name__
