"""The routes for operators: ``/healthz``, ``/readyz`` and ``/metrics``.

`Routes` serves these beside the callers' routes, or `AdminRoutes` serves them on a port of their own, with the admin
API (`http.admin`) if there is one. No key is needed for any of the probes.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping

from aiohttp import hdrs, web

from limiter_node.errors import StoreUnavailable
from limiter_node.http.metrics import Metrics
from limiter_node.http.responses import errors, json_bodies
from limiter_node.http.responses.headers import RequestIds, ResponseHeaders
from limiter_node.http.responses.whole_response import WholeResponse, Written
from limiter_node.limiter.admission import Limiter
from limiter_node.upstream.openai.error import error_body

log = logging.getLogger(__name__)

RETRY_UNAVAILABLE_MS = 1_000
"""The ``retry-after`` of a 503: a failing store or an overload lasts about that long, or much longer."""

_ADMIN = "/admin/"

Response = Written
Handler = Callable[[web.BaseRequest, str], Awaitable[Response]]


def readable(handler: Handler) -> dict[str, Handler]:
    """Return the methods of a read-only route. `WholeResponse` leaves out the body for HEAD."""
    return {"GET": handler, "HEAD": handler}


class Probes:
    """Answer the probes. `problem` returns why the node can't decide, "" while it can."""

    def __init__(
        self, headers: ResponseHeaders, limiter: Limiter, metrics: Metrics, problem: Callable[[], str]
    ) -> None:
        self.headers = headers
        self._limiter = limiter
        self._metrics_of_node = metrics
        self._problem = problem
        self.table: Mapping[str, dict[str, Handler]] = {
            "/healthz": readable(self._healthz),
            "/readyz": readable(self._readyz),
            "/metrics": readable(self._metrics),
        }

    async def _healthz(self, _request: web.BaseRequest, request_id: str) -> WholeResponse:
        return WholeResponse(b'{"status":"ok"}', self.headers.plain(request_id))

    async def _metrics(self, request: web.BaseRequest, request_id: str) -> WholeResponse:
        page, content_type = self._metrics_of_node.page(request.headers.get(hdrs.ACCEPT, ""))
        return WholeResponse(page, self.headers.of_type(content_type, request_id))

    async def _readyz(self, _request: web.BaseRequest, request_id: str) -> WholeResponse:
        if problem := self._problem():
            return self._not_ready(problem, request_id)
        try:
            reason = await self._limiter.check()
        except StoreUnavailable as error:
            return self._not_ready(str(error), request_id)
        return WholeResponse(json_bodies.readiness(reason), self.headers.plain(request_id))

    def _not_ready(self, reason: str, request_id: str) -> WholeResponse:
        body = error_body(reason, "server_error", code="not_ready")
        return WholeResponse(body, self.headers.unavailable(request_id, RETRY_UNAVAILABLE_MS), 503)


class AdminRoutes:
    """Answer the probes, and by `api` the requests below ``/admin/``, for the server of the admin port.

    `api`: None for a node without an admin API. The responses are in no metric, because `limiter_responses_total`
    counts callers, and no request is turned away.
    """

    def __init__(self, probes: Probes, api: Handler | None = None) -> None:
        self._probes = probes
        self._api = api
        self._ids = RequestIds()

    async def answer(self, request: web.BaseRequest) -> Response:
        """Return the response to any request; every failure becomes a response."""
        request_id = self._ids.next()
        plain = self._probes.headers.plain(request_id)
        response: Response
        try:
            if self._api is not None and request.raw_path.startswith(_ADMIN):
                response = await self._api(request, request_id)
            else:
                response = await self._answer_probe(request, request_id, plain)
        except Exception:
            log.exception("request %s failed", request_id, extra={"event": "request_failed", "request_id": request_id})
            response = WholeResponse(errors.INTERNAL.body, plain, errors.INTERNAL.status)
        if not request.content.is_eof():
            response.force_close()
        return response

    async def _answer_probe(self, request: web.BaseRequest, request_id: str, plain: str) -> Response:
        methods = self._probes.table.get(request.path)
        if methods is None:
            error = errors.not_found(request.method, request.path)
            return WholeResponse(error.body, plain, error.status)
        handler = methods.get(request.method)
        if handler is None:
            error = errors.method_not_allowed(request.method, request.path)
            return WholeResponse(error.body, f"{plain}allow: {', '.join(methods)}\r\n", error.status)
        return await handler(request, request_id)
