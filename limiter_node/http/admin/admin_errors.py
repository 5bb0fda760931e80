"""The errors of the admin API, in OpenAI's shape as all others."""

from __future__ import annotations

from typing import Final

from limiter_node.changes import PartlyApplied
from limiter_node.errors import ConfigError, LimiterError, Overloaded, StoreMisconfigured
from limiter_node.http.bodies.body_errors import BODY_ERRORS, body_error
from limiter_node.http.requests.fields import InvalidRequest
from limiter_node.http.responses import errors
from limiter_node.http.responses.errors import ErrorResponse
from limiter_node.keysfile.fields import Misdeclared
from limiter_node.management.errors import Ambiguous, Conflict, NotFound
from limiter_node.upstream.openai.error import error_body

_INVALID: Final = "invalid_request_error"

WRONG_TOKEN: Final = ErrorResponse(
    401,
    error_body(
        "The admin token is missing or wrong. Send it in an Authorization header using Bearer auth "
        "(i.e. Authorization: Bearer ADMIN_TOKEN).",
        _INVALID,
        code="invalid_admin_token",
    ),
)


def error_of(error: Exception, max_bytes: int) -> ErrorResponse | None:
    """Return the response to a request that failed with `error`; None if the node itself is at fault.

    `max_bytes`: the largest body of the route.
    """
    if isinstance(error, InvalidRequest):
        return errors.invalid_request(error)
    if isinstance(error, BODY_ERRORS):
        return body_error(error, max_bytes)
    if isinstance(error, Overloaded):
        return errors.OVERLOADED
    if isinstance(error, NotFound):
        return _error(404, error, "not_found")
    if isinstance(error, Ambiguous):
        return _error(409, error, "ambiguous", candidates=error.candidates)
    if isinstance(error, Conflict):
        return _error(409, error, "conflict")
    if isinstance(error, PartlyApplied):
        changes = [each.to_json() for each in error.changes]
        return _error(400, error, "partly_applied", changes=changes, warnings=error.warnings)
    if isinstance(error, ConfigError) and not isinstance(error, StoreMisconfigured):
        return _error(400, error, "invalid_value", _param(error))
    if isinstance(error, LimiterError):  # StoreUnavailable, OtherFormat, and a store that has to be corrected
        return ErrorResponse(503, error_body(str(error), "server_error", code="store_unavailable"))
    return None


def _error(status: int, error: Exception, code: str, param: str | None = None, **more: object) -> ErrorResponse:
    return ErrorResponse(status, error_body(str(error), _INVALID, param, code, **more))


def _param(error: ConfigError) -> str | None:
    """Return the path of the wrong field, such as ``limits[0].per``, where the error knows it."""
    if not isinstance(error, Misdeclared) or not error.place:
        return None
    parts = [f"[{each - 1}]" if isinstance(each, int) else f".{each}" for each in error.place]
    return "".join(parts).removeprefix(".")
