"""The bytes of a body as they come, and the ways in which they can fail to come.

aiohttp's reader keeps the exception that ended it and raises that same object. A traceback that stayed with it would
hold the frames that read, these the blocks of the body that they had read and the reader, and the reader the exception:
a cycle, which keeps up to a whole body until the collector comes by. So no traceback stays with it here.
"""

from __future__ import annotations

from typing import Final

from aiohttp import hdrs, web
from aiohttp.streams import StreamReader

from limiter_node.http.server import aiohttp_private
from limiter_node.http.server.aiohttp_private import WAY, Way

MAX_DISCARDED_BYTES: Final = 65_536
"""So much of a body that was answered unread is discarded, to keep its connection: more costs more than a new one."""


class BodyTimeout(TimeoutError):
    """Raised to who reads a body that wasn't sent in time.

    A TimeoutError, because aiohttp knows how to end a connection after one.
    """


class UnreadableBody(Exception):
    """Raised when the framing or the encoding of a body is broken."""

    message = "The body of your request could not be read."
    """For the client."""


class TinyChunks(UnreadableBody):
    """Raised when a body is sent in chunks so small that most of it is their framing."""

    message = (
        "The body of your request came in chunks so small that most of what you sent was their framing. "
        "Send it in larger ones, or with a Content-Length."
    )


class ClientLeft(ConnectionError):
    """Raised when the connection ended in the middle of a body."""


async def _read_some(content: StreamReader) -> bytes:
    return await content.readany()


def _read_now(content: StreamReader) -> bytes:
    return content.read_nowait()


if WAY is not Way.PUBLIC:
    _read_some, _read_now = aiohttp_private.read_some, aiohttp_private.read_now


async def next_block(content: StreamReader) -> bytes:
    """Return what has come since the last call, as it was sent; b"" at the end.

    Raises:
        BodyTimeout, UnreadableBody, ClientLeft: there is no more.
    """
    try:
        return await _read_some(content)
    except Exception as error:
        error.__traceback__ = None
        kind = type(error)
    if issubclass(kind, TimeoutError):
        raise BodyTimeout
    if issubclass(kind, ConnectionError):
        raise ClientLeft
    raise TinyChunks if issubclass(kind, TinyChunks) else UnreadableBody


def first_block(content: StreamReader) -> bytes:
    """Return all that has come of a body. Raises UnreadableBody."""
    try:
        return _read_now(content)
    except Exception as error:
        if error is not content.exception():
            raise
        error.__traceback__ = None
    raise UnreadableBody


def is_discardable(request: web.BaseRequest) -> bool:
    """Whether the connection of a request that is answered before its body was read can go on after it, as far as its
    head tells. A client that waits for a 100 may send its body or not: what follows can't be told apart then.
    """
    content = request.content
    rest_bytes = (request.content_length or 0) - content.total_bytes
    return rest_bytes <= MAX_DISCARDED_BYTES and content.exception() is None and hdrs.EXPECT not in request.headers
