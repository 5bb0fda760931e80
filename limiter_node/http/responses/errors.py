"""Every error that a caller may be sent, as status and body: ``{"error":{"message","type","param","code"}}``.

OpenAI's shapes, types and codes. No message holds the API key, a stack, or more of the request than a field's name and
a short value.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from limiter_node.decisions import Decision, Outcome
from limiter_node.http.requests.fields import InvalidRequest
from limiter_node.http.responses.durations import duration_text
from limiter_node.http.responses.path_errors import PER_MINUTE, rejection_message
from limiter_node.plans import key_name
from limiter_node.policy import REQUESTS
from limiter_node.upstream.errors import NotServed, UnknownModel, UpstreamError
from limiter_node.upstream.openai.error import error_body

_INVALID_REQUEST = "invalid_request_error"
_SERVER_ERROR = "server_error"
_MAX_PATH_CHARS = 128


class ErrorResponse(NamedTuple):
    """Hold an error that is ready to be sent."""

    status: int
    body: bytes


INVALID_API_KEY = ErrorResponse(
    401, error_body("Incorrect API key provided.", _INVALID_REQUEST, code="invalid_api_key")
)
UNAUTHORIZED: Final = {
    Outcome.UNKNOWN_KEY: INVALID_API_KEY,
    **{
        outcome: ErrorResponse(401, error_body(message, _INVALID_REQUEST, code="invalid_api_key"))
        for outcome, message in (
            (Outcome.REVOKED_KEY, "This API key has been revoked."),
            (Outcome.EXPIRED_KEY, "This API key has expired."),
            (Outcome.DISABLED_KEY, "This API key is disabled."),
        )
    },
}
"""The errors for requests whose credential isn't good, by the outcome of their decision."""
MISSING_API_KEY = ErrorResponse(
    401,
    error_body(
        "You didn't provide an API key. Send it in an Authorization header using Bearer auth "
        "(i.e. Authorization: Bearer YOUR_KEY).",
        _INVALID_REQUEST,
        code="invalid_api_key",
    ),
)
STORE_UNAVAILABLE = ErrorResponse(
    503,
    error_body(
        "The rate limiter's store cannot be reached, so this request could not be decided. Please try again.",
        _SERVER_ERROR,
        code="store_unavailable",
    ),
)
KEY_IS_MOVING = ErrorResponse(
    503,
    error_body(
        "This API key is being moved to another account. Please try again.", _SERVER_ERROR, code="key_is_moving"
    ),
)
OVERLOADED = ErrorResponse(
    503,
    error_body(
        "This server is currently overloaded with other requests. Please try again.", _SERVER_ERROR, code="overloaded"
    ),
)
STOPPING = ErrorResponse(
    503, error_body("This server is stopping. Please try again.", _SERVER_ERROR, code="server_stopping")
)
UNREADABLE = ErrorResponse(
    400, error_body("The request could not be read as HTTP. Check its request line and headers.", _INVALID_REQUEST)
)
HEAD_TOO_LARGE = ErrorResponse(
    431, error_body("The request line or the headers are too large.", _INVALID_REQUEST, code="headers_too_large")
)
REQUEST_TIMEOUT = ErrorResponse(
    408,
    error_body("The request was not sent in time. Please try again.", _INVALID_REQUEST, code="request_timeout"),
)
UNSUPPORTED_ENCODING = ErrorResponse(
    415,
    error_body(
        "The Content-Encoding of your request is not supported: send its body as it is, or as gzip or deflate.",
        _INVALID_REQUEST,
        "Content-Encoding",
        "unsupported_media_type",
    ),
)
EXPECTATION_FAILED = ErrorResponse(
    417,
    error_body("The only expectation that can be met is 100-continue.", _INVALID_REQUEST, code="expectation_failed"),
)
_UPSTREAM_FAILED = error_body("The upstream service failed to answer.", _SERVER_ERROR, code="upstream_error")
CLIENT_GONE = ErrorResponse(499, error_body("The client closed its request.", _INVALID_REQUEST, code="client_gone"))
"""No client reads it; such a request is counted under its status."""
INTERNAL = ErrorResponse(
    500,
    error_body("The server had an error while processing your request.", _SERVER_ERROR, code="internal_error"),
)


