"""In-band errors: those that services send with status 200, as a whole answer or as an event of a stream.

What is no answer at all counts as one, too. `error_finding` says where services put such errors.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from limiter_node.upstream.errors import UpstreamError, UpstreamRefusal
from limiter_node.upstream.gateway.lenient_json import BYTE_ORDER_MARK, read_json, write_json
from limiter_node.upstream.gateway.response_headers import refusal_headers
from limiter_node.upstream.gateway.service_errors.error_finding import error_status, find_answer_error
from limiter_node.upstream.gateway.service_errors.openai_shape import openai_error, quoted_message

MAX_ERROR_BYTES: Final = 64 * 1024
"""A longer error repeats the whole input, or isn't one."""

OUR_FAULT: Final = frozenset((401, 403, 407))
"""The service doesn't take our key: nothing that the caller could mend."""
KEEPS_STATUS: Final = frozenset((502, 503, 504))
"""Others become 502: a 500 of a node is a mistake of its own."""

_BEGINS_AS_ERROR = re.compile(rb'\s*\{\s*"(?:error"\s*:\s*[{"\[]|object"\s*:\s*"error"|detail"\s*:)')
_HAS_ANSWER = re.compile(rb'"(?:choices|output|data)"\s*:\s*\[\s*\{')
_CODE = re.compile(rb'"code"\s*:\s*"?([45]\d\d)[",\s}]')


@dataclass(frozen=True, slots=True)
class InBandError:
    """Hold an error that came with status 200; an answer that is none counts as one."""

    what: str
    """What the service did, for the log."""
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


def find_in_band_error(held: bytes, is_complete: bool) -> InBandError | None:
    """Return the error that a whole answer with status 200 is, None if it is an answer.

    `held`: its beginning; `is_complete`: whether that is all of it. At most `MAX_ERROR_BYTES` are looked at.
    """
    body = held.removeprefix(BYTE_ORDER_MARK).lstrip()
    if body[:1] not in (b"{", b"["):
        return InBandError("answered with something that is not a JSON object: is its base URL right?")
    if not is_complete or len(body) > MAX_ERROR_BYTES:
        if _BEGINS_AS_ERROR.match(body, 0, MAX_ERROR_BYTES) is None:
            return None
        code = _CODE.search(body, 0, MAX_ERROR_BYTES)
        return InBandError("answered with an error of status 200", int(code[1]) if code else None, b"")
    if b'"error"' not in body and _HAS_ANSWER.search(body) is not None:
        return None  # without reading it twice; inside of texts, quotes are escaped
    try:
        said = read_json(body)
    except ValueError:
        return None  # cut or broken, but begun as an object: what can be read of it is counted
    if type(said) is list and said and type(said[0]) is dict and said[0].get("error"):
        said = said[0]  # Gemini's way
    if type(said) is not dict:
        return InBandError("answered with something that is not a JSON object: is its base URL right?")
    error = find_answer_error(said)
    return None if error is None else to_in_band_error(error, body if error is said else None)


def to_in_band_error(error: Any, body: bytes | None = None) -> InBandError | None:
    """Return the error that `find_event_error` has found, None for None. `body`: how the service wrote it."""
    if error is None:
        return None
    status = error_status(error)
    what = "answered with an error of status 200" if status is None else f"answered with an error of code {status}"
    if body is None:
        try:
            body = write_json(error)
        except ValueError:
            body = b""  # what it is, its status says
    return InBandError(what, status, body)
