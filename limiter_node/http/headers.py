"""The headers of every response, the rate limit's first of all; the table of them is in README.md.

`x-ratelimit-*-tokens`, which OpenAI's clients read and which knows one token dimension only, repeats the tighter of our
two: the one with fewer tokens remaining, input where they are equal. `RateLimit` and `RateLimit-Policy` say the same in
the form of the IETF's draft (draft-ietf-httpapi-ratelimit-headers-10): quota, remainder and times in whole seconds.
"""

from __future__ import annotations

import itertools
import secrets

from multidict import CIMultiDict, istr

from limiter_node.http.durations import duration_text
from limiter_node.model import DIMENSIONS, Amounts, Decision, Outcome

JSON = "application/json"

# istr: multidict folds a plain str's case anew in every response.
_LIMIT_REQUESTS = istr("x-ratelimit-limit-requests")
_LIMIT_INPUT = istr("x-ratelimit-limit-input-tokens")
_LIMIT_OUTPUT = istr("x-ratelimit-limit-output-tokens")
_LIMIT_TOKENS = istr("x-ratelimit-limit-tokens")
_REMAINING_REQUESTS = istr("x-ratelimit-remaining-requests")
_REMAINING_INPUT = istr("x-ratelimit-remaining-input-tokens")
_REMAINING_OUTPUT = istr("x-ratelimit-remaining-output-tokens")
_REMAINING_TOKENS = istr("x-ratelimit-remaining-tokens")
_RESET_REQUESTS = istr("x-ratelimit-reset-requests")
_RESET_INPUT = istr("x-ratelimit-reset-input-tokens")
_RESET_OUTPUT = istr("x-ratelimit-reset-output-tokens")
_RESET_TOKENS = istr("x-ratelimit-reset-tokens")
_RETRY_AFTER_MS = istr("retry-after-ms")
_RETRY_AFTER = istr("retry-after")
_SHOULD_RETRY = istr("x-should-retry")
_EXCEEDED = istr("x-limiter-exceeded")
_TIME_MS = istr("x-limiter-time-ms")
_RESERVED_OUTPUT = istr("x-limiter-reserved-output")
_NODE = istr("x-limiter-node")
_REQUEST_ID = istr("x-request-id")
_CONTENT_TYPE = istr("content-type")
_POLICY = istr("RateLimit-Policy")
_RATE_LIMIT = istr("RateLimit")

# Keys share few sets of limits; a look-up costs a tenth of rendering them.
_MAX_CACHED_LIMITS = 1_024


class RequestIds:
    """Makes request ids, unique over processes and restarts: 64 random bits of this process and a counter.

    Make one after a fork, not before.
    """

    __slots__ = ("_numbers", "_prefix")

    def __init__(self) -> None:
        self._prefix = f"req_{secrets.token_hex(8)}"
        self._numbers = itertools.count()

    def next(self) -> str:
        """A fresh id: ``req_`` and 24 or more hex digits."""
        return f"{self._prefix}{next(self._numbers):08x}"


class ResponseHeaders:
    """Renders the headers of one node's responses. `window_ms` is told, as the policies' window."""

    __slots__ = ("_limit_texts", "_node_id", "_window_s")

    def __init__(self, node_id: str, window_ms: int = 60_000) -> None:
        self._node_id = node_id
        self._window_s = -(-window_ms // 1_000)
        self._limit_texts: dict[Amounts, tuple[str, str, str, str]] = {}

    def plain(self, request_id: str, content_type: str = JSON) -> CIMultiDict[str]:
        """For a response that no decision stands behind: the models, a 400, a 401."""
        return CIMultiDict(((_CONTENT_TYPE, content_type), (_NODE, self._node_id), (_REQUEST_ID, request_id)))

    def unavailable(self, request_id: str, retry_after_ms: int) -> CIMultiDict[str]:
        """For a 503: how long a caller had better wait."""
        headers = self.plain(request_id)
        _add_retry_after(headers, retry_after_ms)
        return headers

    def decided(self, decision: Decision, request_id: str, content_type: str = JSON) -> CIMultiDict[str]:
        """For a response with `decision` behind it, a 200 or a 429. On a 429 the reservation is the one asked for."""
        # Written out by dimension, because every request pays for this (3 µs).
        # Single numbers aren't cached: `str` of an int costs no more than a look-up (65 ns).
        limit_requests, limit_input, limit_output = decision.limits
        texts = self._limit_texts.get(decision.limits)
        if texts is None:
            texts = self._render_limits(decision.limits)
        used_requests, used_input, used_output = decision.used
        reset_requests, reset_input, reset_output = decision.reset_ms
        left_requests = limit_requests - used_requests
        left_input = limit_input - used_input
        left_output = limit_output - used_output
        remaining_requests = str(left_requests if left_requests > 0 else 0)
        input_triple = texts[1], str(left_input if left_input > 0 else 0), duration_text(reset_input)
        output_triple = texts[2], str(left_output if left_output > 0 else 0), duration_text(reset_output)
        tighter = input_triple if left_input <= left_output else output_triple
        headers = CIMultiDict(
            (
                (_CONTENT_TYPE, content_type),
                (_LIMIT_REQUESTS, texts[0]),
                (_REMAINING_REQUESTS, remaining_requests),
                (_RESET_REQUESTS, duration_text(reset_requests)),
                (_LIMIT_INPUT, input_triple[0]),
                (_REMAINING_INPUT, input_triple[1]),
                (_RESET_INPUT, input_triple[2]),
                (_LIMIT_OUTPUT, output_triple[0]),
                (_REMAINING_OUTPUT, output_triple[1]),
                (_RESET_OUTPUT, output_triple[2]),
                (_LIMIT_TOKENS, tighter[0]),
                (_REMAINING_TOKENS, tighter[1]),
                (_RESET_TOKENS, tighter[2]),
                (_POLICY, texts[3]),
                (
                    _RATE_LIMIT,
                    f'"rpm";r={remaining_requests};t={-(-reset_requests // 1_000)}, '
                    f'"input-tpm";r={input_triple[1]};t={-(-reset_input // 1_000)}, '
                    f'"output-tpm";r={output_triple[1]};t={-(-reset_output // 1_000)}',
                ),
                (_TIME_MS, str(decision.time_ms)),
                (_RESERVED_OUTPUT, str(decision.need.output_tokens)),
                (_NODE, self._node_id),
                (_REQUEST_ID, request_id),
            )
        )
        if decision.outcome is not Outcome.ADMITTED:
            headers[_EXCEEDED] = DIMENSIONS[decision.dimension]
            if decision.outcome is Outcome.NEVER_FITS:
                headers[_SHOULD_RETRY] = "false"
            else:
                _add_retry_after(headers, decision.retry_after_ms)
        return headers

    def _render_limits(self, limits: Amounts) -> tuple[str, str, str, str]:
        """The limits as text, and as the IETF's policies."""
        if len(self._limit_texts) >= _MAX_CACHED_LIMITS:
            self._limit_texts.clear()
        requests, input_tokens, output_tokens = map(str, limits)
        end = f";w={self._window_s}"
        policy = f'"rpm";q={requests}{end}, "input-tpm";q={input_tokens}{end}, "output-tpm";q={output_tokens}{end}'
        self._limit_texts[limits] = texts = requests, input_tokens, output_tokens, policy
        return texts


def _add_retry_after(headers: CIMultiDict[str], retry_after_ms: int) -> None:
    headers[_RETRY_AFTER_MS] = str(retry_after_ms)
    headers[_RETRY_AFTER] = str(-(-retry_after_ms // 1_000))
