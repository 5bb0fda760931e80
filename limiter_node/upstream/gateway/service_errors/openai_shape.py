"""Puts the errors of services into OpenAI's shape, without our key in them.

Errors of that shape pass unchanged; of others, the message is put into it.
"""

from __future__ import annotations

from typing import Any

import orjson

from limiter_node.upstream.gateway.lenient_json import read_json, write_json
from limiter_node.upstream.gateway.sse import EVENT_STREAM, first_data, looks_like_stream
from limiter_node.upstream.openai.error import error_body

_MAX_MESSAGE_CHARS = 2_000
_MAX_QUOTED_CHARS = 200
_UNSAID = "The upstream service answered with status {}."
_TYPES = {400: "invalid_request_error", 404: "invalid_request_error", 429: "requests"}


def openai_error(status: int, body: bytes, secret: str, content_type: str = "") -> bytes:
    """Return the body of a service's error for callers, without `secret` unless that is empty.

    An error in an event stream, by its `content_type` or bytes, is taken out of the first event.
    """
    if secret:
        body = _redacted(body, secret)
    if content_type.lower().startswith(EVENT_STREAM) or looks_like_stream(body):
        body = first_data(body) or body
    try:
        said = orjson.loads(body)
    except orjson.JSONDecodeError:
        try:
            # Written by Python, which writes NaN and lone surrogates.
            body = write_json(said := read_json(body))
        except ValueError:
            said = None
    if _has_openais_shape(said):
        return body
    if type(said) is list and said and _has_openais_shape(said[0]):
        return orjson.dumps(said[0])  # Gemini's way
    message = _message(said) or _UNSAID.format(status)
    kind = _TYPES.get(status, "invalid_request_error" if status < 500 else "server_error")
    return error_body(message[:_MAX_MESSAGE_CHARS], kind, code="upstream_error")


def quoted_message(status: int, body: bytes, secret: str, content_type: str = "") -> str:
    """Return ``: "MESSAGE"`` of a service's error for the log: on one line, short, and without `secret`.

    Return "" if it has no message.
    """
    if not body:
        return ""
    said = orjson.loads(openai_error(status, body, secret, content_type))["error"]
    message = " ".join("".join(each if each.isprintable() else " " for each in said["message"]).split())
    if not message or message == _UNSAID.format(status):
        return ""
    return f': "{message[:_MAX_QUOTED_CHARS]}{"…" if len(message) > _MAX_QUOTED_CHARS else ""}"'


def _redacted(body: bytes, secret: str) -> bytes:
    """Return `body` without `secret`, plain or in JSON, with or without escaped slashes.

    To be called before a text is shortened, which might cut the secret.
    """
    in_json = orjson.dumps(secret)[1:-1]
    for raw in (in_json.replace(b"/", b"\\/"), in_json, secret.encode()):
        body = body.replace(raw, b"[redacted]")
    return body


def _has_openais_shape(said: Any) -> bool:
    error = said.get("error") if type(said) is dict else None
    return type(error) is dict and type(error.get("message")) is str


def _message(said: Any) -> str:
    """Return the message in other servers' forms: ``{"detail": …}``, ``{"error": "…"}``, ``{"message": "…"}``."""
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
