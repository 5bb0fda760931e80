"""The routes, and the one way a request goes: HTTP → parse and count → admit → upstream → settle → response."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import cast

from aiohttp import hdrs, web

from limiter_node.held import HeldBytes, Hold
from limiter_node.http import errors, openai_response
from limiter_node.http.answer import Answer
from limiter_node.http.auth import caller_of
from limiter_node.http.bodies import BodyReader, BodyTooLarge, UnsupportedEncoding
from limiter_node.http.connection import Connection
from limiter_node.http.errors import ErrorReply
from limiter_node.http.fields import InvalidRequest
from limiter_node.http.headers import RequestIds, ResponseHeaders, degraded, merged, produced
from limiter_node.http.limited import LIMITED_ROUTES, LimitedRoute
from limiter_node.http.metrics import HttpState, Metrics
from limiter_node.http.overload import LoopLoad, TurnedAway
from limiter_node.http.presence import ClientGone, Presence
from limiter_node.http.raw_body import BodyTimeout, UnreadableBody, is_discardable
from limiter_node.http.streaming import Streams, log_upstream_failure
from limiter_node.limiter.limiter import Limiter
from limiter_node.model import Outcome, Overloaded, StoreUnavailable, Usage
from limiter_node.token_process import TokenCounting
from limiter_node.upstream.base import AnswerStream, Ask, NotServed, Upstream, UpstreamError, WholeAnswer
from limiter_node.upstream.openai.error import error_body

log = logging.getLogger(__name__)

RETRY_UNAVAILABLE_MS = 1_000
"""What a 503 tells callers to wait: a failing store or an overload lasts about that long, or much longer."""

_MODELS = "/v1/models/"
_PROBES = frozenset(("/healthz", "/readyz", "/metrics"))
"""Never turned away: who asks would restart a node for being busy, or know nothing of it just then."""

Response = Answer | web.StreamResponse
Handler = Callable[[web.BaseRequest, str], Awaitable[Response]]


class Routes:
    """The handlers of one node. `window_ms` is only told, by ``GET /v1/rate_limits``.

    `not_started` tells ``GET /readyz`` why the node has not been ready yet; "" once it has.

    Requests are answered 503 before their bodies are read as `load` says (without one, never), and while
    `max_in_flight` others are under way, streams included. Requests whose keys or bodies are still to come don't count
    there: else those who send none could keep the others out. What they hold counts in `held`.
    """

    def __init__(
        self,
        *,
        limiter: Limiter,
        upstream: Upstream,
        counting: TokenCounting,
        node_id: str,
        max_body_bytes: int,
        held: HeldBytes,
        window_ms: int,
        max_in_flight: int = 5_000,
        load: LoopLoad | None = None,
        not_started: Callable[[], str] = lambda: "",
    ) -> None:
        self._limiter = limiter
        self._not_started = not_started
        self._upstream = upstream
        self._counting = counting
        self._headers = ResponseHeaders(node_id, window_ms)
        self._ids = RequestIds()
        self._bodies = BodyReader(max_body_bytes)
        self._held = held
        self._window_ms = window_ms
        self._responses = limiter.telemetry.responses
        self._metrics_of_node = Metrics(node_id, limiter.telemetry, limiter.state, self._http_state)
        self._started = int(time.time())
        self._streams = Streams()
        self.is_draining = False
        self._max_in_flight = max_in_flight
        self._load = LoopLoad() if load is None else load
        self.under_way = 0
        """Requests that have no answer yet."""
        self._reading = 0  # of those, the ones that wait for their client, or for whether there is such a key
        self._idle = asyncio.Event()
        self._table: dict[str, dict[str, Handler]] = {
            **{path: {"POST": partial(self._limited, route)} for path, route in LIMITED_ROUTES.items()},
            "/v1/models": {"GET": self._models},
            "/v1/rate_limits": {"GET": self._rate_limits},
            "/healthz": {"GET": self._healthz},
            "/readyz": {"GET": self._readyz},
            "/metrics": {"GET": self._metrics},
        }

    async def answer(self, request: web.BaseRequest) -> Response:
        """Answer any request; every failure becomes an answer, too."""
        request_id = self._ids.next()
        self.under_way += 1
        response: Response
        try:
            if (
                self._load.sheds(_waited_s(request)) or self.under_way - self._reading > self._max_in_flight
            ) and request.path not in _PROBES:
                response = self._turned_away(request, request_id)
            elif hdrs.EXPECT in request.headers and request.headers[hdrs.EXPECT].lower() != "100-continue":
                response = self._error(errors.EXPECTATION_FAILED, request_id)
            else:
                methods = (
                    self._table.get(request.raw_path) or self._table.get(request.path) or self._methods(request.path)
                )
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
            response = self._unavailable(errors.STORE_UNAVAILABLE, request_id)
        except Overloaded:
            response = self._unavailable(errors.OVERLOADED, request_id)
        except UpstreamError as error:
            log_upstream_failure(request_id, error)
            response = self._error(errors.upstream_failed(error), request_id)
        except BodyTooLarge:
            response = self._error(errors.too_large(self._bodies.max_bytes), request_id)
        except UnsupportedEncoding:
            response = self._error(errors.UNSUPPORTED_ENCODING, request_id)
        except BodyTimeout:
            response = self._error(errors.REQUEST_TIMEOUT, request_id)
        except UnreadableBody:
            unread = InvalidRequest("The body of your request could not be read.", None, None)
            response = self._error(errors.invalid_request(unread), request_id)
        except ConnectionError:
            response = self._error(errors.INTERNAL, request_id)  # the client is gone: nobody will read it
        except Exception:
            log.exception("request %s failed", request_id, extra={"event": "request_failed", "request_id": request_id})
            response = self._error(errors.INTERNAL, request_id)
        finally:
            self.under_way -= 1
            if not self.under_way:
                self._idle.set()
        self._responses[response.status] += 1
        if self.is_draining or (not request.content.is_eof() and not is_discardable(request)):
            response.force_close()
        return response

    def _http_state(self) -> HttpState:
        """For `Metrics`."""
        return HttpState(self.under_way, self._load.connections, self._load.turned_away, self._held.held)

    def _methods(self, path: str) -> dict[str, Handler] | None:
        """The methods of a decoded path, None if there is none of them."""
        if path.startswith(_MODELS) and len(path) > len(_MODELS):
            return {"GET": self._model}
        return self._table.get(path)

    async def drain(self, timeout_s: float) -> bool:
        """Tell callers to go elsewhere and wait until nothing is under way.

        If that takes too long: False, and streams are being cut off.
        """
        self.is_draining = True
        try:
            async with asyncio.timeout(timeout_s):
                while self.under_way:
                    self._idle.clear()
                    await self._idle.wait()
        except TimeoutError:
            self._streams.cut_off()
            return False
        return True

    # ---- the main flow ---------------------------------------------------------------------------------------------

    async def _limited(self, route: LimitedRoute, request: web.BaseRequest, request_id: str) -> Response:
        kid = caller_of(request.headers)
        if isinstance(kid, ErrorReply):
            return self._error(kid, request_id)
        # The key first: a request whose key nobody has declared costs no more than its head.
        if not self._limiter.knows(kid) and not await self._find(kid):
            return self._error(errors.INVALID_API_KEY, request_id)
        hold = Hold(self._held)
        try:
            return await self._admitted(route, request, request_id, kid, hold)
        finally:
            hold.release()

    async def _admitted(
        self, route: LimitedRoute, request: web.BaseRequest, request_id: str, kid: str, hold: Hold
    ) -> Response:
        try:
            body = self._bodies.read_at_once(request, hold)
            if body is None:
                body = await self._body(request, hold)
            asked = await route.read(body, self._counting)
            self._upstream.check(asked, body)
        except InvalidRequest as error:
            return self._error(errors.invalid_request(error), request_id)
        except NotServed as error:
            return self._error(errors.not_served(error), request_id)

        decision = await self._limiter.admit(kid, route.need(asked))
        if decision.outcome is not Outcome.ADMITTED:
            if decision.outcome is Outcome.UNKNOWN_KEY:
                return self._error(errors.INVALID_API_KEY, request_id)
            reply = errors.rate_limited(decision, kid)
            return Answer(reply.body, self._headers.decided(decision, request_id), reply.status)

        reservation = self._limiter.reservation(kid, decision)
        headers = self._headers.decided(decision, request_id)
        try:
            answer = await self._asked(
                request, Ask(asked, body, decision.need.output_tokens, request_id, request.headers)
            )
            hold.release()
            if not isinstance(answer, WholeAnswer):
                return await self._streams.send(request, request_id, headers, answer, reservation)
        except ClientGone:
            reservation.settle(0)  # nothing of it was produced, as far as anybody knows
            return self._error(errors.CLIENT_GONE, request_id)
        except UpstreamError as error:
            if error.produced_tokens:
                reservation.settle(error.produced_tokens)
            else:
                reservation.refund()
            log_upstream_failure(request_id, error)
            reply = errors.upstream_failed(error)
            return Answer(reply.body, merged(headers, error.headers), reply.status)
        except BaseException:
            reservation.refund()
            raise
        reservation.settle(answer.output_tokens)
        return Answer(answer.body, headers + produced(answer.output_tokens) + answer.headers)

    async def _asked(self, request: web.BaseRequest, ask: Ask) -> WholeAnswer | AnswerStream:
        """What the upstream answers. Raises `UpstreamError`, and `ClientGone` where that ends its work."""
        if not self._upstream.stops_at_once:
            return await self._upstream.ask(ask)
        with Presence(request):
            return await self._upstream.ask(ask)

    async def _find(self, kid: str) -> bool:
        """Whether the store has a key that the node hasn't met."""
        self._reading += 1
        try:
            is_found = await self._limiter.find(kid)
        finally:
            self._reading -= 1
        self._require_place()
        return is_found

    async def _body(self, request: web.BaseRequest, hold: Hold) -> bytes:
        """Return a body that is still to come. Raises as `BodyReader.read` does."""
        self._reading += 1
        try:
            body = await self._bodies.read(request, hold)
        finally:
            self._reading -= 1
        self._require_place()
        return body

    def _require_place(self) -> None:
        """Raise `Overloaded` if a request that didn't count as under way until now is one too many."""
        if self.under_way - self._reading > self._max_in_flight:
            self._load.turned_away += 1
            raise Overloaded("as many requests are under way as may")

    # ---- what costs nothing ----------------------------------------------------------------------------------------

    async def _caller(self, request: web.BaseRequest) -> Usage | ErrorReply:
        """The usage of the key that asks, or why it may not."""
        kid = caller_of(request.headers)
        if isinstance(kid, ErrorReply):
            return kid
        return await self._limiter.usage(kid) or errors.INVALID_API_KEY

    async def _models(self, request: web.BaseRequest, request_id: str) -> Answer:
        caller = await self._caller(request)
        if isinstance(caller, ErrorReply):
            return self._error(caller, request_id)
        models = await self._upstream.models()
        return Answer(openai_response.models_list(models, self._started), self._headers.plain(request_id))

    async def _model(self, request: web.BaseRequest, request_id: str) -> Answer:
        caller = await self._caller(request)
        if isinstance(caller, ErrorReply):
            return self._error(caller, request_id)
        model = request.path.removeprefix(_MODELS)
        if model not in await self._upstream.models():
            return self._error(errors.model_not_found(model), request_id)
        return Answer(openai_response.model_object(model, self._started), self._headers.plain(request_id))

    async def _rate_limits(self, request: web.BaseRequest, request_id: str) -> Answer:
        caller = await self._caller(request)
        if isinstance(caller, ErrorReply):
            return self._error(caller, request_id)
        headers = self._headers.plain(request_id)
        if caller.degraded:
            headers += degraded(caller.degraded)
        return Answer(openai_response.rate_limits(caller, self._window_ms), headers)

    async def _healthz(self, _request: web.BaseRequest, request_id: str) -> Answer:
        return Answer(b'{"status":"ok"}', self._headers.plain(request_id))

    async def _metrics(self, request: web.BaseRequest, request_id: str) -> Answer:
        page, content_type = self._metrics_of_node.page(request.headers.get(hdrs.ACCEPT, ""))
        return Answer(page, self._headers.of_type(content_type, request_id))

    async def _readyz(self, _request: web.BaseRequest, request_id: str) -> Answer:
        if self.is_draining:
            return self._not_ready("the node is stopping", request_id)
        if problem := self._not_started():
            return self._not_ready(problem, request_id)
        try:
            reason = await self._limiter.check()
        except StoreUnavailable as error:
            return self._not_ready(str(error), request_id)
        return Answer(openai_response.readiness(reason), self._headers.plain(request_id))

    # ---- errors ----------------------------------------------------------------------------------------------------

    def _unavailable(self, reply: ErrorReply, request_id: str) -> Answer:
        return Answer(reply.body, self._headers.unavailable(request_id, RETRY_UNAVAILABLE_MS), reply.status)

    def _turned_away(self, request: web.BaseRequest, request_id: str) -> Answer:
        self._load.turned_away += 1
        reply, headers = errors.OVERLOADED, self._headers.unavailable(request_id, RETRY_UNAVAILABLE_MS)
        connection = cast(Connection, request.protocol)
        return TurnedAway(reply.body, headers, reply.status, self._load.pause_s(), connection.has_rested)

    def _error(self, reply: ErrorReply, request_id: str) -> Answer:
        return Answer(reply.body, self._headers.plain(request_id), reply.status)

    def _not_ready(self, reason: str, request_id: str) -> Answer:
        body = error_body(reason, "server_error", code="not_ready")
        return Answer(body, self._headers.unavailable(request_id, RETRY_UNAVAILABLE_MS), 503)


def _waited_s(request: web.BaseRequest) -> float:
    """How long ago it came. (Its connection is gone with its client.)"""
    connection = request.protocol
    return time.monotonic() - connection.arrived_s if isinstance(connection, Connection) else 0.0
