"""What of a service's response reaches the caller: which headers, and errors in OpenAI's shape.

Of the headers a short list passes; more than callers could do with, or longer, is left out. Errors pass as they are
where they have OpenAI's shape, else what they say is put into it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import orjson

from limiter_node.upstream.gateway.lenient_json import read_json, write_json
from limiter_node.upstream.gateway.sse import first_data, looks_like_stream
from limiter_node.upstream.openai.error import error_body

STATUS_HEADER = "x-limiter-upstream-status"
"""On every error that comes from a service, with its status there: whose limit, whose failure it was."""

_PASSED = frozenset(
    [
        *("openai-model", "openai-processing-ms", "openai-version", "server-timing", "x-envoy-upstream-service-time"),
        *("apim-request-id", "azureml-model-session", "x-ms-region", "x-ms-deployment-name", "cf-ray"),
        *("x-groq-region", "x-generation-id", "x-litellm-call-id", "x-litellm-model-id", "x-processing-time"),
        *("deprecation", "sunset", "warning"),
    ]
)
_PASSED_PREFIXES = ("x-inference-", "x-compute-", "x-vllm-", "fireworks-")
"""Headers that say something of one answer: which model and place gave it, how long it took, under which id to ask
about it, and that it will not be given for ever. Left out are those that steer a browser, belong to the connection or
to how the body was sent, tell of the account with the service (its limits, its spend, its cookies), or that this node
says itself."""
_MAX_VALUE_CHARS = 1_024
_MAX_LINES = 32
_OF_REFUSALS = ("x-ratelimit-", "ratelimit", "anthropic-ratelimit-")
_RETRYING = frozenset(("x-should-retry", "retry-after", "retry-after-ms"))
_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,64}\Z")
_MAX_MESSAGE_CHARS = 2_000
_MAX_QUOTED_CHARS = 200
_UNSAID = "The upstream service answered with status {}."
_TYPES = {400: "invalid_request_error", 404: "invalid_request_error", 429: "requests"}


def passed_headers(fields: Sequence[tuple[str, str]], secret: str) -> str:
    """Return the lines of a good answer's headers that are passed on, each with its CRLF.

    `fields`: names in lower case. `secret` is in none of the lines, unless it is empty.
    """
    return _lines(fields, _passes, secret)


def refusal_headers(status: int, fields: Sequence[tuple[str, str]], secret: str) -> str:
    """Those of an error: when to try again, and of a 429 the limits that it is about; then whose error it is."""
    wanted = _OF_REFUSALS if status == 429 else ()

    def passes(name: str) -> bool:
        return name in _RETRYING or (bool(wanted) and name.startswith(wanted) and _NAME.match(name) is not None)

    lines = _lines(fields, passes, secret)
    return f"{lines}{STATUS_HEADER}: {status}\r\n"


def _lines(fields: Sequence[tuple[str, str]], passes: Callable[[str], bool], secret: str) -> str:
    named = [value for name, value in fields if name == "connection"]
    # What it names belongs to the connection, too.
    dropped = {each.strip().lower() for value in named for each in value.split(",")} if named else ()
    lines: list[str] = []
    for name, value in fields:
        is_id = name == "x-request-id"
        if not (is_id or passes(name)) or name in dropped:
            continue
        # What isn't plain must not get into our own head: it is written as it is.
        if not 0 < len(value) <= _MAX_VALUE_CHARS or not value.isascii() or not value.isprintable():
            continue
        if secret and secret in value:
            continue
        lines.append(f"{'x-limiter-upstream-request-id' if is_id else name}: {value}\r\n")
        if len(lines) == _MAX_LINES:
            break
    return "".join(lines)


@lru_cache(512)
def _passes(name: str) -> bool:
    return name in _PASSED or (name.startswith(_PASSED_PREFIXES) and _NAME.match(name) is not None)


def openai_error(status: int, body: bytes, secret: str, content_type: str = "") -> bytes:
    """Return the body of a service's error as callers are told it. `secret` is not in it, unless it is empty.

    An error that came as an event stream, as its `content_type` or its bytes say, is taken out of its first event.
    """
    if secret:
        body = _redacted(body, secret)
    if content_type.lower().startswith("text/event-stream") or looks_like_stream(body):
        body = first_data(body) or body
    try:
        said = orjson.loads(body)
    except orjson.JSONDecodeError:
        try:
            # Said by Python, which writes NaN and lone surrogates.
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
    """Return ``: "MESSAGE"``, what a service's error says, for the log: on one line, short, and without `secret`.

    Return "" where it says nothing.
    """
    if not body:
        return ""
    said = orjson.loads(openai_error(status, body, secret, content_type))["error"]
    message = " ".join("".join(each if each.isprintable() else " " for each in said["message"]).split())
    if not message or message == _UNSAID.format(status):
        return ""
    return f': "{message[:_MAX_QUOTED_CHARS]}{"…" if len(message) > _MAX_QUOTED_CHARS else ""}"'


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
