"""A valid body for each limited route, with more fields where a test wants them."""

from __future__ import annotations

import json
from typing import Any

from limiter_node.http.requests.limited_routes import LIMITED_ROUTES

CHAT, COMPLETION, RESPONSES, EMBEDDING = LIMITED_ROUTES
VALID: dict[str, dict[str, Any]] = {
    CHAT: {"model": "m", "messages": [{"role": "user", "content": "Hi"}]},
    COMPLETION: {"model": "m", "prompt": "Hi"},
    RESPONSES: {"model": "m", "input": "Hi"},
    EMBEDDING: {"model": "m", "input": "Hi"},
}


def written(route: str = CHAT, /, **fields: Any) -> bytes:
    """A valid body with `fields`."""
    return json.dumps({**VALID[route], **fields}, ensure_ascii=False).encode()
