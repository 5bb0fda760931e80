"""The headers of every response, the rate limit's first of all; the table of them is in docs/http-api.md.

`x-ratelimit-*-tokens`, which OpenAI's clients read and which knows one token dimension only, repeats the tighter of our
two: the one with fewer tokens remaining, input where they are equal. `RateLimit` and `RateLimit-Policy` say the same in
the form of the IETF's draft (draft-ietf-httpapi-ratelimit-headers-10): quota, remainder and times in whole seconds.
The limits of keys of accounts are rendered by `path_headers`.
"""

from __future__ import annotations

import itertools
import secrets

from limiter_node.decisions import Decision, Outcome
from limiter_node.http.responses.caller_view import header_text
from limiter_node.http.responses.durations import duration_text
from limiter_node.http.responses.path_headers import PathHeaders, binding_limit
from limiter_node.limits import Amounts
from limiter_node.plans import key_name, per_text
from limiter_node.policy import UNITS

SERVER = "limiter-node"
"""The `Server` header of every response, without a version, which would only help attackers."""
SERVER_LINE = f"Server: {SERVER}\r\n"

_LARGEST_WAIT_MS, _LARGEST_WAIT_S = 60_100, 60
"""A wait of up to a window and 100 ms is announced as at most 60 s: some clients (Claude Code) give up at 61."""

# Keys share few sets of limits; a look-up costs a tenth of rendering them.
_MAX_CACHED_LIMITS = 1_024

_OF_LIMITS = ("x-ratelimit-", "ratelimit", "anthropic-ratelimit-")
"""Beginnings of the names of headers about limits, a service's included."""


class RequestIds:
    """Make request ids, unique over processes and restarts: 64 random bits of this process and a counter.

    Make one after a fork, not before.
    """

    __slots__ = ("_numbers", "_prefix")

    def __init__(self) -> None:
        self._prefix = f"req_{secrets.token_hex(8)}"
        self._numbers = itertools.count()

    def next(self) -> str:
        """Return a fresh id: ``req_`` and 24 or more hex digits."""
        return f"{self._prefix}{next(self._numbers):08x}"


