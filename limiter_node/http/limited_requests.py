"""The steps of a limited request: key → body → parse and count → admit → upstream → settle → response."""

from __future__ import annotations

from aiohttp import web

from limiter_node.decisions import Decision, Need, Outcome
from limiter_node.held import SMALL_BYTES, HeldBytes, Hold
from limiter_node.http.auth import caller_of
from limiter_node.http.bodies.body import BodyReader
from limiter_node.http.client_gone import CancelWhenClientGone, ClientGone
from limiter_node.http.cors import Cors
from limiter_node.http.in_flight import InFlight
from limiter_node.http.requests.fields import InvalidRequest
from limiter_node.http.requests.limited_routes import LimitedRoute
from limiter_node.http.requests.reader import RequestReader
from limiter_node.http.responses import errors
from limiter_node.http.responses.errors import ErrorResponse
from limiter_node.http.responses.headers import ResponseHeaders, merged, produced
from limiter_node.http.responses.whole_response import WholeResponse, Written
from limiter_node.http.streaming import Streams, log_upstream_failure
from limiter_node.limiter.admission import Limiter, Reservation
from limiter_node.tokens.process import INLINE_CHARS
from limiter_node.upstream.answers import AnswerStream, WholeAnswer
from limiter_node.upstream.errors import NotServed, UpstreamError
from limiter_node.upstream.interface import Prepared, Upstream


class LimitedRequests:
    """Answer the limited routes of one node. Failures that all routes share are raised, for `Routes` to answer."""

    def __init__(
        self,
        *,
        limiter: Limiter,
        upstream: Upstream,
        reader: RequestReader,
        bodies: BodyReader,
        held: HeldBytes,
        in_flight: InFlight,
        streams: Streams,
        headers: ResponseHeaders,
        cors: Cors,
    ) -> None:
        self._limiter = limiter
        self._upstream = upstream
        self._reader = reader
        self._bodies = bodies
        self._held = held
        self._in_flight = in_flight
        self._streams = streams
        self._headers = headers
        self._cors = cors

    async def answer(self, route: LimitedRoute, request: web.BaseRequest, request_id: str) -> Written:
        """Return the response to `request`. If its credential isn't good, only the head is read."""
        kid = caller_of(request.headers)
        if isinstance(kid, ErrorResponse):
            return self._error(kid, request_id)
        if not self._limiter.knows(kid) and (refusal := await self._find(kid)) is not None:
            return self._error(errors.UNAUTHORIZED[refusal.outcome], request_id)
        hold = Hold(self._held)
        try:
            return await self._answer_caller(route, request, request_id, kid, hold)
        finally:
            hold.release()

    async def _answer_caller(
        self, route: LimitedRoute, request: web.BaseRequest, request_id: str, kid: str, hold: Hold
    ) -> Written:
        try:
            body = self._bodies.read_at_once(request, hold)
            if body is not None and len(body) <= INLINE_CHARS:  # most requests; saves two calls
                need, prepared = self._reader.read_small(route, body)
            else:
                need, prepared = await self._read(route, request, hold, body)
            del body  # frees body and JSON while the request waits
        except InvalidRequest as error:
            return self._error(errors.invalid_request(error), request_id)
        except NotServed as error:
            return self._error(errors.not_served(error), request_id)
        except ClientGone:
            return self._error(errors.CLIENT_GONE, request_id)

        decision = await self._limiter.admit(kid, need)
        if decision.outcome is not Outcome.ADMITTED:
            if (unauthorized := errors.UNAUTHORIZED.get(decision.outcome)) is not None:
                return self._error(unauthorized, request_id)
            rejection = errors.rate_limited(decision, kid)
            return WholeResponse(rejection.body, self._headers.decided(decision, request_id, kid), rejection.status)

        reservation = self._limiter.reservation(kid, decision)
        headers = self._headers.decided(decision, request_id)
        try:
            if self._upstream.stops_at_once:
                answer = await self._ask(request, prepared, reservation, request_id)
            else:
                answer = await prepared.ask(reservation.output_tokens, request_id, request.headers)
            hold.release()
            if not isinstance(answer, WholeAnswer):
                headers += self._cors.lines(request)  # its head leaves before `Routes` gets to add them
                return await self._streams.send(request, request_id, headers, answer, reservation)
        except ClientGone:
            _settle_unanswered(reservation, prepared)
            return self._error(errors.CLIENT_GONE, request_id)
        except UpstreamError as error:
            if error.produced_tokens:
                reservation.settle(error.produced_tokens)
            else:
                reservation.refund()
            log_upstream_failure(request_id, error)
            failure = errors.upstream_failed(error)
            return WholeResponse(failure.body, merged(headers, error.headers), failure.status)
        except BaseException:
            reservation.refund()
            raise
        reservation.settle(*answer.cost)
        return WholeResponse(answer.body, headers + produced(answer.cost.output_tokens) + answer.headers)

    async def _find(self, kid: str) -> Decision | None:
        """Return None if the store knows the credential `kid`, which this node doesn't, as good; else the decision."""
        with self._in_flight.uncounted():
            return await self._limiter.find(kid)

    async def _read(
        self, route: LimitedRoute, request: web.BaseRequest, hold: Hold, body: bytes | bytearray | None
    ) -> tuple[Need, Prepared]:
        """Return a request's need and its prepared form. `body`: None for one that hasn't arrived."""
        if body is None:
            with self._in_flight.uncounted():
                body = await self._bodies.read(request, hold)
        if len(body) <= SMALL_BYTES:
            return await self._reader.read(route, body)
        with CancelWhenClientGone(request):
            return await self._reader.read(route, body)

    async def _ask(
        self, request: web.BaseRequest, prepared: Prepared, reservation: Reservation, request_id: str
    ) -> WholeAnswer | AnswerStream:
        """Return the upstream's answer. Raises `UpstreamError`, or `ClientGone` if the client left first."""
        reserved_tokens = reservation.output_tokens
        with CancelWhenClientGone(request, lambda: self._streams.read_on_s if prepared.is_sent else 0.0):
            return await prepared.ask(reserved_tokens, request_id, request.headers)

    def _error(self, error: ErrorResponse, request_id: str) -> WholeResponse:
        return WholeResponse(error.body, self._headers.plain(request_id), error.status)


def _settle_unanswered(reservation: Reservation, prepared: Prepared) -> None:
    """Settle for a caller that left before its answer began."""
    if not prepared.is_sent:
        reservation.refund()
    else:
        reservation.settle(reservation.output_tokens if prepared.is_uncertain else 0)
