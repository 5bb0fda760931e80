"""What a service is sent: the caller's body with the cap that it was admitted for, and few headers.

A body passes as it came wherever that says what was admitted. What is added (a cap, the wish for a usage) is put behind
the last field, the rest untouched; a body is written anew only where a field has to change: a model with another name
there, caps that contradict each other, a field that comes twice.

Of the caller's headers only those pass that say something about the request: none that names a host, a user or a
connection, none that could make one caller's answer another's.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import orjson

from limiter_node.credentials import given_key
from limiter_node.upstream.base import (
    Ask,
    ChatRequest,
    CompletionRequest,
    EmbeddingRequest,
    LimitedRequest,
    ResponsesRequest,
    UpstreamRefusal,
)
from limiter_node.upstream.gateway.disguise import is_ambiguous
from limiter_node.upstream.gateway.service import CAP_FIELDS, Service
from limiter_node.upstream.openai.error import error_body

PATHS: Final[Mapping[type[LimitedRequest], str]] = {
    ChatRequest: "chat/completions",
    CompletionRequest: "completions",
    ResponsesRequest: "responses",
    EmbeddingRequest: "embeddings",
}
"""Below a service's base URL."""

_PASSED = ("openai-beta", "traceparent", "tracestate")
_MAX_VALUE_CHARS = 1_024
_TOO_DEEP = error_body("The JSON body of your request is nested too deeply.", "invalid_request_error")


def outgoing_body(ask: Ask, service: Service, model: str) -> bytes:
    """The body for `service`, which calls the model `model`. Raises `UpstreamRefusal` for one that can't be written."""
    request = ask.request
    fields, added = request.body, _caps(ask, service)
    if model != request.model:
        added["model"] = model
    if service.asks_usage and wants_usage_asked(request):
        added["stream_options"] = {**(fields.get("stream_options") or {}), "include_usage": True}
    if not is_ambiguous(ask.body, fields):
        if not added:
            return ask.body
        if added.keys().isdisjoint(fields):
            # It is an object with at least a model, so there is a last field.
            return b"%b,%b" % (ask.body.rstrip(b" \t\r\n")[:-1], orjson.dumps(added)[1:])
    try:
        return orjson.dumps({**fields, **added})
    except TypeError:
        raise UpstreamRefusal("nested too deeply", status=400, body=_TOO_DEEP) from None


def wants_usage_asked(request: LimitedRequest) -> bool:
    """Whether `request` streams chunks whose usage its caller doesn't ask for: then services don't tell it."""
    return isinstance(request, ChatRequest | CompletionRequest) and request.stream and not request.include_usage


def _caps(ask: Ask, service: Service) -> dict[str, Any]:
    """What has to be said about the cap beyond what the caller says."""
    request = ask.request
    if isinstance(request, EmbeddingRequest) or (request.cap is None and not service.enforces_cap):
        return {}
    cap = ask.cap_per_choice
    if isinstance(request, ResponsesRequest):
        return {"max_output_tokens": cap} if request.cap is None else {}
    if isinstance(request, CompletionRequest):
        return {"max_tokens": cap} if request.cap is None else {}
    fields = request.body
    said = {name: fields[name] for name in CAP_FIELDS if fields.get(name) is not None}
    wrong = {name: cap for name, value in said.items() if value != cap}
    if not said or (service.cap_field not in said and service.cap_field == CAP_FIELDS[0]):
        wrong[service.cap_field] = cap  # the caller's name for it isn't known everywhere
    return wrong


def outgoing_headers(ask: Ask, service: Service, user_agent: str) -> dict[str, str]:
    """The headers for `service`, but for those that HTTP itself needs."""
    headers = {
        "Content-Type": "application/json",
        # Usage has to be read, and callers get what they asked us for.
        "Accept-Encoding": "identity",
        "User-Agent": user_agent,
        "x-request-id": ask.request_id,
    }
    given = ask.headers
    if service.forwards_key:
        headers["Authorization"] = f"Bearer {given_key(given) or ''}"
    elif service.key:
        headers["Authorization"] = f"Bearer {service.key}"
    for name in _PASSED:
        value = given.get(name)
        if value is not None and len(value) <= _MAX_VALUE_CHARS and value.isascii() and value.isprintable():
            headers[name] = value
    return headers
