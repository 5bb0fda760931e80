"""The routes, and the one way a request goes: HTTP → parse and count → admit → upstream → settle → response."""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable

from aiohttp import web
from multidict import CIMultiDict

from limiter_node.http import errors, openai_response
from limiter_node.http.auth import bearer_key
from limiter_node.http.errors import ErrorReply
from limiter_node.http.fields import InvalidRequest
from limiter_node.http.headers import RequestIds, ResponseHeaders
from limiter_node.http.openai_request import need_of, parse_chat
from limiter_node.limiter.limiter import Limiter
from limiter_node.model import Outcome, Overloaded, StoreUnavailable
from limiter_node.store.keyspace import key_id
from limiter_node.upstream.base import Upstream, UpstreamError

log = logging.getLogger(__name__)

RETRY_UNAVAILABLE_MS = 1_000
"""What a 503 tells callers to wait: a failing store or an overload lasts about that long, or much longer."""

Handler = Callable[[web.Request, str], Awaitable[web.Response]]


class Routes:
    """The handlers of one node. `window_ms` is only told, by ``GET /v1/rate_limits``."""

    def __init__(
        self, *, limiter: Limiter, upstream: Upstream, node_id: str, max_body_bytes: int, window_ms: int
    ) -> None:
        self._limiter = limiter
        self._upstream = upstream
        self._headers = ResponseHeaders(node_id)
        self._ids = RequestIds()
        self._max_body_bytes = max_body_bytes
        self._window_ms = window_ms
        self._started = int(time.time())
        self.is_draining = False

    def application(self) -> web.Application:
        """The aiohttp application that serves them. Everything else is a 404 or 405 in OpenAI's shape."""
        app = web.Application(client_max_size=self._max_body_bytes)
        for method, path, handler in (
            ("POST", "/v1/chat/completions", self._chat_completions),
            ("GET", "/v1/models", self._models),
            ("GET", "/v1/rate_limits", self._rate_limits),
            ("GET", "/healthz", self._healthz),
            ("GET", "/readyz", self._readyz),
        ):
            resource = app.router.add_resource(path)
            resource.add_route(method, self._answering(handler))
            resource.add_route("*", self._answering(self._method_not_allowed))
        app.router.add_route("*", "/{path:.*}", self._answering(self._not_found))
        return app

    # ---- the main flow ---------------------------------------------------------------------------------------------

    async def _chat_completions(self, request: web.Request, request_id: str) -> web.Response:
        kid = _kid_of(request)
        if kid is None:
            return self._error(_unauthenticated(request), request_id)
        try:
            chat = parse_chat(await request.read())
            if chat.stream:
                raise InvalidRequest(
                    "Streaming is not supported yet: set 'stream' to false.", "stream", "invalid_value"
                )
        except InvalidRequest as error:
            return await self._invalid(error, kid, request_id)

        decision = await self._limiter.admit(kid, need_of(chat))
        if decision.outcome is not Outcome.ADMITTED:
            if decision.outcome is Outcome.UNKNOWN_KEY:
                return self._error(errors.INVALID_API_KEY, request_id)
            reply = errors.rate_limited(decision, kid)
            return _response(reply.body, self._headers.decided(decision, request_id), reply.status)

        reservation = self._limiter.reservation(kid, decision)
        headers = self._headers.decided(decision, request_id)
        try:
            completion = await self._upstream.chat(chat, decision.need.output_tokens // chat.n)
        except UpstreamError as error:
            if error.produced_tokens:
                reservation.settle(error.produced_tokens)
            else:
                reservation.refund()
            log.warning("request %s: the upstream failed: %s", request_id, error)
            reply = errors.upstream_failed(error)
            return _response(reply.body, headers, reply.status)
        except BaseException:
            reservation.refund()
            raise
        reservation.settle(completion.completion_tokens)
        return _response(openai_response.chat_completion(chat, completion, request_id, int(time.time())), headers)

    # ---- what costs nothing ----------------------------------------------------------------------------------------

    async def _models(self, request: web.Request, request_id: str) -> web.Response:
        kid = _kid_of(request)
        if kid is None:
            return self._error(_unauthenticated(request), request_id)
        if await self._limiter.usage(kid) is None:
            return self._error(errors.INVALID_API_KEY, request_id)
        models = await self._upstream.models()
        return _response(openai_response.models_list(models, self._started), self._headers.plain(request_id))

    async def _rate_limits(self, request: web.Request, request_id: str) -> web.Response:
        kid = _kid_of(request)
        if kid is None:
            return self._error(_unauthenticated(request), request_id)
        usage = await self._limiter.usage(kid)
        if usage is None:
            return self._error(errors.INVALID_API_KEY, request_id)
        return _response(openai_response.rate_limits(usage, self._window_ms), self._headers.plain(request_id))

    async def _healthz(self, _request: web.Request, request_id: str) -> web.Response:
        return _response(b'{"status":"ok"}', self._headers.plain(request_id))

    async def _readyz(self, _request: web.Request, request_id: str) -> web.Response:
        if self.is_draining:
            return self._not_ready("the node is stopping", request_id)
        try:
            await self._limiter.check()
        except StoreUnavailable as error:
            return self._not_ready(str(error), request_id)
        return _response(b'{"status":"ready"}', self._headers.plain(request_id))

    async def _not_found(self, request: web.Request, request_id: str) -> web.Response:
        return self._error(errors.not_found(request.method, request.path), request_id)

    async def _method_not_allowed(self, request: web.Request, request_id: str) -> web.Response:
        return self._error(errors.method_not_allowed(request.method, request.path), request_id)

    # ---- errors ----------------------------------------------------------------------------------------------------

    def _answering(self, handler: Handler) -> Callable[[web.Request], Awaitable[web.Response]]:
        """The handler with every failure turned into an answer. aiohttp's middlewares could do it at a higher price."""

        async def answer(request: web.Request) -> web.Response:
            request_id = self._ids.next()
            try:
                return await handler(request, request_id)
            except StoreUnavailable as error:
                log.debug("request %s: %s", request_id, error)
                reply = errors.STORE_UNAVAILABLE
            except Overloaded:
                reply = errors.OVERLOADED
            except UpstreamError as error:
                log.warning("request %s: the upstream failed: %s", request_id, error)
                return self._error(errors.upstream_failed(error), request_id)
            except web.HTTPRequestEntityTooLarge:
                return self._error(errors.too_large(self._max_body_bytes), request_id)
            except web.RequestPayloadError:
                unread = InvalidRequest("The body of your request could not be read.", None, None)
                return self._error(errors.invalid_request(unread), request_id)
            except ConnectionError:
                raise  # the client is gone: nobody is left to answer
            except Exception:
                log.exception("request %s failed", request_id)
                return self._error(errors.INTERNAL, request_id)
            return _response(reply.body, self._headers.unavailable(request_id, RETRY_UNAVAILABLE_MS), reply.status)

        return answer

    async def _invalid(self, error: InvalidRequest, kid: str, request_id: str) -> web.Response:
        """400, unless nobody knows the key: what is wrong with a request is told to callers only."""
        try:
            if await self._limiter.usage(kid) is None:
                return self._error(errors.INVALID_API_KEY, request_id)
        except StoreUnavailable:
            pass  # the request is wrong in any case
        return self._error(errors.invalid_request(error), request_id)

    def _error(self, reply: ErrorReply, request_id: str) -> web.Response:
        return _response(reply.body, self._headers.plain(request_id), reply.status)

    def _not_ready(self, reason: str, request_id: str) -> web.Response:
        body = errors.error_body(reason, "server_error", code="not_ready")
        return _response(body, self._headers.unavailable(request_id, RETRY_UNAVAILABLE_MS), 503)


def _kid_of(request: web.Request) -> str | None:
    key = bearer_key(request.headers.get("Authorization"))
    return None if key is None else key_id(key)


def _unauthenticated(request: web.Request) -> ErrorReply:
    return errors.INVALID_API_KEY if "Authorization" in request.headers else errors.MISSING_API_KEY


def _response(body: bytes, headers: CIMultiDict[str], status: int = 200) -> web.Response:
    return web.Response(body=body, headers=headers, status=status)
