"""What a service is sent: the caller's body with the cap that it was admitted for, and few headers.

A body passes as it came wherever that says what was admitted. What is added (a cap, the wish for a usage) is put behind
the last field, the rest untouched; a body is written anew only where a field has to change: a model with another name
there, caps that contradict each other, a field that comes twice. All but the cap is done before the request is
admitted, so that what it was read from isn't held while it waits.

Of the caller's headers only those pass that say something about the request: none that names a host, a user or a
connection, none that could make one caller's answer another's.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import orjson

from limiter_node.credentials import given_key
from limiter_node.upstream.errors import NotServed
from limiter_node.upstream.gateway.asking.disguise import is_ambiguous
from limiter_node.upstream.gateway.service import CAP_FIELDS, Service
from limiter_node.upstream.requests import (
    ChatRequest,
    CompletionRequest,
    EmbeddingRequest,
    LimitedRequest,
    ResponsesRequest,
)

PATHS: Final[Mapping[type[LimitedRequest], str]] = {
    ChatRequest: "chat/completions",
    CompletionRequest: "completions",
    ResponsesRequest: "responses",
    EmbeddingRequest: "embeddings",
}
"""Below a service's base URL."""

_PASSED = ("openai-beta", "traceparent", "tracestate")
_MAX_VALUE_CHARS = 1_024


class Question(NamedTuple):
    """As much of a request as is needed to read its answer, when its body has been sent."""

    kind: type[LimitedRequest]
    model: str
    """As the caller calls it."""
    n: int
    """Choices asked for in all; 0 for embeddings."""
    reserved_choices: int
    """Choices that may be produced in all; 0 for embeddings."""
    cap: int | None
    """The caller's cap on the tokens of each choice; None where it set none."""
    stream: bool
    hides_usage: bool
    """Whether the service is asked for a usage that the caller isn't to see."""


class Ask(NamedTuple):
    """An admitted request, as a service is asked it."""

    request: Question
    reserved_tokens: int
    """Output tokens that are reserved in all: more may not be produced."""
    request_id: str
    headers: Mapping[str, str]
    """The caller's."""

    @property
    def cap_per_choice(self) -> int:
        """The part of the reserved tokens that each choice may have."""
        return self.reserved_tokens // (self.request.reserved_choices or 1)


class OutgoingBody(NamedTuple):
    """A body for a service, all but the cap that is only known when the request is admitted."""

    data: bytes | bytearray
    """An object with at least one field, none of which is among `added` or is `cap_field`."""
    added: Mapping[str, Any]
    """Fields to put behind the last."""
    cap_field: str
    """The name of the cap to add, too; empty where the caller set one or none is enforced."""

    def with_cap(self, cap: int) -> bytes | bytearray:
        """Return the body for a request of which each choice may have `cap` tokens."""
        added = {**self.added, self.cap_field: cap} if self.cap_field else self.added
        if not added:
            return self.data
        data = self.data
        # One copy, because it may be large; behind its end there is nothing but blanks.
        return b"".join((memoryview(data)[: data.rindex(b"}")], b",", orjson.dumps(added)[1:]))


def question_of(request: LimitedRequest, service: Service) -> Question:
    """Return what has to be known of `request` when it has been sent to `service`."""
    if isinstance(request, EmbeddingRequest):
        return Question(EmbeddingRequest, request.model, 0, 0, None, False, False)
    return Question(
        type(request),
        request.model,
        request.n,
        request.reserved_choices,
        request.cap,
        request.stream,
        service.asks_usage and _wants_usage_asked(request),
    )


def outgoing_parts(
    request: LimitedRequest, body: bytes, service: Service, model: str
) -> tuple[bytes, Mapping[str, Any], str]:
    """The parts of an `OutgoingBody`: `body`, which says `request`, for `service`, which calls the model `model`.

    Raises `NotServed` for a body that has to be written anew and can't be. O(length).
    """
    fields, (added, cap_field) = request.body, _caps(request, service)
    if model != request.model:
        added["model"] = model
    if service.asks_usage and _wants_usage_asked(request):
        added["stream_options"] = {**(fields.get("stream_options") or {}), "include_usage": True}
    if added.keys().isdisjoint(fields) and not (cap_field and cap_field in fields) and not is_ambiguous(body, fields):
        return body, added, cap_field
    anew = {**fields, **added}
    if cap_field:
        anew.pop(cap_field, None)
    try:
        return orjson.dumps(anew), {}, cap_field
    except TypeError:
        raise NotServed("The JSON body of your request is nested too deeply.", None, None) from None


def _wants_usage_asked(request: LimitedRequest) -> bool:
    """Whether `request` streams chunks whose usage its caller doesn't ask for: then services don't tell it."""
    return isinstance(request, ChatRequest | CompletionRequest) and request.stream and not request.include_usage


def _caps(request: LimitedRequest, service: Service) -> tuple[dict[str, Any], str]:
    """Return the fields about the cap to add to the caller's, and the name of a cap of our own, if there is one."""
    if isinstance(request, EmbeddingRequest) or (request.cap is None and not service.enforces_cap):
        return {}, ""
    if isinstance(request, ResponsesRequest):
        return {}, "max_output_tokens" if request.cap is None else ""
    if isinstance(request, CompletionRequest):
        return {}, "max_tokens" if request.cap is None else ""
    if request.cap is None:
        return {}, service.cap_field
    fields, cap = request.body, request.cap
    said = {name: fields[name] for name in CAP_FIELDS if fields.get(name) is not None}
    wrong = {name: cap for name, value in said.items() if value != cap}
    if service.cap_field not in said and service.cap_field == CAP_FIELDS[0]:
        wrong[service.cap_field] = cap  # the caller's name for it isn't known everywhere
    return wrong, ""


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
