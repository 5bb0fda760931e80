"""Errors that services send with status 200, as a whole answer or as an event of a stream; and what is no answer.

An error is one that has an ``error``, that calls itself one (``"object": "error"``), or that has a message and nothing
of an answer. Its ``code`` is its status where it is one: services behind a router, and servers that have begun to
stream, have no other place for it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from limiter_node.upstream.errors import UpstreamError, UpstreamRefusal
from limiter_node.upstream.gateway.incoming import openai_error, quoted_message, refusal_headers
from limiter_node.upstream.gateway.lenient_json import BYTE_ORDER_MARK, read_json, write_json
from limiter_node.upstream.gateway.sse import first_data

MAX_ERROR_BYTES: Final = 64 * 1024
"""A longer error repeats the whole input, or isn't one."""

OUR_FAULT: Final = frozenset((401, 403, 407))
"""The service doesn't take our key: nothing that the caller could mend."""
KEEPS_STATUS: Final = frozenset((502, 503, 504))
"""Others become 502: a 500 of a node is a mistake of its own."""

_ANSWERS = ("choices", "output", "data", "embeddings", "response", "content")
_MESSAGES = ("message", "detail", "msg", "errors", "error_msg", "error_message", "Message")
_ALONE = frozenset(
    (
        *_MESSAGES,
        *("code", "type", "param", "status", "status_code", "object", "title", "instance", "success", "request_id"),
        *("error_code", "error_type", "timestamp", "path"),
    )
)
"""Fields that an event has that is nothing but an error."""
_STATUSES = ("code", "status_code", "status", "http_status", "error_code")
_NAMED = {
    "context_length_exceeded": 400,
    "invalid_prompt": 400,
    "content_filter": 400,
    "content_policy_violation": 400,
    "string_above_max_length": 400,
    "invalid_api_key": 401,
    "model_not_found": 404,
    "rate_limit_exceeded": 429,
    "insufficient_quota": 429,
    "overloaded": 503,
}
"""OpenAI's codes, which are no numbers, and their statuses there."""
_BEGINS_AS_ERROR = re.compile(rb'\s*\{\s*"(?:error"\s*:\s*[{"\[]|object"\s*:\s*"error"|detail"\s*:)')
_HAS_ANSWER = re.compile(rb'"(?:choices|output|data)"\s*:\s*\[\s*\{')
_CODE = re.compile(rb'"code"\s*:\s*"?([45]\d\d)[",\s}]')


@dataclass(frozen=True, slots=True)
class SaidError:
    """An error that came with status 200, or something that is no answer."""

    what: str
    """For the log: what the service did."""
    code: int | None = None
    """The status that the error says it is, 400 to 599; None where it says none."""
    body: bytes | None = None
    """The service's words, which may hold its key. None where callers are told no more than that it failed."""

    @property
    def status(self) -> int:
        """The status that the error stands for."""
        return self.code or 502

    @property
    def is_callers_own(self) -> bool:
        """Whether it says nothing about the health of the address: a request that the service won't answer."""
        return 400 <= self.status < 500 and self.status not in OUR_FAULT

    @property
    def outcome(self) -> str:
        """One of `limiter_node.telemetry.UPSTREAM_OUTCOMES`."""
        if not self.is_callers_own:
            return "failed"
        return "rate_limited" if self.status == 429 else "refused"

    def to_upstream_error(
        self,
        secret: str,
        fields: Sequence[tuple[str, str]] = (),
        *,
        forwards_key: bool = False,
        produced_tokens: int = 0,
        has_begun: bool = False,
    ) -> UpstreamError:
        """Return the error to raise: an `UpstreamRefusal` where the caller can mend it, unless its answer `has_begun`.

        `secret`: the service's key, which callers aren't told. `fields`: the service's headers. `forwards_key`:
        whether the key was the caller's own, so that 401 and 403 are the caller's own, too.
        """
        status, what = self.status, self.what
        if status in OUR_FAULT and not forwards_key:
            quoted = "" if self.body is None else quoted_message(status, self.body, secret)
            what = f"does not accept this node's key (code {status}){quoted}"
            return UpstreamError(what, produced_tokens=produced_tokens)
        body = None if self.body is None else openai_error(status, self.body, secret)
        headers = "" if self.code is None else refusal_headers(status, fields, secret)
        if status < 500 and not has_begun:
            return UpstreamRefusal(what, status=status, body=body, headers=headers)
        shown = status if status in KEEPS_STATUS or (has_begun and status < 500) else 502
        return UpstreamError(what, status=shown, body=body, headers=headers, produced_tokens=produced_tokens)


