"""Parses the raw bytes of a response: the limiter's headers, the usage, the numbers of a rejection's message."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import orjson

from bench_client.records.response_usage import read_usage


class ResponseFacts(NamedTuple):
    """Hold the recorded fields of a response; None for missing ones."""

    status: int | None = None
    node: str | None = None
    time_ms: int | None = None
    exceeded: str | None = None
    retry_after_ms: int | None = None
    limit_requests: int | None = None
    limit_input: int | None = None
    limit_output: int | None = None
    remaining_requests: int | None = None
    remaining_input: int | None = None
    remaining_output: int | None = None
    reserved_output: int | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    requested: int | None = None
    never_fits: bool = False
    degraded: str | None = None
    upstream_status: int | None = None
    told_input: int | None = None
    told_input_at_most: int | None = None
    has_other_limits: bool = False
    limit: str | None = None
    audited: str | None = None
    policies: str | None = None
    states: str | None = None


NOTHING = ResponseFacts()

_FIELD_OF_HEADER = {
    b"x-limiter-node": "node",
    b"x-limiter-time-ms": "time_ms",
    b"x-limiter-exceeded": "exceeded",
    b"retry-after-ms": "retry_after_ms",
    b"x-ratelimit-limit-requests": "limit_requests",
    b"x-ratelimit-limit-input-tokens": "limit_input",
    b"x-ratelimit-limit-output-tokens": "limit_output",
    b"x-ratelimit-remaining-requests": "remaining_requests",
    b"x-ratelimit-remaining-input-tokens": "remaining_input",
    b"x-ratelimit-remaining-output-tokens": "remaining_output",
    b"x-limiter-reserved-output": "reserved_output",
    b"x-limiter-input-tokens": "charged_input",
    b"x-limiter-output-tokens": "charged_output",
    b"x-limiter-degraded": "degraded",
    b"x-limiter-upstream-status": "upstream_status",
    b"x-limiter-limit": "limit",
    b"x-limiter-audit": "audited",
    b"ratelimit-policy": "policies",
    b"ratelimit": "states",
    b"transfer-encoding": "chunked",
}
_TEXT_FIELDS = {"node", "exceeded", "degraded", "limit", "audited", "policies", "states", "chunked"}
_POLICY_NAME = re.compile(r'"([^"]*)"')
_USUAL_POLICIES = {"rpm", "input-tpm", "output-tpm"}
"""The names in `RateLimit-Policy` of a key's own three limits a minute."""
# A key may be named anything; of a limit that its caller must not see there is one number only.
_REQUESTED = re.compile(r"(?:Limit \d+(?:, Used \d+)?, |of its account: )Requested (\d+)")
_SPELLINGS_MAX = 1_000
_spellings: dict[bytes, str | None] = {}
"""Header names as servers spell them, so that each is lowered once instead of per response."""


def parse_response(raw: bytes) -> ResponseFacts:
    """Return the facts of one response. It may be cut off: an incomplete head gives none, half a body no usage."""
    head, end_of_head, body = raw.partition(b"\r\n\r\n")
    if not end_of_head:
        return NOTHING
    status_line, *lines = head.split(b"\r\n")
    status = _integer(status_line[9:12].decode("latin-1"))
    facts: dict[str, int | str | bool | None] = {"status": status}
    for line in lines:
        name, _, value = line.partition(b":")
        try:
            field = _spellings[name]
        except KeyError:
            field = _learned(name)
        if field is not None:
            text = value.strip().decode("latin-1")
            facts[field] = text if field in _TEXT_FIELDS else _integer(text)
    policies, states = facts.pop("policies", None), facts.pop("states", None)
    if _has_other_limits(policies, facts):  # for the usual three, x-ratelimit-* say the same in less space
        facts["has_other_limits"], facts["policies"], facts["states"] = True, policies, states
    charged = facts.pop("charged_input", None), facts.pop("charged_output", None)
    if "chunked" in str(facts.pop("chunked", "")).lower():
        body = _joined_chunks(body)
    if status == 200:
        # The charged amounts: a service behind a node may count its tokens in another way, or not report them.
        usage = read_usage(_document(body, "usage"))
        facts["prompt_tokens"] = usage.input_tokens if charged[0] is None else charged[0]
        facts["completion_tokens"] = usage.output_tokens if charged[1] is None else charged[1]
        facts["told_input"], facts["told_input_at_most"] = usage.input_tokens, usage.input_at_most
    elif status == 429 and "upstream_status" not in facts:
        facts["requested"], facts["never_fits"] = _rejection(body)
    return ResponseFacts(**facts)  # type: ignore[arg-type]


def _learned(name: bytes) -> str | None:
    field = _FIELD_OF_HEADER.get(name.lower())
    if len(_spellings) < _SPELLINGS_MAX:
        _spellings[name] = field
    return field


def _has_other_limits(policies: int | str | bool | None, facts: Mapping[str, int | str | bool | None]) -> bool:
    """Whether a decision names other limits than the usual three, some of them only, or none.

    A 429 of the service behind the limiter may name that service's own limits.
    """
    if facts.get("time_ms") is None or (facts["status"] == 429 and "upstream_status" in facts):
        return False
    if policies is None:
        return all(value is None for name, value in facts.items() if name.startswith("limit_"))
    return set(_POLICY_NAME.findall(str(policies))) != _USUAL_POLICIES


def _integer(text: str) -> int | None:
    digits = text[1:] if text.startswith("-") else text  # what must not be negative is for the audit to say
    return int(text) if digits.isascii() and digits.isdigit() else None


def _document(body: bytes, field: str) -> dict[str, object]:
    try:
        part = _parsed(body)[field]
    except (ValueError, RecursionError, LookupError, TypeError):
        return {}
    return part if isinstance(part, dict) else {}


def _parsed(body: bytes) -> Any:
    """Parse JSON. Raises ValueError or RecursionError.

    A limiter passes on what services send, and that isn't always JSON to the letter: ``NaN``, lone surrogates, half a
    character.
    """
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        return json.loads(body.decode("utf-8", "replace"))


def _rejection(body: bytes) -> tuple[int | None, bool]:
    message = str(_document(body, "error").get("message", ""))
    match = _REQUESTED.search(message)
    return int(match[1]) if match else None, message.startswith("Request too large")


def _joined_chunks(body: bytes) -> bytes:
    """Join the chunks in O(n): an answer of 100 MB comes in thousands of them."""
    parts, at = [], 0
    while (end := body.find(b"\r\n", at)) >= 0:
        try:
            length = int(body[at:end].split(b";")[0], 16)
        except ValueError:
            break
        if length <= 0:
            break
        parts.append(body[end + 2 : end + 2 + length])
        at = end + length + 4
    return b"".join(parts)