def invalid_request(error: InvalidRequest) -> ErrorResponse:
    """Return the 400 for a request that has to be corrected; `param` names the field."""
    return ErrorResponse(400, error_body(error.message, _INVALID_REQUEST, error.param, error.code))


def ambiguous_key(header: str) -> ErrorResponse:
    """Return the 400 for a request with more than one API key, the second one in `header`."""
    message = (
        "Your request gives more than one API key. Send one, in one Authorization header (or x-api-key, or api-key)."
    )
    return ErrorResponse(400, error_body(message, _INVALID_REQUEST, header, "ambiguous_api_key"))


def too_large(max_body_bytes: int) -> ErrorResponse:
    """Return the 413 for a body that is longer than this server reads."""
    message = f"The request body is too large: the maximum is {max_body_bytes} bytes."
    return ErrorResponse(413, error_body(message, _INVALID_REQUEST, code="request_too_large"))


def not_found(method: str, path: str) -> ErrorResponse:
    """Return the 404 for a route that doesn't exist."""
    message = f"Invalid URL ({_shown(method)} {_shown(path)})"
    return ErrorResponse(404, error_body(message, _INVALID_REQUEST, code="unknown_url"))


def model_not_found(model: str) -> ErrorResponse:
    """Return the 404 for a model that isn't served."""
    message = f"The model '{_shown(model)}' does not exist or you do not have access to it."
    return ErrorResponse(404, error_body(message, _INVALID_REQUEST, "model", "model_not_found"))


def method_not_allowed(method: str, path: str) -> ErrorResponse:
    """Return the 405 for a route that exists for other methods only."""
    message = f"Not allowed to {_shown(method)} on {_shown(path)}."
    return ErrorResponse(405, error_body(message, _INVALID_REQUEST, code="method_not_allowed"))


def upstream_failed(error: UpstreamError) -> ErrorResponse:
    """Return the error for an upstream's failure, with the status and body that `error` has for callers."""
    return ErrorResponse(error.status, _UPSTREAM_FAILED if error.body is None else error.body)


def not_served(error: NotServed) -> ErrorResponse:
    """Return the error for a request that can't be sent to any upstream."""
    if isinstance(error, UnknownModel):
        return model_not_found(error.model)
    return ErrorResponse(error.status, error_body(str(error), _INVALID_REQUEST, error.param, error.code))


def rate_limited(decision: Decision, kid: str) -> ErrorResponse:
    """Return the 429 for a request that `decision` rejected: it names the binding limit and its numbers.

    A plain key is called by its name, or by the first 12 hex digits of its digest `kid` where it has none.
    """
    message = _plain_rejection(decision, kid) if decision.path is None else rejection_message(decision)
    kind = "requests" if decision.dimension == REQUESTS else "tokens"
    return ErrorResponse(429, error_body(message, kind, code="rate_limit_exceeded"))


def _plain_rejection(decision: Decision, kid: str) -> str:
    dimension = decision.dimension
    who = key_name(decision.name, kid)
    on = f"{who} on {PER_MINUTE[dimension]}: Limit {decision.limits[dimension]}"
    if decision.outcome is Outcome.NEVER_FITS:
        return f"Request too large for {on}, Requested {decision.need[dimension]}."
    return (
        f"Rate limit reached for {on}, Used {decision.used[dimension]}, Requested {decision.need[dimension]}. "
        f"Please try again in {duration_text(decision.retry_after_ms)}."
    )


def _shown(text: str) -> str:
    return text if len(text) <= _MAX_PATH_CHARS else text[:_MAX_PATH_CHARS] + "…"
