"""The errors that a caller gets for a body that couldn't be read, the same on each port."""

from __future__ import annotations

from typing import Final

from limiter_node.http.bodies.body import BodyTooLarge, UnsupportedEncoding
from limiter_node.http.requests.fields import InvalidRequest
from limiter_node.http.responses import errors
from limiter_node.http.responses.errors import ErrorResponse
from limiter_node.http.server.raw_body import BodyTimeout, UnreadableBody

BODY_ERRORS: Final = (BodyTooLarge, UnsupportedEncoding, BodyTimeout, UnreadableBody, ConnectionError)
"""The errors that `http.bodies.body.BodyReader.read` raises, but for `Overloaded`, which has headers of its own."""


def body_error(error: Exception, max_bytes: int) -> ErrorResponse:
    """Return the error for one of `BODY_ERRORS`. `max_bytes`: the largest body that would have been read."""
    if isinstance(error, BodyTooLarge):
        return errors.too_large(max_bytes)
    if isinstance(error, UnsupportedEncoding):
        return errors.UNSUPPORTED_ENCODING
    if isinstance(error, BodyTimeout):
        return errors.REQUEST_TIMEOUT
    if isinstance(error, UnreadableBody):
        return errors.invalid_request(InvalidRequest(error.message, None, None))
    return errors.INTERNAL  # never read: the client has left
