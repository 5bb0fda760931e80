"""What of a service's response reaches the caller: which headers, and errors in OpenAI's shape.

Headers pass unless they belong to the connection, to how the body was sent, to the account with the service (its rate
limits, its organization, its cookies), or to what this node says itself. Errors pass as they are where they have
OpenAI's shape, else what they say is put into it.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import orjson
from multidict import MultiMapping

from limiter_node.upstream.openai.error import error_body

STATUS_HEADER = "x-limiter-upstream-status"
"""On every error that comes from a service, with its status there: whose limit, whose failure it was."""

_OURS = frozenset(
    [
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "trailers",
        "transfer-encoding",
        "upgrade",
        "content-length",
        "content-encoding",
        "content-type",
        "content-md5",
        "digest",
        "date",
        "server",
        "via",
        "set-cookie",
        "set-cookie2",
        "alt-svc",
        "strict-transport-security",
        "www-authenticate",
        "openai-organization",
        "openai-project",
        "cache-control",
        "x-powered-by",
        "x-request-id",
        "x-should-retry",
        "retry-after",
        "retry-after-ms",
    ]
)
_OUR_PREFIXES = ("x-ratelimit-", "ratelimit", "x-limiter-", "anthropic-ratelimit-", "proxy-")
_OF_REFUSALS = ("x-ratelimit-", "ratelimit", "anthropic-ratelimit-")
_RETRYING = frozenset(("x-should-retry", "retry-after", "retry-after-ms"))
_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,64}\Z")
_MAX_MESSAGE_CHARS = 2_000
_TYPES = {400: "invalid_request_error", 404: "invalid_request_error", 429: "requests"}


def passed_headers(headers: MultiMapping[str], secret: str) -> str:
    """The lines of a good answer's headers that are passed on. `secret` is in none of them, unless it is empty."""
    return _lines(headers, _passes, secret)


def refusal_headers(status: int, headers: MultiMapping[str], secret: str) -> str:
    """Those of an error: when to try again, and of a 429 the limits that it is about; then whose error it is."""
    wanted = _OF_REFUSALS if status == 429 else ()

    def passes(name: str) -> bool:
        return name in _RETRYING or (bool(wanted) and name.startswith(wanted) and _NAME.match(name) is not None)

    lines = _lines(headers, passes, secret)
    return f"{lines}{STATUS_HEADER}: {status}\r\n"


def _lines(headers: MultiMapping[str], passes: Callable[[str], bool], secret: str) -> str:
    named = headers.getall("Connection", ())  # what it names belongs to the connection, too
    dropped = {each.strip().lower() for value in named for each in value.split(",")} if named else ()
    lines = []
    for name, value in headers.items():
        lowered = name.lower()
        # What isn't plain must not get into our own head: it is written as it is.
        if not value or not value.isascii() or not value.isprintable() or (secret and secret in value):
            continue
        if passes(lowered) and lowered not in dropped:
            lines.append(f"{lowered}: {value}\r\n")
        elif lowered == "x-request-id":
            lines.append(f"x-limiter-upstream-request-id: {value}\r\n")
    return "".join(lines)


@lru_cache(512)
def _passes(name: str) -> bool:
    return name not in _OURS and not name.startswith(_OUR_PREFIXES) and _NAME.match(name) is not None


def openai_error(status: int, body: bytes, secret: str) -> bytes:
    """The body of a service's error as callers are told it. `secret` is not in it, unless it is empty."""
    if secret:
        body = _redacted(body, secret)
    try:
        said = orjson.loads(body)
    except orjson.JSONDecodeError:
        said = None
    if _has_openais_shape(said):
        return body
    if type(said) is list and said and _has_openais_shape(said[0]):
        return orjson.dumps(said[0])  # Gemini's way
    message = _message(said) or f"The upstream service answered with status {status}."
    kind = _TYPES.get(status, "invalid_request_error" if status < 500 else "server_error")
    return error_body(message[:_MAX_MESSAGE_CHARS], kind, code="upstream_error")


def _redacted(body: bytes, secret: str) -> bytes:
    """`body` without `secret`, as it is, as JSON has it, or as JSON of those who escape slashes has it.

    Before anything is cut short, which might cut the secret.
    """
    in_json = orjson.dumps(secret)[1:-1]
    for raw in (in_json.replace(b"/", b"\\/"), in_json, secret.encode()):
        body = body.replace(raw, b"[redacted]")
    return body


def _has_openais_shape(said: Any) -> bool:
    error = said.get("error") if type(said) is dict else None
    return type(error) is dict and type(error.get("message")) is str


def _message(said: Any) -> str:
    """What other servers say: ``{"detail": …}``, ``{"error": "…"}``, ``{"message": "…"}``."""
    if type(said) is not dict:
        return ""
    for name in ("message", "error", "detail"):
        value = said.get(name)
        if type(value) is str:
            return value
        if type(value) is list and value:
            try:
                return orjson.dumps(value).decode()
            except TypeError:  # nested too deeply
                return ""
    return ""