class ResponseHeaders:
    """Render the headers of one node's responses, as blocks of lines that each end with CRLF.

    Nothing in them comes from a caller: `node_id` is checked by the settings, all else is numbers and ids made here.
    `window_ms` is only shown, as the policies' window.
    """

    __slots__ = ("_limit_lines", "_node", "_path", "_per", "_plain", "_window_s")

    def __init__(self, node_id: str, window_ms: int = 60_000) -> None:
        self._node = f"x-limiter-node: {node_id}\r\n"
        self._plain = f"{SERVER_LINE}Content-Type: application/json\r\n{self._node}"
        self._window_s, self._per = -(-window_ms // 1_000), per_text(window_ms)
        self._limit_lines: dict[Amounts, tuple[str, str, str]] = {}
        self._path = PathHeaders()

    def plain(self, request_id: str) -> str:
        """Return the headers of a JSON response without a decision: a list of models, a 400, a 401."""
        return f"{self._plain}x-request-id: {request_id}\r\n"

    def empty(self, request_id: str) -> str:
        """Return the headers of a response without a body."""
        return f"{SERVER_LINE}{self._node}x-request-id: {request_id}\r\n"

    def of_type(self, content_type: str, request_id: str) -> str:
        """Return the headers of a response that is not JSON."""
        return f"{SERVER_LINE}Content-Type: {content_type}\r\n{self._node}x-request-id: {request_id}\r\n"

    def unavailable(self, request_id: str, retry_after_ms: int) -> str:
        """Return the headers of a 503, which say how long to wait."""
        return self.plain(request_id) + _retry_after(retry_after_ms)

    def decided(self, decision: Decision, request_id: str, kid: str = "") -> str:
        """Return the headers of a 200 or 429 that `decision` led to. On a 429 the reservation is the one asked for.

        `kid` names a rejected key that has no name.
        """
        if decision.path is not None:
            return self._decided_on_path(decision, request_id)
        # Written out by dimension, because every request pays for this (2 µs).
        limits = decision.limits
        lines = self._limit_lines.get(limits)
        if lines is None:
            lines = self._render_limits(limits)
        limit_requests, limit_input, limit_output = limits
        used_requests, used_input, used_output = decision.used
        left_requests = limit_requests - used_requests if limit_requests > used_requests else 0
        left_input = limit_input - used_input if limit_input > used_input else 0
        left_output = limit_output - used_output if limit_output > used_output else 0
        requests_ms, input_ms, output_ms = decision.reset_ms
        requests_reset = duration_text(requests_ms)
        # As a rule, the last admission is the newest use in every dimension.
        input_reset = requests_reset if input_ms == requests_ms else duration_text(input_ms)
        output_reset = requests_reset if output_ms == requests_ms else duration_text(output_ms)
        if left_input <= left_output:
            tighter_limit, tighter_left, tighter_reset = lines[1], left_input, input_reset
        else:
            tighter_limit, tighter_left, tighter_reset = lines[2], left_output, output_reset
        block = (
            f"{lines[0]}"
            f"x-ratelimit-remaining-requests: {left_requests}\r\n"
            f"x-ratelimit-reset-requests: {requests_reset}\r\n"
            f"x-ratelimit-remaining-input-tokens: {left_input}\r\n"
            f"x-ratelimit-reset-input-tokens: {input_reset}\r\n"
            f"x-ratelimit-remaining-output-tokens: {left_output}\r\n"
            f"x-ratelimit-reset-output-tokens: {output_reset}\r\n"
            f"{tighter_limit}"
            f"x-ratelimit-remaining-tokens: {tighter_left}\r\n"
            f"x-ratelimit-reset-tokens: {tighter_reset}\r\n"
            f'RateLimit: "rpm";r={left_requests};t={-(-requests_ms // 1_000)}, '
            f'"input-tpm";r={left_input};t={-(-input_ms // 1_000)}, '
            f'"output-tpm";r={left_output};t={-(-output_ms // 1_000)}\r\n'
            f"x-limiter-time-ms: {decision.time_ms}\r\n"
            f"x-limiter-input-tokens: {decision.need[1]}\r\n"
            f"x-limiter-reserved-output: {decision.need[2]}\r\n"
            f"x-request-id: {request_id}\r\n"
        )
        if decision.outcome is Outcome.ADMITTED and not decision.degraded:
            return block
        return block + _rest(decision, key_name(decision.name, kid), self._per)

    def _decided_on_path(self, decision: Decision, request_id: str) -> str:
        return (
            f"{self._plain}{self._path.lines(decision)}"
            f"x-limiter-time-ms: {decision.time_ms}\r\n"
            f"x-limiter-input-tokens: {decision.need[1]}\r\n"
            f"x-limiter-reserved-output: {decision.need[2]}\r\n"
            f"x-request-id: {request_id}\r\n"
            f"{_rest(decision, '', '')}"
        )

    def _render_limits(self, limits: Amounts) -> tuple[str, str, str]:
        """Return the lines that all decisions under `limits` share, and those with the limits of input and output."""
        if len(self._limit_lines) >= _MAX_CACHED_LIMITS:
            self._limit_lines.clear()
        requests, input_tokens, output_tokens = limits
        end = f";w={self._window_s}"
        block = (
            f"{self._plain}"
            f"x-ratelimit-limit-requests: {requests}\r\n"
            f"x-ratelimit-limit-input-tokens: {input_tokens}\r\n"
            f"x-ratelimit-limit-output-tokens: {output_tokens}\r\n"
            f'RateLimit-Policy: "rpm";q={requests}{end}, "input-tpm";q={input_tokens}{end}, '
            f'"output-tpm";q={output_tokens}{end}\r\n'
        )
        lines = (
            block,
            f"x-ratelimit-limit-tokens: {input_tokens}\r\n",
            f"x-ratelimit-limit-tokens: {output_tokens}\r\n",
        )
        self._limit_lines[limits] = lines
        return lines


def produced(output_tokens: int) -> str:
    """Return the header with an answer's cost. A stream has none: its cost isn't known when its head is sent."""
    return f"x-limiter-output-tokens: {output_tokens}\r\n"


def degraded(policy: str) -> str:
    """Return the header that names the policy that decided while the store could not be reached."""
    return f"x-limiter-degraded: {policy}\r\n"


def _rest(decision: Decision, who: str, per: str) -> str:
    """Return the lines of a decision that a policy made, or that rejected; "" for an admission by the store.

    `who` and `per`: a plain key and its window.
    """
    block = degraded(decision.degraded) if decision.degraded else ""
    if decision.outcome is Outcome.ADMITTED:
        return block
    block += f"x-limiter-exceeded: {UNITS[decision.dimension]}\r\n"
    if decision.path is not None:
        block += binding_limit(decision)
    else:
        block += f"x-limiter-limit: {header_text(f'{who} {UNITS[decision.dimension]}/{per}')}\r\n"
    if decision.outcome is Outcome.NEVER_FITS:
        return f"{block}x-should-retry: false\r\n"
    return block + _retry_after(decision.retry_after_ms)


def _retry_after(retry_after_ms: int) -> str:
    seconds = -(-retry_after_ms // 1_000)
    if retry_after_ms <= _LARGEST_WAIT_MS:
        seconds = min(seconds, _LARGEST_WAIT_S)
    return f"retry-after-ms: {retry_after_ms}\r\nretry-after: {seconds}\r\n"


def merged(block: str, lines: str) -> str:
    """Return `block` with `lines` in the place of those of the same names.

    Headers about limits are replaced together: half of a service's limits beside half of the key's would belong to
    neither.
    """
    if not lines:
        return block
    replaced = {_name_of(line) for line in lines.splitlines()}
    others = _OF_LIMITS if any(name.startswith(_OF_LIMITS) for name in replaced) else ()
    kept = [
        line
        for line in block.splitlines(keepends=True)
        if (name := _name_of(line)) not in replaced and not name.startswith(others)
    ]
    return "".join(kept) + lines


def _name_of(line: str) -> str:
    return line.partition(":")[0].lower()
