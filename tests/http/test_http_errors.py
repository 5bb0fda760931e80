"""Error bodies, literally: shapes, texts of the 429s, what messages must not hold."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from limiter_node.decisions import Decision, Outcome
from limiter_node.http.requests.fields import InvalidRequest
from limiter_node.http.responses import errors
from limiter_node.http.responses.durations import duration_text
from limiter_node.http.responses.errors import ErrorResponse
from limiter_node.limits import Amounts
from limiter_node.upstream.errors import UpstreamError

KID = "0123456789abcdef0123456789abcdef"


def decision(outcome: Outcome = Outcome.REJECTED, **changes: Any) -> Decision:
    return Decision(
        outcome=outcome,
        dimension=1,
        retry_after_ms=3_890,
        limits=Amounts(60, 30_000, 9_000),
        used=Amounts(60, 28_039, 8_999),
        reset_ms=Amounts(1, 2, 3),
        need=Amounts(1, 3_906, 512),
        time_ms=1_763_916_000_123,
        name="alice",
    )._replace(**changes)


def fields(reply: ErrorResponse) -> tuple[int, str, str, str | None, str | None]:
    content = orjson.loads(reply.body)
    assert list(content) == ["error"]
    error = content["error"]
    assert list(error) == ["message", "type", "param", "code"]
    return reply.status, error["message"], error["type"], error["param"], error["code"]


@pytest.mark.parametrize(
    ("changes", "message", "kind"),
    [
        (
            {},
            "Rate limit reached for alice on input tokens per min (input TPM): "
            "Limit 30000, Used 28039, Requested 3906. Please try again in 3.89s.",
            "tokens",
        ),
        (
            {"dimension": 0, "retry_after_ms": 12},
            "Rate limit reached for alice on requests per min (RPM): "
            "Limit 60, Used 60, Requested 1. Please try again in 12ms.",
            "requests",
        ),
        (
            {"dimension": 2, "retry_after_ms": 60_050, "name": ""},
            "Rate limit reached for 0123456789ab on output tokens per min (output TPM): "
            "Limit 9000, Used 8999, Requested 512. Please try again in 1m0.05s.",
            "tokens",
        ),
        (
            {"outcome": Outcome.NEVER_FITS, "retry_after_ms": 0, "limits": Amounts(60, 50, 9_000)},
            "Request too large for alice on input tokens per min (input TPM): Limit 50, Requested 3906.",
            "tokens",
        ),
        (
            {"outcome": Outcome.NEVER_FITS, "dimension": 0, "limits": Amounts(0, 50, 9_000), "name": 'é"{}'},
            'Request too large for é"{} on requests per min (RPM): Limit 0, Requested 1.',
            "requests",
        ),
    ],
)
def test_rate_limited(changes: dict[str, Any], message: str, kind: str) -> None:
    reply = errors.rate_limited(decision(**changes), KID)
    assert fields(reply) == (429, message, kind, None, "rate_limit_exceeded")


@pytest.mark.parametrize(
    ("reply", "status", "kind", "param", "code"),
    [
        (errors.INVALID_API_KEY, 401, "invalid_request_error", None, "invalid_api_key"),
        (errors.MISSING_API_KEY, 401, "invalid_request_error", None, "invalid_api_key"),
        (errors.STORE_UNAVAILABLE, 503, "server_error", None, "store_unavailable"),
        (errors.KEY_IS_MOVING, 503, "server_error", None, "key_is_moving"),
        (errors.OVERLOADED, 503, "server_error", None, "overloaded"),
        (errors.INTERNAL, 500, "server_error", None, "internal_error"),
        (
            errors.invalid_request(InvalidRequest("Missing required parameter: 'model'.", "model", "missing")),
            400,
            "invalid_request_error",
            "model",
            "missing",
        ),
        (errors.too_large(1_048_576), 413, "invalid_request_error", None, "request_too_large"),
        (errors.not_found("GET", "/v2"), 404, "invalid_request_error", None, "unknown_url"),
        (errors.method_not_allowed("PUT", "/v1/models"), 405, "invalid_request_error", None, "method_not_allowed"),
        (errors.upstream_failed(UpstreamError("sk-secret", status=504)), 504, "server_error", None, "upstream_error"),
    ],
)
def test_other_errors(reply: ErrorResponse, status: int, kind: str, param: str | None, code: str) -> None:
    got_status, message, *rest = fields(reply)
    assert (got_status, *rest) == (status, kind, param, code)
    assert message
    assert "sk-secret" not in message


def test_messages_that_name_what_was_asked() -> None:
    assert fields(errors.not_found("GET", "/v2"))[1] == "Invalid URL (GET /v2)"
    assert fields(errors.method_not_allowed("PUT", "/v1/models"))[1] == "Not allowed to PUT on /v1/models."
    assert "1048576 bytes" in fields(errors.too_large(1_048_576))[1]


def test_paths_of_any_kind_are_shown_safely() -> None:
    assert fields(errors.not_found("GET", "/\udcff"))[1] == "Invalid URL (GET /?)"
    assert len(fields(errors.not_found("GET", "/" + "x" * 8_000))[1]) < 200


@pytest.mark.parametrize(
    ("ms", "text"),
    [
        (-1, "0s"),
        (0, "0s"),
        (1, "1ms"),
        (12, "12ms"),
        (999, "999ms"),
        (1_000, "1s"),
        (1_001, "1.001s"),
        (3_890, "3.89s"),
        (3_885, "3.885s"),
        (59_450, "59.45s"),
        (59_999, "59.999s"),
        (60_000, "1m0s"),
        (60_001, "1m0.001s"),
        (60_050, "1m0.05s"),
        (119_999, "1m59.999s"),
        (360_000, "6m0s"),
        (3_599_999, "59m59.999s"),
        (3_600_000, "1h0m0s"),
        (86_461_500, "24h1m1.5s"),
    ],
)
def test_duration_text(ms: int, text: str) -> None:
    assert duration_text(ms) == text
