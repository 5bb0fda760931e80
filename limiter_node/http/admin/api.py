"""The admin API: from a request on the admin port to its response.

The token comes first: without it nothing of a request is looked at but its path, and no body is read. Neighbours:
`table` has the routes, `checking` checks requests, `operations` call the manager.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import parse_qs, unquote

import orjson
from aiohttp import hdrs, web

from limiter_node.changes import changed_by
from limiter_node.errors import StoreUnavailable
from limiter_node.held import HeldBytes, Hold
from limiter_node.http.admin import openapi
from limiter_node.http.admin.admin_errors import WRONG_TOKEN, error_of
from limiter_node.http.admin.calls import Call
from limiter_node.http.admin.checking import check, check_query
from limiter_node.http.admin.connection import ManagerConnection
from limiter_node.http.admin.table import MAX_BODY_BYTES, MAX_FILE_BYTES, PREFIX, Route, find
from limiter_node.http.admin.token_file import TokenFile
from limiter_node.http.bodies.body import BodyReader
from limiter_node.http.requests.fields import InvalidRequest
from limiter_node.http.requests.json_body import parse_object
from limiter_node.http.responses import errors
from limiter_node.http.responses.errors import ErrorResponse
from limiter_node.http.responses.headers import ResponseHeaders
from limiter_node.http.responses.whole_response import WholeResponse

log = logging.getLogger(__name__)

_RETRY_MS: Final = 1_000
_MOST_HELD_BYTES: Final = 4 * MAX_FILE_BYTES
"""Bodies that are read at once, of all requests. Others get a 503."""
_MOST_PARAMETERS: Final = 16
_CHALLENGE: Final = "www-authenticate: Bearer\r\n"
_NO_STORE: Final = "cache-control: no-store\r\n"


class AdminApi:
    """Answer the requests below ``/admin``, for those who have the token."""

    def __init__(self, token: TokenFile, connection: ManagerConnection, headers: ResponseHeaders) -> None:
        self._token = token
        self._connection = connection
        self._headers = headers
        self._held = HeldBytes(_MOST_HELD_BYTES)
        self._bodies = BodyReader(MAX_BODY_BYTES)
        self._files = BodyReader(MAX_FILE_BYTES)

    async def answer(self, request: web.BaseRequest, request_id: str) -> WholeResponse:
        """Return the response; of exceptions, only those that are the node's own fault leave it."""
        path = request.raw_path.partition("?")[0]
        if path == openapi.DOCUMENT_PATH and request.method in ("GET", "HEAD"):
            return WholeResponse(openapi.document(), self._headers.plain(request_id))
        if not self._is_allowed(request):
            return self._error(WRONG_TOKEN, request_id, _CHALLENGE)
        if hdrs.EXPECT in request.headers and request.headers[hdrs.EXPECT].lower() != "100-continue":
            return self._error(errors.EXPECTATION_FAILED, request_id)
        below = path.removeprefix(f"{PREFIX}/")
        found = None if below == path else find(below.split("/"))
        if found is None:
            return self._error(errors.not_found(request.method, request.path), request_id)
        routes, values = found
        route = routes.get(request.method)
        if route is None:
            error = errors.method_not_allowed(request.method, request.path)
            return self._error(error, request_id, f"allow: {', '.join(routes)}\r\n")
        hold = Hold(self._held)
        try:
            return await self._serve(route, values, request, request_id, hold)
        except Exception as error:
            known = error_of(error, route.max_body_bytes)
            if known is None:
                raise
            if known.status == 503:
                level = logging.DEBUG if isinstance(error, StoreUnavailable) else logging.WARNING
                event = {"event": "admin_request_failed", "request_id": request_id}
                log.log(level, "admin request %s: %s", request_id, error, extra=event)
            return self._error(known, request_id)
        finally:
            hold.release()

    def _is_allowed(self, request: web.BaseRequest) -> bool:
        given = request.headers.getall(hdrs.AUTHORIZATION, [])
        return len(given) == 1 and self._token.accepts(given[0])

    async def _serve(
        self, route: Route, values: Mapping[str, str], request: web.BaseRequest, request_id: str, hold: Hold
    ) -> WholeResponse:
        path = {name: _decoded(name, value) for name, value in values.items()}
        query = check_query(_query_of(request), route.query, route.needed)
        body: Mapping[str, Any] = {}
        file = b""
        if route.takes_file:
            file = bytes(await self._files.read(request, hold))
        elif route.body is not None:
            content = bytes(await self._bodies.read(request, hold))
            body = parse_object(content) if content or route.is_body_needed else {}
            check(body, route.body)
        asking = changed_by.set(request_id)
        try:
            reply = await route.operation(await self._connection.manager(), Call(path, query, body, file))
        finally:
            changed_by.reset(asking)
        headers = self._headers.plain(request_id) + (_NO_STORE if reply.is_secret else "")
        return WholeResponse(orjson.dumps(reply.content), headers, route.status)

    def _error(self, error: ErrorResponse, request_id: str, lines: str = "") -> WholeResponse:
        if error.status == 503:
            return WholeResponse(error.body, self._headers.unavailable(request_id, _RETRY_MS), error.status)
        return WholeResponse(error.body, self._headers.plain(request_id) + lines, error.status)


def _decoded(name: str, value: str) -> str:
    """Return a segment of a path, decoded. Raises `InvalidRequest`."""
    try:
        text = unquote(value, errors="strict")
    except UnicodeDecodeError:
        text = ""
    if not text or len(text) > 512 or not text.isprintable():
        raise InvalidRequest(f"Invalid '{name}' in the path: expected 1 to 512 printable characters.", name, None)
    return text


def _query_of(request: web.BaseRequest) -> dict[str, list[str]]:
    text = request.raw_path.partition("?")[2]
    try:
        return parse_qs(text, keep_blank_values=True, errors="strict", max_num_fields=_MOST_PARAMETERS)
    except (UnicodeDecodeError, ValueError):
        raise InvalidRequest("The query could not be read.", None, "invalid_value") from None
