"""The limited routes, as data: how each reads a request, and what it needs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from limiter_node.http.completion_request import completion_need, parse_completion
from limiter_node.http.embedding_request import embedding_need, parse_embedding
from limiter_node.http.openai_request import need_of, parse_chat
from limiter_node.http.responses_request import parse_responses, responses_need
from limiter_node.http.totals import Total
from limiter_node.model import Need
from limiter_node.token_process import INLINE_CHARS, TokenCounting


@dataclass(frozen=True, slots=True)
class LimitedRoute:
    """One kind of request that is decided. `Any` is the kind's request."""

    parse: Callable[..., Any]
    """Takes the body and, optionally, a `Count`. Raises `InvalidRequest` and nothing else."""
    need: Callable[[Any], Need]

    async def read(self, body: bytes, counting: TokenCounting) -> Any:
        """`parse` for a body of any size: the tokens of a large one are counted apart.

        Raises `InvalidRequest`, and what `TokenCounting.count` raises.
        """
        # A body has no fewer bytes than its texts have characters.
        if len(body) <= INLINE_CHARS:
            return self.parse(body)
        later: list[tuple[str, Total]] = []

        def postpone(model: str, total: Total) -> int:
            later.append((model, total))
            return 0

        asked = self.parse(body, postpone)
        model, total = later.pop()
        return asked._replace(input_tokens=await counting.count(model, total))


LIMITED_ROUTES = {
    "/v1/chat/completions": LimitedRoute(parse_chat, need_of),
    "/v1/completions": LimitedRoute(parse_completion, completion_need),
    "/v1/responses": LimitedRoute(parse_responses, responses_need),
    "/v1/embeddings": LimitedRoute(parse_embedding, embedding_need),
}
"""By path."""
