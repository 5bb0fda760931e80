"""The bytes of a body as they come, and the ways in which they can fail to come.

aiohttp's reader keeps the exception that ended it and raises that same object. A traceback that stayed with it would
hold the frames that read, these the blocks of the body that they had read and the reader, and the reader the exception:
a cycle, which keeps up to a whole body until the collector comes by. So no traceback stays with it here.
"""

from __future__ import annotations

from typing import Final

from aiohttp import hdrs, web
from aiohttp.streams import StreamReader

MAX_DISCARDED_BYTES: Final = 65_536
"""So much of a body that was answered unread is discarded, to keep its connection: more costs more than a new one."""
_FEW_BLOCKS: Final = 4


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


async def next_block(content: StreamReader) -> bytes:
    """Return what has come since the last call, as it was sent; b"" at the end.

    Raises:
        BodyTimeout, UnreadableBody, ClientLeft: there is no more.
    """
    try:
        while not content.is_eof() and content.exception() is None and not content._buffer:
            await content._wait("next_block")
        if content.exception() is None:
            return first_block(content)
        kind = type(content.exception())
    except Exception as error:
        error.__traceback__ = None
        kind = type(error)
    if issubclass(kind, TimeoutError):
        raise BodyTimeout
    if issubclass(kind, ConnectionError):
        raise ClientLeft
    raise TinyChunks if issubclass(kind, TinyChunks) else UnreadableBody


def first_block(content: StreamReader) -> bytes:
    """Return all that has come of a body. Raises as `next_block` does."""
    if content.exception() is not None:
        raise UnreadableBody
    if content.total_bytes and len(content._buffer) > _FEW_BLOCKS:
        return _all_blocks(content)
    return content.read_nowait()


def forget(content: StreamReader) -> None:
    """Let go of what has come of a body that is not read any more, and whose connection parses nothing any more."""
    if content.total_bytes:
        content._buffer.clear()


def is_discardable(request: web.BaseRequest) -> bool:
    """Whether the connection of a request that is answered before its body was read can go on after it, as far as its
    head tells. A client that waits for a 100 may send its body or not: what follows can't be told apart then.
    """
    content = request.content
    rest_bytes = (request.content_length or 0) - content.total_bytes
    return rest_bytes <= MAX_DISCARDED_BYTES and content.exception() is None and hdrs.EXPECT not in request.headers


def _all_blocks(content: StreamReader) -> bytes:
    """Take all blocks at once.

    aiohttp looks at each whether its connection may read on: ten times the work of parsing a chunk of a byte.
    """
    last = content._buffer.pop()
    taken = [*content._buffer]
    size = sum(map(len, taken))
    content._buffer.clear()
    content._buffer.append(last)
    content._size -= size
    content._cursor += size
    taken.append(content.read_nowait())  # the last of them: here it looks
    return b"".join(taken)
