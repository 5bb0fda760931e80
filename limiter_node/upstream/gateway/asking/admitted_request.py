"""What is kept of a request to read its answer, when its body has been sent: its outline, and what was reserved."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

from limiter_node.upstream.gateway.service import Service
from limiter_node.upstream.requests import (
    ChatRequest,
    CompletionRequest,
    EmbeddingRequest,
    LimitedRequest,
    ResponsesApiRequest,
)

PATHS: Final[Mapping[type[LimitedRequest], str]] = {
    ChatRequest: "chat/completions",
    CompletionRequest: "completions",
    ResponsesApiRequest: "responses",
    EmbeddingRequest: "embeddings",
}
"""Where each kind of request is sent, below a service's base URL."""


class RequestOutline(NamedTuple):
    """Hold as much of a request as is needed to read its answer, when its body has been sent."""

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


class AdmittedRequest(NamedTuple):
    """Hold an admitted request, all but the body that a service is sent."""

    request: RequestOutline
    reserved_tokens: int
    """Output tokens that are reserved in all: more may not be produced."""
    request_id: str
    headers: Mapping[str, str]
    """The caller's."""

    @property
    def cap_per_choice(self) -> int:
        """The part of the reserved tokens that each choice may have."""
        return self.reserved_tokens // (self.request.reserved_choices or 1)


def outline_of(request: LimitedRequest, service: Service) -> RequestOutline:
    """Return what has to be known of `request` when it has been sent to `service`."""
    if isinstance(request, EmbeddingRequest):
        return RequestOutline(EmbeddingRequest, request.model, 0, 0, None, False, False)
    return RequestOutline(
        type(request),
        request.model,
        request.n,
        request.reserved_choices,
        request.cap,
        request.stream,
        service.asks_usage and wants_usage_asked(request),
    )


def wants_usage_asked(request: LimitedRequest) -> bool:
    """Whether `request` streams chunks whose usage its caller doesn't ask for: services don't tell it by themselves."""
    return isinstance(request, ChatRequest | CompletionRequest) and request.stream and not request.include_usage
