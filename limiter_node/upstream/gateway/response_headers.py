"""The headers of a service's response: those that reach the caller, and those that describe the body.

Only known headers pass; too many or too long ones are left out.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import lru_cache

STATUS_HEADER = "x-limiter-upstream-status"
"""The header, on every error that comes from a service, with its status there: the failure or limit isn't ours."""

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
    """Return the header lines of a good answer that pass on, each with its CRLF.

    `fields`: names in lower case. `secret` is in none of the lines, unless it is empty.
    """
    return _lines(fields, _passes, secret)


def refusal_headers(status: int, fields: Sequence[tuple[str, str]], secret: str) -> str:
    """Return the header lines of an error that pass on, each with its CRLF.

    They say when to try again, which limits a 429 is about, and that the error is the service's.
    """
    wanted = _OF_REFUSALS if status == 429 else ()

    def passes(name: str) -> bool:
        return name in _RETRYING or (bool(wanted) and name.startswith(wanted) and _NAME.match(name) is not None)

    lines = _lines(fields, passes, secret)
    return f"{lines}{STATUS_HEADER}: {status}\r\n"


def _lines(fields: Sequence[tuple[str, str]], passes: Callable[[str], bool], secret: str) -> str:
    named = [value for name, value in fields if name == "connection"]
    # Headers that `Connection` names belong to the connection, too.
    dropped = {each.strip().lower() for value in named for each in value.split(",")} if named else ()
    lines: list[str] = []
    for name, value in fields:
        is_id = name == "x-request-id"
        if not (is_id or passes(name)) or name in dropped:
            continue
        # Values go into our own head unescaped, so only plain ones may pass.
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
    """Whether the body has a content coding, for example gzip."""
    return header(fields, "content-encoding").strip().lower() not in ("", "identity")


def body_length(fields: Sequence[tuple[str, str]]) -> int | None:
    """Return the body's length in bytes; None if the service doesn't declare it or sends chunks."""
    if header(fields, "transfer-encoding"):
        return None
    length = header(fields, "content-length").strip()
    return int(length) if length.isascii() and length.isdigit() else None
