"""The part of a request that reading its answer needs after the body was sent: an outline, and the reservation."""

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
"""The path of each kind of request, below a service's base URL."""


class RequestOutline(NamedTuple):
    """Hold the part of a request that reading its answer needs, after its body was sent."""

    kind: type[LimitedRequest]
    model: str
    """The caller's name for the model."""
    n: int
    """Choices asked for in all; 0 for embeddings."""
    reserved_choices: int
    """Choices that may be produced in all; 0 for embeddings."""
    cap: int | None
    """The caller's cap on the tokens of each choice; None if it set none."""
    stream: bool
    hides_usage: bool
    """Whether the service is asked for a usage that the caller must not see."""


class AdmittedRequest(NamedTuple):
    """Hold an admitted request without its body."""

    request: RequestOutline
    reserved_tokens: int
    """The output tokens reserved in all; no more may be produced."""
    request_id: str
    headers: Mapping[str, str]
    """The caller's headers."""

    @property
    def cap_per_choice(self) -> int:
        """The part of the reserved tokens that each choice may have."""
        return self.reserved_tokens // (self.request.reserved_choices or 1)


def outline_of(request: LimitedRequest, service: Service) -> RequestOutline:
    """Return the outline of `request`, which goes to `service`."""
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
    """Whether `request` streams chunks without asking for the usage, which services then don't send."""
    return isinstance(request, ChatRequest | CompletionRequest) and request.stream and not request.include_usage
