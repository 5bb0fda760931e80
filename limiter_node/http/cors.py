"""CORS headers: the origins whose pages may call this node from a browser, and the headers that they may read.

Browsers ask (a preflight, ``OPTIONS``) before a page's request with an `Authorization` header, and show the page no
response that doesn't allow its origin, errors included. No cookie is ever involved, so nothing here allows credentials.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from aiohttp import web
EXPOSED = (
    *(
        f"x-ratelimit-{what}-{dimension}"
        for dimension in ("requests", "input-tokens", "output-tokens", "tokens")
        for what in ("limit", "remaining", "reset")
    ),
    "RateLimit-Policy",
    "RateLimit",
    "retry-after-ms",
    "retry-after",
    "x-should-retry",
    "x-limiter-exceeded",
    "x-limiter-limit",
    "x-limiter-audit",
    "x-limiter-time-ms",
    "x-limiter-degraded",
    "x-limiter-upstream-status",
    "x-limiter-upstream-request-id",
    "x-limiter-input-tokens",
    "x-limiter-output-tokens",
    "x-limiter-reserved-output",
    "x-limiter-node",
    "x-request-id",
)
"""The headers that a page may read: those of the table in docs/http-api.md, and a test compares the two."""

_EXPOSE = f"Access-Control-Expose-Headers: {', '.join(EXPOSED)}\r\n"
_MAX_AGE_S = 3_600
"""Time for which a browser may keep a preflight's response, and still send after its origin was removed."""

_FIELD_NAMES = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+(?:[ \t]*,[ \t]*[A-Za-z0-9!#$%&'*+.^_`|~-]+)*\Z")


class Cors:
    """Render the headers for browsers, as blocks of lines that each end with CRLF; none without `origins`."""

    def __init__(self, origins: Collection[str] = ()) -> None:
        self._origins = frozenset(origins)
        self._allows_all = "*" in self._origins
        self.is_on = bool(self._origins)
        self.last_lines = f"Access-Control-Allow-Origin: *\r\n{_EXPOSE}" if self._allows_all else ""
        """For responses to unreadable requests, whose origin isn't known."""

    def lines(self, request: web.BaseRequest) -> str:
        """Return the headers of any response to `request`; "" where there are no `origins`."""
        if not self.is_on:
            return ""
        allowed = self._allowed(request)
        return f"{allowed}{_EXPOSE}" if "Allow-Origin" in allowed else allowed

    def preflight(self, request: web.BaseRequest, methods: Iterable[str]) -> str:
        """Return the headers of the response to a preflight for a route with these methods.

        All header fields that the page wants to send are allowed: the node ignores those that it doesn't know.
        """
        allowed = self._allowed(request)
        asked = request.headers.get("Access-Control-Request-Headers", "")
        fields = f"Access-Control-Allow-Headers: {asked}\r\n" if _FIELD_NAMES.match(asked) else ""
        return (
            f"{allowed}Access-Control-Allow-Methods: {', '.join(methods)}\r\n{fields}"
            f"Access-Control-Max-Age: {_MAX_AGE_S}\r\n"
        )

    def _allowed(self, request: web.BaseRequest) -> str:
        if self._allows_all:
            return "Access-Control-Allow-Origin: *\r\n"
        origin = request.headers.get("Origin")
        if origin in self._origins:
            return f"Access-Control-Allow-Origin: {origin}\r\nVary: Origin\r\n"
        return "Vary: Origin\r\n"
