"""The limited routes, as data: the parser of each, and the need of its requests."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from limiter_node.decisions import Need
from limiter_node.http.requests.chat import need_of_chat, parse_chat
from limiter_node.http.requests.completions import need_of_completion, parse_completion
from limiter_node.http.requests.embeddings import need_of_embedding, parse_embedding
from limiter_node.http.requests.responses_api import need_of_responses_api, parse_responses_api
from limiter_node.upstream.interface import Draft


@dataclass(frozen=True, slots=True)
class LimitedRoute:
    """Describe one kind of limited request. `Any` stands for the type of its requests."""

    path: str
    parse: Callable[..., Any]
    """Takes the body and, optionally, a `Count` and `ExtraFields`. Raises `InvalidRequest` and nothing else."""
    need_of: Callable[[Any], Need]
    """Takes the request and returns its need, with the caller's name of the model only."""

    def need(self, request: Any, draft: Draft) -> Need:
        """Return the need of a request, with all names of its model."""
        need = self.need_of(request)
        return need._replace(models=draft.models) if draft.models else need


LIMITED_ROUTES = {
    route.path: route
    for route in (
        LimitedRoute("/v1/chat/completions", parse_chat, need_of_chat),
        LimitedRoute("/v1/completions", parse_completion, need_of_completion),
        LimitedRoute("/v1/responses", parse_responses_api, need_of_responses_api),
        LimitedRoute("/v1/embeddings", parse_embedding, need_of_embedding),
    )
}
"""By path."""
