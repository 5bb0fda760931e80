"""Responses to no request in particular: to a connection too many, or one that ends in the middle of a head."""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from typing import cast

from limiter_node.http.responses import errors
from limiter_node.http.responses.errors import ErrorResponse
from limiter_node.http.responses.headers import SERVER_LINE


class Refused(asyncio.Protocol):
    """A connection too many: it gets a 503 without having asked, and its end.

    A client that sent its request already finds both; so does one that sends it too late.
    """

    def __init__(self, last_lines: str = "") -> None:
        self._last_lines = last_lines

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Refuse the connection and close it."""
        refused = cast(asyncio.Transport, transport)  # uvloop's doesn't inherit from it
        refused.write(last_words(errors.OVERLOADED, _RETRY + self._last_lines))
        refused.close()


def last_words(reply: ErrorResponse, fields: str = "") -> bytes:
    """An answer to no request in particular, after which the connection is closed."""
    head = (
        f"HTTP/1.1 {reply.status} {HTTPStatus(reply.status).phrase}\r\n{SERVER_LINE}"
        f"Content-Type: application/json\r\n{fields}Content-Length: {len(reply.body)}\r\nConnection: close\r\n\r\n"
    )
    return head.encode() + reply.body


_RETRY = "retry-after-ms: 1000\r\nretry-after: 1\r\n"
