"""The gateway: an upstream that asks services over HTTP.

A request is sent once. It is sent again in two cases only: no connection was made (then another address of the service
is tried), or a connection that was kept open turned out to be closed, within `_STALE_S`. One that ends later was open,
and the service may have read the request and failed over it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from importlib.metadata import version
from io import BytesIO
from time import monotonic
from typing import NamedTuple

import orjson
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
from limiter_node.upstream.base import (
    AnswerStream,
    Ask,
    LimitedRequest,
    UnknownModel,
    UpstreamError,
    UpstreamRefusal,
    WholeAnswer,
)
from limiter_node.upstream.gateway.answers import (
    BROKEN,
    MAX_BODY_BYTES,
    PassingStream,
    read_body,
    refused,
    whole_answer,
)
from limiter_node.upstream.gateway.disguise import refuse_disguised
from limiter_node.upstream.gateway.outgoing import PATHS, outgoing_body, outgoing_headers
from limiter_node.upstream.gateway.pool import KeepAliveConnector, wants_new, was_used
from limiter_node.upstream.gateway.rotation import Rotation, Target
from limiter_node.upstream.gateway.service import Service, Services

log = logging.getLogger(__name__)

_LARGE_BYTES = 32_768
"""What is no longer, the system takes at once. Else a service that doesn't read can keep a request from being sent, and
aiohttp's own patience begins only after that."""
_STALE_S = 0.5
"""A kept connection that the service has closed says so within a round trip."""
_MODELS_S = 10.0
"""How long a list of models is remembered: asking for it costs callers nothing."""
_NO_MODELS_S = 1.0
"""How long it is remembered that there is none: those who waited for it needn't ask again, one after the other."""
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


