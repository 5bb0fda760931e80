"""The bodies of the routes that cost nothing, as bytes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import orjson

from limiter_node.decisions import Usage
from limiter_node.limits import DIMENSIONS


def models_list(models: Sequence[str], created: int) -> bytes:
    """Return the body of ``GET /v1/models``; `created` is in seconds since the epoch."""
    return orjson.dumps({"object": "list", "data": [_model(each, created) for each in models]})


def model_object(model: str, created: int) -> bytes:
    """Return the body of ``GET /v1/models/{id}``."""
    return orjson.dumps(_model(model, created))


def readiness(degraded: str) -> bytes:
    """Return the body of ``/readyz`` on a node that can decide. `degraded`: why a policy decides some requests."""
    if degraded:
        return orjson.dumps({"status": "degraded", "reason": degraded})
    return b'{"status":"ready"}'


def rate_limits(usage: Usage, window_ms: int) -> bytes:
    """Return the body of ``GET /v1/rate_limits``: limits, usage, remainder and ms to full, per dimension."""
    remaining = [max(0, limit - used) for limit, used in zip(usage.limits, usage.used, strict=True)]
    return orjson.dumps(
        {
            "object": "rate_limits",
            "window_ms": window_ms,
            "limits": dict(zip(DIMENSIONS, usage.limits, strict=True)),
            "used": dict(zip(DIMENSIONS, usage.used, strict=True)),
            "remaining": dict(zip(DIMENSIONS, remaining, strict=True)),
            "reset_ms": dict(zip(DIMENSIONS, usage.reset_ms, strict=True)),
        }
    )


def _model(model: str, created: int) -> dict[str, Any]:
    return {"id": model, "object": "model", "created": created, "owned_by": "limiter-node"}