def said_error(held: bytes, is_complete: bool, *, is_stream: bool = False) -> SaidError | None:
    """Return the error that an answer with status 200 is, None if it is an answer.

    `held`: the beginning of it, `is_complete`: all of it. At most `MAX_ERROR_BYTES` are looked at. `is_stream`: they
    are events, of which the first counts.
    """
    if is_stream:
        try:
            return error_from_event(find_event_error(read_json(first_data(held)), is_first=True))
        except ValueError:
            return None
    body = held.removeprefix(BYTE_ORDER_MARK).lstrip()
    if body[:1] not in (b"{", b"["):
        return SaidError("answered with something that is not a JSON object: is its base URL right?")
    if not is_complete or len(body) > MAX_ERROR_BYTES:
        if _BEGINS_AS_ERROR.match(body, 0, MAX_ERROR_BYTES) is None:
            return None
        code = _CODE.search(body, 0, MAX_ERROR_BYTES)
        return SaidError("answered with an error of status 200", int(code[1]) if code else None, b"")
    if b'"error"' not in body and _HAS_ANSWER.search(body) is not None:
        return None  # without reading it twice; inside of texts, quotes are escaped
    try:
        said = read_json(body)
    except ValueError:
        return None  # cut or broken, but begun as an object: what can be read of it is counted
    if type(said) is list and said and type(said[0]) is dict and said[0].get("error"):
        said = said[0]  # Gemini's way
    if type(said) is not dict:
        return SaidError("answered with something that is not a JSON object: is its base URL right?")
    error = _find(said)
    return None if error is None else error_from_event(error, body if error is said else None)


def error_from_event(error: Any, body: bytes | None = None) -> SaidError | None:
    """Return the error that an event holds, as `find_event_error` has found it; `body`: how it was written."""
    if error is None:
        return None
    status = _status(error)
    what = "answered with an error of status 200" if status is None else f"answered with an error of code {status}"
    if body is None:
        try:
            body = write_json(error)
        except ValueError:
            body = b""  # what it is, its status says
    return SaidError(what, status, body)


def find_event_error(fields: Any, *, is_first: bool) -> Any:
    """Return the error in an event of a stream, None if there is none. `is_first`: nothing has come before it.

    Later events without an ``error`` are events of some other kind, whatever their fields are called.
    """
    if type(fields) is not dict:
        return None
    if fields.get("error") or fields.get("object") == "error":
        return fields
    if not fields.get("choices"):
        if (error := _base_error(fields)) is not None:
            return error
        is_bare = is_first and fields.keys() <= _ALONE and "error" in str(fields.get("type", "error")).lower()
        return _find(fields) if is_bare else None
    return _choices_error(fields["choices"])


def _find(said: dict[str, Any]) -> Any:
    """The error in a whole answer: all of it, or what one of its choices says."""
    if said.get("object") == "response" and type(said.get("output")) is list:
        return None  # one that failed says so in the API's own way
    if said.get("error") or said.get("object") == "error":
        return said
    if choices := said.get("choices"):
        return _choices_error(choices)
    if any(said.get(name) for name in _ANSWERS):
        return None
    if (error := _base_error(said)) is not None:
        return error
    if said.get("success") is False or any(said.get(name) for name in _MESSAGES):
        return said
    return None


def _base_error(said: dict[str, Any]) -> Any:
    """MiniMax tells in each answer how it went; its codes are its own."""
    base = said.get("base_resp")
    if type(base) is not dict or not base.get("status_code"):
        return None
    return {"message": base.get("status_msg"), "code": base["status_code"]}


def _choices_error(choices: Any) -> Any:
    """OpenRouter puts an error of the service behind it into the choice, where there is no text."""
    if type(choices) is not list or len(choices) != 1 or type(choices[0]) is not dict:
        return None
    choice = choices[0]
    error = choice.get("error")
    if not error:
        return None
    for name in ("message", "delta"):
        said = choice.get(name)
        if type(said) is dict and (said.get("content") or said.get("tool_calls")):
            return None
    return {"error": error}


def _status(error: Any) -> int | None:
    inner = error.get("error") if type(error) is dict else None
    holders = [holder for holder in (inner, error) if type(holder) is dict]
    for holder in holders:
        for name in _STATUSES:
            value = holder.get(name)
            if type(value) is str and len(value) == 3 and value.isascii() and value.isdigit():
                value = int(value)
            if type(value) is int and 400 <= value < 600:
                return value
    for holder in holders:
        value = holder.get("code")
        if type(value) is str and value in _NAMED:
            return _NAMED[value]
    return None
