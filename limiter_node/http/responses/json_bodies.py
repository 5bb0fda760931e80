"""The bodies of the routes that cost nothing, as bytes; `rate_limits_body` has another."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import orjson


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


def _model(model: str, created: int) -> dict[str, Any]:
    return {"id": model, "object": "model", "created": created, "owned_by": "limiter-node"}
