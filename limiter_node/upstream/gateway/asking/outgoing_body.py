"""The body that a service gets: the caller's, with the cap that it was admitted for.

A body passes unchanged if it says what was admitted. New fields (a cap, the wish for a usage) are added behind the last
field, the rest untouched. A body is written anew only if a field has to change: a model with another name there, caps
that contradict each other, a field that comes twice. All but the cap is done before the request is admitted, so that
its source isn't held while it waits.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import orjson

from limiter_node.upstream.errors import NotServed
from limiter_node.upstream.gateway.asking.admitted_request import wants_usage_asked
from limiter_node.upstream.gateway.asking.disguise import is_ambiguous
from limiter_node.upstream.gateway.service import CAP_FIELDS, Service
from limiter_node.upstream.requests import CompletionRequest, EmbeddingRequest, LimitedRequest, ResponsesApiRequest


class OutgoingBody(NamedTuple):
    """Hold a body for a service without the cap, which is only known when the request is admitted."""

    data: bytes | bytearray
    """An object with at least one field, none of which is among `added` or is `cap_field`."""
    added: Mapping[str, Any]
    """Fields to put behind the last."""
    cap_field: str
    """The name of the cap to add as well; empty if the caller set one or none is enforced."""

    def with_cap(self, cap: int) -> bytes | bytearray:
        """Return the body of a request whose choices may have `cap` tokens each."""
        added = {**self.added, self.cap_field: cap} if self.cap_field else self.added
        if not added:
            return self.data
        data = self.data
        # One copy, because the body may be large; only blanks follow its end.
        return b"".join((memoryview(data)[: data.rindex(b"}")], b",", orjson.dumps(added)[1:]))


def outgoing_parts(
    request: LimitedRequest, body: bytes, service: Service, model: str
) -> tuple[bytes, Mapping[str, Any], str]:
    """Return the parts of an `OutgoingBody` for `service`, which calls the model `model`.

    `body` is the source of `request`. Raises `NotServed` for a body that has to be written anew and can't be.
    O(length).
    """
    fields, (added, cap_field) = request.body, _caps(request, service)
    if model != request.model:
        added["model"] = model
    if service.asks_usage and wants_usage_asked(request):
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


def _caps(request: LimitedRequest, service: Service) -> tuple[dict[str, Any], str]:
    """Return the cap's fields to add to the caller's, and the name of a cap of our own, if there is one."""
    if isinstance(request, EmbeddingRequest) or (request.cap is None and not service.enforces_cap):
        return {}, ""
    if isinstance(request, ResponsesApiRequest):
        return {}, "max_output_tokens" if request.cap is None else ""
    if isinstance(request, CompletionRequest):
        return {}, "max_tokens" if request.cap is None else ""
    if request.cap is None:
        return {}, service.cap_field
    fields, cap = request.body, request.cap
    given = {name: fields[name] for name in CAP_FIELDS if fields.get(name) is not None}
    wrong = {name: cap for name, value in given.items() if value != cap}
    if service.cap_field not in given and service.cap_field == CAP_FIELDS[0]:
        wrong[service.cap_field] = cap  # not every service knows the caller's name for it
    return wrong, ""
