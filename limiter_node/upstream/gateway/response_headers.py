"""The headers of a service's response: which of them reach the caller, and what they say of the body.

A short list passes; more than callers could do with, or longer, is left out.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import lru_cache

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


def passed_headers(fields: Sequence[tuple[str, str]], secret: str) -> str:
    """Return the lines of a good answer's headers that are passed on, each with its CRLF.

    `fields`: names in lower case. `secret` is in none of the lines, unless it is empty.
    """
    return _lines(fields, _passes, secret)


def refusal_headers(status: int, fields: Sequence[tuple[str, str]], secret: str) -> str:
    """Return the lines of an error's headers that are passed on, each with its CRLF.

    These say when to try again, of a 429 which limits it is about, and in the end whose error it is.
    """
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


def header(fields: Sequence[tuple[str, str]], name: str) -> str:
    """Return the value of the first header of that name, which is in lower case; empty if there is none."""
    return next((value for each, value in fields if each == name), "")


def is_packed(fields: Sequence[tuple[str, str]]) -> bool:
    """Whether the body has a content coding, as gzip."""
    return header(fields, "content-encoding").strip().lower() not in ("", "identity")


def body_length(fields: Sequence[tuple[str, str]]) -> int | None:
    """Return the length of the body in bytes; None where the service doesn't tell it or sends the body in chunks."""
    if header(fields, "transfer-encoding"):
        return None
    length = header(fields, "content-length").strip()
    return int(length) if length.isascii() and length.isdigit() else None