class Gateway:
    """Asks `services`. `clock` is for the ejection of failing addresses, in seconds, monotonic."""

    stops_at_once = True

    def __init__(
        self,
        services: Sequence[Service],
        telemetry: Telemetry,
        patience: Patience = Patience(),  # noqa: B008 - a NamedTuple of numbers
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self._services = Services(services)
        self._patience = patience
        self._clock = clock
        self._user_agent = f"llm-rate-limiter/{version('llm-rate-limiter')}"
        self._rotations = {service.name: Rotation(service.name, service.urls, clock) for service in services}
        self._counts = {service.name: UpstreamCounts() for service in services}
        telemetry.upstreams = self._counts
        telemetry.upstream_targets = [target for each in self._rotations.values() for target in each.targets]
        self._urls: dict[tuple[URL, str], URL] = {}
        self._session: ClientSession | None = None
        self._models: tuple[str, ...] | UpstreamError = ()
        self._models_until_s = float("-inf")
        self._asking_models = asyncio.Lock()

    def check(self, request: LimitedRequest, body: bytes) -> None:
        """Raise `UnknownModel`, or `NotServed` for a body that a service might read in another way."""
        if self._services.find(request.model) is None:
            raise UnknownModel(request.model)
        refuse_disguised(request, body)

    async def ask(self, ask: Ask) -> WholeAnswer | AnswerStream:
        """The service's answer, as it is."""
        found = self._services.find(ask.request.model)
        assert found is not None, "checked before it was admitted"
        service = found.service
        counts = self._counts[service.name]
        path = PATHS[type(ask.request)]
        body, headers = outgoing_body(ask, service, found.model), outgoing_headers(ask, service, self._user_agent)
        sent_s = monotonic()
        response, target = await self._sent(service, "POST", path, body, headers)
        counts.head_wait.note(monotonic() - sent_s)
        ended = self._ended(service, target)
        try:
            if response.status != 200:
                raise await refused(response, service)
            is_stream = response.headers.get("Content-Type", "").lower().startswith("text/event-stream")
            if is_stream and ask.request.stream:
                return PassingStream(response, ask, service, f"upstream {service.name}: {target.name}", ended)
            if is_stream:
                raise UpstreamError("answered with a stream that nobody asked for")
            answer = await whole_answer(response, ask, service)
        except UpstreamRefusal as error:
            ended("rate_limited" if error.status == 429 else "refused", "")
            response.close()
            raise
        except UpstreamError as error:
            raise self._failure(service, target, "failed", str(error), response, error) from None
        except TimeoutError:
            raise self._failure(service, target, "timeout", "fell silent in its answer", response) from None
        except BROKEN as error:
            what = f"broke off its answer ({type(error).__name__})"
            raise self._failure(service, target, "broken", what, response) from None
        except BaseException:
            ended("gone", "")
            response.close()
            raise
        ended("ok", "")
        return answer

    async def models(self) -> tuple[str, ...]:
        """What the services list, under the names that callers use. Raises `UpstreamError` if none of them answers."""
        async with self._asking_models:
            if self._clock() >= self._models_until_s:
                self._models = await self._all_listed()
                is_failure = isinstance(self._models, UpstreamError)
                self._models_until_s = self._clock() + (_NO_MODELS_S if is_failure else _MODELS_S)
            if isinstance(self._models, UpstreamError):
                raise self._models
            return self._models

    async def close(self) -> None:
        """Let go of all connections."""
        if self._session is not None:
            await self._session.close()

    async def _all_listed(self) -> tuple[str, ...] | UpstreamError:
        """The names of all services' models, or why there are none."""
        names: dict[str, None] = {}
        failure: UpstreamError | None = None
        for service in self._services.all:
            listed: list[str] = []
            try:
                listed = await self._listed(service)
            except UpstreamError as error:
                failure = error
            for name in service.offered(listed):
                # Another service before this one may be who serves it.
                if (found := self._services.find(name)) is not None and found.service is service:
                    names[name] = None
        return tuple(names) if names or failure is None else failure

    async def _listed(self, service: Service) -> list[str]:
        if service.forwards_key:
            return []  # it lists them to its own callers only
        headers = {"Accept-Encoding": "identity", "User-Agent": self._user_agent}
        if service.key:
            headers["Authorization"] = f"Bearer {service.key}"
        response, target = await self._sent(service, "GET", "models", None, headers)
        try:
            if response.status != 200:
                raise await refused(response, service)
            said = orjson.loads(await read_body(response, MAX_BODY_BYTES))
            return [str(model["id"]) for model in said["data"]]
        except UpstreamError:
            raise
        except (*BROKEN, TimeoutError, orjson.JSONDecodeError, LookupError, TypeError):
            raise UpstreamError(f"upstream {service.name}: {target.name} could not list its models") from None
        finally:
            response.close()

    async def _sent(
        self, service: Service, method: str, path: str, body: bytes | None, headers: dict[str, str]
    ) -> tuple[ClientResponse, Target]:
        """The head of the response, and whose it is. Raises `UpstreamError`."""
        failure: UpstreamError | None = None
        counts = self._counts[service.name]
        for target in self._rotations[service.name].in_turn(may_try=body is not None):
            if failure is not None:
                counts.retries += 1
            try:
                return await self._sent_to(target, counts, method, path, body, headers), target
            except (ClientConnectorError, ConnectionTimeoutError) as error:
                what = "connecting took too long" if isinstance(error, TimeoutError) else _reason(error)
                failure = self._failure(service, target, "unreachable", f"cannot be reached ({what})")
            except TimeoutError:
                raise self._failure(service, target, "timeout", "did not begin to answer in time") from None
            except BROKEN as error:
                what = f"broke off before it answered ({type(error).__name__})"
                raise self._failure(service, target, "broken", what) from None
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

    def _ended(self, service: Service, target: Target) -> _Ended:
        return _Ended(self._counts[service.name], target, is_only=self._rotations[service.name].is_single)

    def _failure(
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
        self._ended(service, target)(outcome, what)
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


class _Ended:
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
