"""In-band errors: those that services send with status 200, as a whole answer or as an event of a stream.

A body that isn't an answer at all counts as one, too. `error_finding` knows where services put such errors.
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
"""The longest body to search; a longer error repeats the whole input, or isn't one."""

OUR_FAULT: Final = frozenset((401, 403, 407))
"""Statuses by which the service rejects our key: the caller can't correct that."""
KEEPS_STATUS: Final = frozenset((502, 503, 504))
"""Statuses from 500 on that pass. Others become 502, because a node's own 500 means a fault of the node."""

_BEGINS_AS_ERROR = re.compile(rb'\s*\{\s*"(?:error"\s*:\s*[{"\[]|object"\s*:\s*"error"|detail"\s*:)')
_HAS_ANSWER = re.compile(rb'"(?:choices|output|data)"\s*:\s*\[\s*\{')
_CODE = re.compile(rb'"code"\s*:\s*"?([45]\d\d)[",\s}]')


@dataclass(frozen=True, slots=True)
class InBandError:
    """Hold an error that came with status 200, or a body that isn't an answer."""

    what: str
    """The service's action, for the log."""
    code: int | None = None
    """The status that the error states, 400 to 599; None if it states none."""
    body: bytes | None = None
    """The service's error, which may hold its key. None if callers learn only that the service failed."""

    @property
    def status(self) -> int:
        """The HTTP status of the error."""
        return self.code or 502

    @property
    def is_callers_own(self) -> bool:
        """Whether the request is at fault, not the address: the service won't answer it."""
        return 400 <= self.status < 500 and self.status not in OUR_FAULT

    @property
    def outcome(self) -> str:
        """The outcome to count, one of `limiter_node.telemetry.UPSTREAM_OUTCOMES`."""
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
        """Return the error to raise: an `UpstreamRefusal` if the caller can correct it, unless its answer `has_begun`.

        `secret`: the service's key, which callers must not see. `fields`: the service's headers. `forwards_key`:
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
    """Return the error in a whole answer with status 200, None if there is none.

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
        return None  # without reading it twice; in texts, quotes are escaped
    try:
        said = read_json(body)
    except ValueError:
        return None  # cut or broken, but it begins as an object: its readable part is counted
    if type(said) is list and said and type(said[0]) is dict and said[0].get("error"):
        said = said[0]  # Gemini's way
    if type(said) is not dict:
        return InBandError("answered with something that is not a JSON object: is its base URL right?")
    error = find_answer_error(said)
    return None if error is None else to_in_band_error(error, body if error is said else None)


def to_in_band_error(error: Any, body: bytes | None = None) -> InBandError | None:
    """Return the in-band error for `error` of `find_event_error`, None for None. `body`: the service's bytes."""
    if error is None:
        return None
    status = error_status(error)
    what = "answered with an error of status 200" if status is None else f"answered with an error of code {status}"
    if body is None:
        try:
            body = write_json(error)
        except ValueError:
            body = b""  # the status says enough
    return InBandError(what, status, body)
