"""The routes of a node, and the responses to requests that fail.

`limited_requests` handles the requests that are decided.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import cast

from aiohttp import hdrs, web

from limiter_node.decisions import Decision, Usage
from limiter_node.errors import KeyIsMoving, Overloaded, StoreUnavailable
from limiter_node.held import HeldBytes
from limiter_node.http.auth import caller_of
from limiter_node.http.bodies.body import BodyReader
from limiter_node.http.bodies.body_errors import BODY_ERRORS, body_error
from limiter_node.http.cors import Cors
from limiter_node.http.in_flight import InFlight
from limiter_node.http.limited_requests import LimitedRequests
from limiter_node.http.metrics import HttpState, Metrics
from limiter_node.http.probes import RETRY_UNAVAILABLE_MS, Handler, Probes, Response, readable
from limiter_node.http.requests.limited_routes import LIMITED_ROUTES
from limiter_node.http.requests.reader import RequestReader
from limiter_node.http.responses import errors, json_bodies
from limiter_node.http.responses.errors import ErrorResponse
from limiter_node.http.responses.headers import RequestIds, ResponseHeaders, degraded, merged
from limiter_node.http.responses.rate_limits_body import rate_limits
from limiter_node.http.responses.whole_response import WholeResponse
from limiter_node.http.server.client_connection import ClientConnection
from limiter_node.http.server.overload import LoopLoad, TurnedAway
from limiter_node.http.server.raw_body import is_discardable
from limiter_node.http.streaming import READ_ON_S, Streams, log_upstream_failure
from limiter_node.limiter.admission import Limiter
from limiter_node.upstream.errors import UpstreamError
from limiter_node.upstream.interface import Upstream

log = logging.getLogger(__name__)

NO_CORS = Cors()
_MODELS = "/v1/models/"


class Routes:
    """Answer all routes of one node. `window_ms` is only shown, by ``GET /v1/rate_limits``.

    `not_started` returns why the node has not been ready yet, for ``GET /readyz``; "" once it has. With `probes_apart`
    the `probes` are not served here: callers get a 404 for them. `cors` has the headers for browsers.

    A request gets a 503 before its body is read if `load` says so (without one, never), or while `max_in_flight` others
    are under way, streams included. Requests that wait for their key or body don't count there: otherwise clients that
    send nothing could keep others out. The bytes that they hold count in `held`.
    """

    def __init__(
        self,
        *,
        limiter: Limiter,
        upstream: Upstream,
        reader: RequestReader,
        node_id: str,
        max_body_bytes: int,
        held: HeldBytes,
        window_ms: int,
        max_in_flight: int = 5_000,
        read_on_s: float = READ_ON_S,
        load: LoopLoad | None = None,
        not_started: Callable[[], str] = lambda: "",
        probes_apart: bool = False,
        cors: Cors = NO_CORS,
    ) -> None:
        self._limiter = limiter
        self._cors = cors
        self._not_started = not_started
        self._upstream = upstream
        self._reader = reader
        self._headers = ResponseHeaders(node_id, window_ms)
        self._ids = RequestIds()
        self._max_body_bytes = max_body_bytes
        self._held = held
        self._window_ms = window_ms
        self._responses = limiter.telemetry.responses
        metrics = Metrics(node_id, limiter.telemetry, limiter.state, self._http_state)
        self.probes = Probes(self._headers, limiter, metrics, self._problem)
        self._started = int(time.time())
        self._streams = Streams(read_on_s)
        self.is_draining = False
        self._load = LoopLoad() if load is None else load
        self._in_flight = InFlight(max_in_flight, self._load)
        limited = LimitedRequests(
            limiter=limiter,
            upstream=upstream,
            reader=reader,
            bodies=BodyReader(max_body_bytes),
            held=held,
            in_flight=self._in_flight,
            streams=self._streams,
            headers=self._headers,
            cors=cors,
        )
        self._table: dict[str, dict[str, Handler]] = {
            **{path: {"POST": partial(limited.answer, route)} for path, route in LIMITED_ROUTES.items()},
            "/v1/models": readable(self._models),
            "/v1/rate_limits": readable(self._rate_limits),
        }
        if cors.is_on:
            for methods in self._table.values():
                methods["OPTIONS"] = self._preflight
        # Probes are never turned away: a busy node would be restarted, or vanish from monitoring when it matters.
        self._never_shed: Mapping[str, object] = {}
        if not probes_apart:
            self._table |= self.probes.table
            self._never_shed = self.probes.table

    async def answer(self, request: web.BaseRequest) -> Response:
        """Return the response to any request; every failure becomes a response."""
        request_id = self._ids.next()
        self._in_flight.begin()
        response: Response
        try:
            if (
                self._load.sheds(_waited_s(request)) or self._in_flight.is_full
            ) and request.path not in self._never_shed:
                response = self._turned_away(request, request_id)
            elif hdrs.EXPECT in request.headers and request.headers[hdrs.EXPECT].lower() != "100-continue":
                response = self._error(errors.EXPECTATION_FAILED, request_id)
            else:
                methods = self._table.get(request.raw_path) or self._methods(request.path)
                if methods is None:
                    response = self._error(errors.not_found(request.method, request.path), request_id)
                elif (handler := methods.get(request.method)) is None:
                    response = self._error(errors.method_not_allowed(request.method, request.path), request_id)
                    response.headers += f"allow: {', '.join(methods)}\r\n"
                else:
                    response = await handler(request, request_id)
        except StoreUnavailable as error:
            event = {"event": "store_unavailable", "request_id": request_id}
            log.debug("request %s: %s", request_id, error, extra=event)
            is_moving = isinstance(error, KeyIsMoving)
            response = self._unavailable(errors.KEY_IS_MOVING if is_moving else errors.STORE_UNAVAILABLE, request_id)
        except Overloaded:
            response = self._unavailable(errors.OVERLOADED, request_id)
        except UpstreamError as error:
            log_upstream_failure(request_id, error)
            response = self._error(errors.upstream_failed(error), request_id)
        except BODY_ERRORS as error:
            response = self._error(body_error(error, self._max_body_bytes), request_id)
        except Exception:
            log.exception("request %s failed", request_id, extra={"event": "request_failed", "request_id": request_id})
            response = self._error(errors.INTERNAL, request_id)
        finally:
            self._in_flight.end()
        self._responses[response.status] += 1
        if self._cors.is_on and isinstance(response, WholeResponse):
            response.headers = merged(response.headers, self._cors.lines(request))
        if self.is_draining or (not request.content.is_eof() and not _is_discardable(request)):
            response.force_close()
        return response

    @property
    def under_way(self) -> int:
        """Return how many requests have no response yet."""
        return self._in_flight.under_way

    def _problem(self) -> str:
        return "the node is stopping" if self.is_draining else self._not_started()

    def _http_state(self) -> HttpState:
        """Return the figures for `Metrics`."""
        return HttpState(self._in_flight.under_way, self._load.connections, self._load.turned_away, self._held.held)

    def _methods(self, path: str) -> dict[str, Handler] | None:
        """Return the methods of a decoded path, None if there is no such route."""
        if path.startswith(_MODELS) and len(path) > len(_MODELS):
            methods = readable(self._model)
            return methods | {"OPTIONS": self._preflight} if self._cors.is_on else methods
        return self._table.get(path)

    async def drain(self, timeout_s: float) -> bool:
        """Make callers go elsewhere, and wait until no request is under way.

        After `timeout_s`, cut off streams and return False.
        """
        self.is_draining = True
        try:
            async with asyncio.timeout(timeout_s):
                await self._in_flight.none()
        except TimeoutError:
            self._streams.cut_off()
            return False
        return True

    # ---- routes that cost nothing ----------------------------------------------------------------------------------

    async def _preflight(self, request: web.BaseRequest, request_id: str) -> WholeResponse:
        """Answer the question of a browser before a page's request: needs no key and reads no body."""
        lines = self._cors.preflight(request, self._methods(request.path) or ())
        return WholeResponse(b"", self._headers.empty(request_id) + lines, 204)

    async def _caller(self, request: web.BaseRequest) -> Usage | ErrorResponse:
        """Return the usage of the caller's key, or the error for the caller."""
        kid = caller_of(request.headers)
        return kid if isinstance(kid, ErrorResponse) else await self._usage(kid)

    async def _usage(self, kid: str, models: tuple[str, ...] | None = None) -> Usage | ErrorResponse:
        found = await self._limiter.usage(kid, models)
        return errors.UNAUTHORIZED[found.outcome] if isinstance(found, Decision) else found

    async def _models(self, request: web.BaseRequest, request_id: str) -> WholeResponse:
        caller = await self._caller(request)
        if isinstance(caller, ErrorResponse):
            return self._error(caller, request_id)
        models = await self._upstream.models()
        return WholeResponse(json_bodies.models_list(models, self._started), self._headers.plain(request_id))

    async def _model(self, request: web.BaseRequest, request_id: str) -> WholeResponse:
        caller = await self._caller(request)
        if isinstance(caller, ErrorResponse):
            return self._error(caller, request_id)
        model = request.path.removeprefix(_MODELS)
        if model not in await self._upstream.models():
            return self._error(errors.model_not_found(model), request_id)
        return WholeResponse(json_bodies.model_object(model, self._started), self._headers.plain(request_id))

    async def _rate_limits(self, request: web.BaseRequest, request_id: str) -> WholeResponse:
        kid = caller_of(request.headers)
        if isinstance(kid, ErrorResponse):
            return self._error(kid, request_id)
        model = request.query.get("model")
        usage = await self._usage(kid, None if model is None else self._reader.model_names(model))
        if isinstance(usage, ErrorResponse):
            return self._error(usage, request_id)
        headers = self._headers.plain(request_id)
        if usage.degraded:
            headers += degraded(usage.degraded)
        body = rate_limits(usage, self._window_ms, kid, is_of_model=model is not None)
        return WholeResponse(body, headers)

    # ---- errors ----------------------------------------------------------------------------------------------------

    def _unavailable(self, error: ErrorResponse, request_id: str) -> WholeResponse:
        return WholeResponse(error.body, self._headers.unavailable(request_id, RETRY_UNAVAILABLE_MS), error.status)

    def _turned_away(self, request: web.BaseRequest, request_id: str) -> WholeResponse:
        self._load.turned_away += 1
        error, headers = errors.OVERLOADED, self._headers.unavailable(request_id, RETRY_UNAVAILABLE_MS)
        connection = cast(ClientConnection, request.protocol)
        return TurnedAway(error.body, headers, error.status, self._load.pause_s(), connection.has_rested)

    def _error(self, error: ErrorResponse, request_id: str) -> WholeResponse:
        return WholeResponse(error.body, self._headers.plain(request_id), error.status)


def _is_discardable(request: web.BaseRequest) -> bool:
    """Return whether the rest of the body may be discarded after the response. Even a few bytes cost much in chunks."""
    connection = request.protocol
    return is_discardable(request) and not (isinstance(connection, ClientConnection) and connection.has_unparsed)


def _waited_s(request: web.BaseRequest) -> float:
    """Return how many seconds ago `request` arrived; 0 if its connection is gone."""
    connection = request.protocol
    return time.monotonic() - connection.arrived_s if isinstance(connection, ClientConnection) else 0.0
